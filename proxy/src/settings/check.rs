//! What settings must be together: no port twice, nothing that reveals or lends the workload's identity beyond
//! loopback, no connection in a circle.

use super::{Settings, SettingsError};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

impl Settings {
    /// Checks that the settings make sense together.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        if !self.workload.as_str().contains('/') {
            return Err(SettingsError::new(format_args!(
                "workload: {:?} is not NAMESPACE/NAME, for instance shop/cart-1",
                self.workload.as_str()
            )));
        }
        let loopback = [
            Some(("admin.listen", self.admin)),
            self.outbound.listen.map(|listen| ("outbound.listen", listen)),
        ];
        let services = self.outbound.services.iter().map(|entry| ("outbound.services", entry.listen));
        for (setting, address) in loopback.into_iter().flatten().chain(services) {
            if !address.ip().to_canonical().is_loopback() {
                return Err(SettingsError::new(format_args!(
                    "{setting}: {address} is not a loopback address; whoever reaches it acts as this workload, \
                     so use 127.0.0.1 or [::1]"
                )));
            }
        }
        if let Some(capture) = &self.capture {
            capture.check(self.metrics)?;
            if let Some(entry) = self.inbound.first() {
                return Err(SettingsError::new(format_args!(
                    "inbound: {} is for the explicit mode; with capture.mode `transparent` an application is reached at \
                     the address that was dialled, so leave `inbound` out",
                    entry.listen
                )));
            }
        }
        let all = self.listeners();
        for (index, (setting, address)) in all.iter().enumerate() {
            for (other, taken) in &all[..index] {
                if collide(*address, *taken) {
                    return Err(SettingsError::new(format_args!(
                        "{setting}: {address} collides with {other}: {taken}; give one of them another port"
                    )));
                }
            }
        }
        for entry in &self.inbound {
            if entry.application.port() == 0 || entry.application.ip().is_unspecified() {
                return Err(SettingsError::new(format_args!(
                    "inbound: {} is no address to connect to; give the application's own address and port",
                    entry.application
                )));
            }
            if let Some((own, _)) = all.iter().find(|(_, own)| collide(*own, entry.application)) {
                return Err(SettingsError::new(format_args!(
                    "inbound: the application's address {} is this proxy's own {own}; connections would run in \
                     a circle",
                    entry.application
                )));
            }
        }
        let mut seen = BTreeMap::new();
        for entry in &self.outbound.services {
            if let Some(listen) = seen.insert((&entry.service, entry.port), entry.listen) {
                return Err(SettingsError::new(format_args!(
                    "outbound.services: {}:{} comes twice, at {listen} and {}; leave one of them out",
                    entry.service, entry.port, entry.listen
                )));
            }
        }
        if let Some((name, value, min, max)) = self.outbound.wrong().or_else(|| self.tcp.wrong()) {
            return Err(SettingsError::new(format_args!(
                "{name}: {value:?} is not between {min:?} and {max:?}; leave it out for the default"
            )));
        }
        if self.last_good_age_max.is_zero() {
            return Err(SettingsError::new(
                "lastGood.maxAge: 0s would refuse every restart without the control API; use for instance 24h",
            ));
        }
        Ok(())
    }
}

/// Whether two sockets cannot both be bound. Port 0 is whatever is free.
pub(super) fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    if one.port() != other.port() || one.port() == 0 {
        return false;
    }
    let (one, other) = (one.ip().to_canonical(), other.ip().to_canonical());
    let covers = |wide: IpAddr, narrow: IpAddr| match wide {
        // A socket on [::] takes IPv4 as well.
        IpAddr::V6(address) => address.is_unspecified(),
        IpAddr::V4(address) => address.is_unspecified() && narrow.is_ipv4(),
    };
    one == other || covers(one, other) || covers(other, one)
}
