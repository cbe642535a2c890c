//! One pod: a network namespace that a thread keeps. What that thread creates (sockets, processes)
//! lives in the pod, from wherever it is used later.

use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// A namespace of its own with one interface, `eth0`.
#[derive(Debug)]
pub struct Pod {
    address: IpAddr,
    outer_interface: String,
    jobs: mpsc::Sender<Job>,
    namespace: File,
}

impl Pod {
    /// A pod that has no interface yet.
    pub(crate) fn new(address: IpAddr, outer_interface: String) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (made, namespace) = mpsc::channel();
        // Detached: it ends when the pod, which holds the other end, is dropped.
        std::thread::Builder::new().name(format!("pod {address}")).spawn(move || {
            let entered = unshare(CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .and_then(|()| File::open("/proc/thread-self/ns/net"));
            if made.send(entered).is_ok() {
                queue.into_iter().for_each(|job| job());
            }
        })?;
        let namespace = namespace.recv().map_err(|_| ended())??;
        Ok(Self { address, outer_interface, jobs, namespace })
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The other end of its interface, in the network's own namespace.
    pub fn outer_interface(&self) -> &str {
        &self.outer_interface
    }

    pub(crate) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Does something in the pod, on its thread, one thing after the other.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let (done, outcome) = mpsc::channel();
        let job: Job = Box::new(move || {
            // Nobody waits any more only when all is over.
            let _ = done.send(job());
        });
        self.jobs.send(job).map_err(|_| ended())?;
        outcome.recv().map_err(|_| ended())
    }

    /// Starts a program in the pod.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        self.run(move || command.spawn())?
    }

    /// Connects from the pod, as any program in it would.
    pub fn connect(&self, address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        self.run(move || TcpStream::connect_timeout(&address, timeout))?
    }
}

fn ended() -> io::Error {
    io::Error::other("a pod's thread has ended")
}
