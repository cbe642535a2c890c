//! The wires between pods: a bridge, and for each pod a pair of interfaces with one end on it.

use crate::pod::Pod;
use futures_util::TryStreamExt;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

/// Addresses of pods are on-link in all of 10.0.0.0/8, so that pods can have any.
const PREFIX: u8 = 8;

/// A bridge with pods on it.
#[derive(Debug)]
pub struct Network {
    handle: Handle,
    bridge: u32,
    pods: Cell<u32>,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel does not do it.
    #[error("the kernel does not {0}")]
    Kernel(&'static str, #[source] rtnetlink::Error),
    /// A thread, a file or a socket is not to be had.
    #[error("a pod cannot be made")]
    Pod(#[source] io::Error),
    /// An interface that was just made.
    #[error("the interface {0} is not there")]
    Missing(String),
}

impl Network {
    /// A network without pods. Needs a runtime that goes on for as long as pods are added.
    pub async fn new() -> Result<Self, NetworkError> {
        let handle = connection().map_err(NetworkError::Pod)?;
        let bridge = LinkBridge::new("weft0").mcast_snooping(false).forward_delay(0).up().build();
        handle.link().add(bridge).execute().await.map_err(kernel("make a bridge"))?;
        let bridge = index(&handle, "weft0").await?;
        Ok(Self { handle, bridge, pods: Cell::new(0) })
    }

    /// A pod at that address.
    pub async fn pod(&self, address: Ipv4Addr) -> Result<Pod, NetworkError> {
        let number = self.pods.get() + 1;
        self.pods.set(number);
        let port = format!("pod{number}");
        let pod = Pod::new(address.into(), port.clone()).map_err(NetworkError::Pod)?;
        let links = || self.handle.link();
        let pair = LinkVeth::new(&port, "eth0").build();
        links().add(pair).execute().await.map_err(kernel("make a pair of interfaces"))?;
        let inner = LinkUnspec::new_with_index(index(&self.handle, "eth0").await?)
            .setns_by_fd(pod.namespace().as_raw_fd());
        links().change(inner.build()).execute().await.map_err(kernel("move an interface into a pod"))?;
        let outer =
            LinkUnspec::new_with_index(index(&self.handle, &port).await?).controller(self.bridge).up();
        links().change(outer.build()).execute().await.map_err(kernel("put an interface on the bridge"))?;
        pod.run(move || within(address)).map_err(NetworkError::Pod)??;
        Ok(pod)
    }
}

/// What is done in the pod, on its thread.
fn within(address: Ipv4Addr) -> Result<(), NetworkError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(NetworkError::Pod)?.block_on(async {
        let handle = connection().map_err(NetworkError::Pod)?;
        for interface in ["lo", "eth0"] {
            let up = LinkUnspec::new_with_index(index(&handle, interface).await?).up();
            handle.link().change(up.build()).execute().await.map_err(kernel("switch an interface on"))?;
        }
        let eth0 = index(&handle, "eth0").await?;
        let take = handle.address().add(eth0, IpAddr::V4(address), PREFIX);
        take.execute().await.map_err(kernel("give a pod its address"))?;
        // So that a call to any address leaves, and can be redirected.
        let route = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(eth0).build();
        handle.route().add(route).execute().await.map_err(kernel("take a default route"))
    })
}

fn kernel(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    move |error| NetworkError::Kernel(what, error)
}

fn connection() -> io::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    weft_runtime::spawn("netlink", connection);
    Ok(handle)
}

/// The number of an interface in the namespace that the handle was made in.
async fn index(handle: &Handle, interface: &str) -> Result<u32, NetworkError> {
    let mut found = handle.link().get().match_name(interface.to_owned()).execute();
    let message = found.try_next().await.map_err(kernel("show an interface"))?;
    message.map(|message| message.header.index).ok_or_else(|| NetworkError::Missing(interface.to_owned()))
}
