//! What workers and [`Tls`](crate::tls::Tls) get of what is held: the own policies, the trust bundles,
//! the whole [`Policy`]. What is named and not held is passed on as not held, which denies.

use super::apply::Store;
use super::questions::Answer;
use crate::policy::{Own, Policy, Resolution};
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_model::authentication::TlsModes;
use weft_model::authorization::AuthorizationSet;
use weft_model::mesh::{MeshConfig, OutboundTraffic};
use weft_model::names::ResourceName;
use weft_model::request_authentication::RequestAuthenticationSet;
use weft_model::spiffe::TrustDomain;
use weft_model::trust::TrustBundle;
use weft_model::wire::{Kind, Resource};

/// What holds while the mesh's configuration is not held or not understood: nothing weaker than it could
/// be.
fn config_unknown() -> MeshConfig {
    MeshConfig { outbound_traffic: OutboundTraffic::RegistryOnly, ..MeshConfig::default() }
}

impl Store {
    pub(super) fn build_own(&self) -> Own {
        let Some(workload) = self.find(Kind::Workload, self.uid.as_str(), |resource| match resource {
            Resource::Workload(workload) => Some(workload),
            _ => None,
        }) else {
            return Own::default();
        };
        let config = self.config();
        let authorizations = workload.authorizations.iter().map(|name| {
            let held = self.get(Kind::Authorization, name, |resource| match resource {
                Resource::Authorization(policy) => Some(policy),
                _ => None,
            });
            (name.clone(), held)
        });
        let mesh: ResourceName = "mesh".parse().expect("a constant resource name must parse");
        let mesh = config.is_none().then_some((mesh, None));
        let named: Vec<_> = authorizations.chain(mesh).collect();
        // Joining many policies takes its time: what is the same stays.
        let authorization = if self.own.authorization.is_of(&named) {
            self.own.authorization.clone()
        } else {
            Arc::new(AuthorizationSet::new(named))
        };
        let policies: Vec<_> = workload
            .peer_authentications
            .iter()
            .map(|name| {
                self.get(Kind::PeerAuthentication, name, |resource| match resource {
                    Resource::PeerAuthentication(policy) => Some(policy),
                    _ => None,
                })
            })
            .collect();
        let tokens = workload.request_authentications.iter().map(|name| {
            let held = self.get(Kind::RequestAuthentication, name, |resource| match resource {
                Resource::RequestAuthentication(policy) => Some(policy),
                _ => None,
            });
            (name.clone(), held)
        });
        let tokens = RequestAuthenticationSet::new(tokens);
        // Kept where nothing of it changed: workers remember which tokens it accepted.
        let tokens = if *self.own.tokens == tokens { self.own.tokens.clone() } else { Arc::new(tokens) };
        let default = config.map_or_else(Default::default, |config| config.peer_authentication_default);
        let tls = TlsModes::new(default, policies.iter().map(Option::as_ref));
        let mut names: Vec<_> = workload.ports.iter().flat_map(|port| &port.traffic_policies).collect();
        names.sort();
        names.dedup();
        let traffic = names.into_iter().map(|name| {
            let held = self.get(Kind::TrafficPolicy, name, |resource| match resource {
                Resource::TrafficPolicy(policy) => Some(policy),
                _ => None,
            });
            (name.clone(), held)
        });
        let traffic = traffic.collect();
        Own {
            description: Arc::new(workload.description.clone()),
            workload: Some(workload),
            authorization,
            tls,
            tokens,
            traffic,
        }
    }

    pub(super) fn config(&self) -> Option<Arc<MeshConfig>> {
        self.find(Kind::MeshConfig, "mesh", |resource| match resource {
            Resource::MeshConfig(config) => Some(config),
            _ => None,
        })
    }

    pub(super) fn bundles(&self) -> BTreeMap<TrustDomain, Option<Arc<TrustBundle>>> {
        let mut bundles = BTreeMap::new();
        for (kind, name) in &self.not_understood {
            if *kind == Kind::TrustBundle
                && let Ok(trust_domain) = name.as_str().parse()
            {
                bundles.insert(trust_domain, None);
            }
        }
        for entry in self.held[Kind::TrustBundle as usize].values() {
            if let Resource::TrustBundle(bundle) = &entry.resource {
                bundles.insert(bundle.trust_domain.clone(), Some(bundle.clone()));
            }
        }
        bundles
    }

    pub(super) fn policy(&self) -> Policy {
        let resolved = self.questions.answers().filter_map(|(asked, answer)| {
            let resolution = match answer {
                Answer::Absent => Resolution::Absent,
                // Where it exists and was refused: not known, which is not the same as not there.
                Answer::Named(name) => Resolution::Known(self.views.destination(name)?.clone()),
            };
            Some((asked.clone(), resolution))
        });
        Policy {
            generation: self.generation().cloned(),
            config: self.config().unwrap_or_else(|| Arc::new(config_unknown())),
            own: self.own.clone(),
            destinations: resolved.collect(),
            stale: self.stale,
            too_old: self.too_old,
            ..Policy::default()
        }
    }
}
