//! How a workload's clients must connect: PeerAuthentication.
//!
//! The narrowest scope that says something decides: a port of the workload's own policy, then that
//! policy, then the namespace's, then the mesh's, then MeshConfig's default. Weft's default is
//! STRICT. A policy that is named and not held means STRICT: nothing weaker can be assumed.

use crate::authorization::Provenance;
use crate::names::{Name, Namespace};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a port accepts.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum TlsMode {
    /// Mutual TLS of the mesh, and nothing else.
    #[default]
    Strict,
    /// Mutual TLS, and plaintext, which is counted.
    Permissive,
    /// Plaintext only.
    Disable,
}

/// How far a policy reaches.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PolicyScope {
    /// All workloads: it lies in the root namespace and has no selector.
    Mesh,
    /// The workloads of its namespace: it has no selector.
    Namespace,
    /// The workloads that its selector names.
    Workload,
}

/// One policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerAuthentication {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: Name,
    /// How far it reaches.
    pub scope: PolicyScope,
    /// `None`: inherit from the wider scope (UNSET).
    pub mode: Option<TlsMode>,
    /// By the workload's port.
    pub ports: BTreeMap<u16, Option<TlsMode>>,
    /// Where it was written.
    pub provenance: Provenance,
}

/// What holds for one workload.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TlsModes {
    mode: TlsMode,
    ports: BTreeMap<u16, TlsMode>,
}

impl TlsModes {
    /// Joins the policies that a workload names; `None` stands for one that is not held. Of several
    /// policies of one scope the stricter mode holds (Istio: the oldest; age is not known in files).
    pub fn new<'a>(
        default: TlsMode,
        named: impl IntoIterator<Item = Option<&'a Arc<PeerAuthentication>>>,
    ) -> Self {
        let mut policies = Vec::new();
        for policy in named {
            match policy {
                Some(policy) => policies.push(policy),
                None => return Self::default(),
            }
        }
        policies.sort_by_key(|policy| policy.scope);
        let mut mode = default;
        for scope in [PolicyScope::Mesh, PolicyScope::Namespace, PolicyScope::Workload] {
            let said =
                policies.iter().filter(|policy| policy.scope == scope).filter_map(|policy| policy.mode);
            if let Some(said) = said.min_by_key(|mode| strictness(*mode)) {
                mode = said;
            }
        }
        let mut ports: BTreeMap<u16, TlsMode> = BTreeMap::new();
        for policy in policies.iter().filter(|policy| policy.scope == PolicyScope::Workload) {
            for (port, said) in &policy.ports {
                let said = said.unwrap_or(mode);
                ports
                    .entry(*port)
                    .and_modify(|held| {
                        if strictness(said) < strictness(*held) {
                            *held = said;
                        }
                    })
                    .or_insert(said);
            }
        }
        Self { mode, ports }
    }

    /// What the port accepts.
    pub fn of_port(&self, port: u16) -> TlsMode {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }
}

fn strictness(mode: TlsMode) -> u8 {
    match mode {
        TlsMode::Strict => 0,
        TlsMode::Permissive => 1,
        TlsMode::Disable => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(
        scope: PolicyScope,
        mode: Option<TlsMode>,
        ports: &[(u16, Option<TlsMode>)],
    ) -> Arc<PeerAuthentication> {
        Arc::new(PeerAuthentication {
            namespace: "shop".parse().unwrap(),
            name: "default".parse().unwrap(),
            scope,
            mode,
            ports: ports.iter().copied().collect(),
            provenance: Provenance::default(),
        })
    }

    #[test]
    fn the_narrowest_scope_that_speaks_decides() {
        let mesh = policy(PolicyScope::Mesh, Some(TlsMode::Permissive), &[]);
        let namespace = policy(PolicyScope::Namespace, None, &[]);
        let workload =
            policy(PolicyScope::Workload, Some(TlsMode::Strict), &[(81, Some(TlsMode::Disable)), (82, None)]);
        let modes = TlsModes::new(TlsMode::Strict, [Some(&workload), Some(&mesh), Some(&namespace)]);
        assert_eq!(modes.of_port(80), TlsMode::Strict);
        assert_eq!(modes.of_port(81), TlsMode::Disable);
        assert_eq!(modes.of_port(82), TlsMode::Strict);
        let modes = TlsModes::new(TlsMode::Strict, [Some(&mesh), Some(&namespace)]);
        assert_eq!(modes.of_port(80), TlsMode::Permissive);
    }

    #[test]
    fn a_policy_that_is_not_held_means_strict() {
        let mesh = policy(PolicyScope::Mesh, Some(TlsMode::Disable), &[]);
        assert_eq!(TlsModes::new(TlsMode::Disable, [Some(&mesh), None]).of_port(80), TlsMode::Strict);
    }
}
