//! The metric families of the control API, `weft_control_*`. Labels are the authority's own words
//! (resource types, outcomes); no name that a peer sent ever becomes one.

use weft_model::wire::Kind;
use weft_runtime::registry::{CounterFamily, GaugeFamily, Registry, RegistryError};

/// All families.
#[derive(Debug)]
pub struct Metrics {
    /// Proxies with an open discovery stream.
    pub connected_proxies: GaugeFamily<0>,
    /// Open connections to the gRPC port.
    pub connections: GaugeFamily<0>,
    /// Handshakes that failed, by reason.
    pub handshake_failures: CounterFamily<1>,
    /// Responses sent to proxies, by resource type.
    pub pushes: CounterFamily<1>,
    /// Resources that a proxy refused, by resource type.
    pub nacks: CounterFamily<1>,
    /// The number of the current generation.
    pub generation: GaugeFamily<0>,
    /// Files that are not served as they are, because of errors.
    pub source_errors: GaugeFamily<0>,
    /// Changes of the source that were taken in, by outcome.
    pub source_changes: CounterFamily<1>,
    /// Certificates issued, by how the caller proved itself.
    pub certificates_issued: CounterFamily<1>,
    /// Certificate requests refused, by gRPC code.
    pub certificates_refused: CounterFamily<1>,
    /// Knocks at proxies' pods, by what became of them.
    pub knocks: CounterFamily<1>,
    /// When the root certificate ends, in seconds since 1970.
    pub root_expiry: GaugeFamily<0>,
    /// Fetches of issuers' keys, by outcome.
    pub jwks_fetches: CounterFamily<1>,
    /// Key sets of which no keys are held.
    pub jwks_unresolved: GaugeFamily<0>,
    /// Key sets whose last fetch failed.
    pub jwks_failing: GaugeFamily<0>,
    /// Seconds since the source was last looked at with success.
    pub source_age: GaugeFamily<0>,
    /// Seconds since a change last came into force.
    pub config_age: GaugeFamily<0>,
}

impl Metrics {
    /// Registers all.
    pub fn new(registry: &Registry) -> Result<Self, RegistryError> {
        Ok(Self {
            connected_proxies: registry.gauge(
                "weft_control_connected_proxies",
                "Proxies with an open discovery stream.",
                [],
            )?,
            connections: registry.gauge(
                "weft_control_connections",
                "Open connections to the gRPC port.",
                [],
            )?,
            handshake_failures: registry.counter(
                "weft_control_handshake_failures_total",
                "TLS handshakes on the gRPC port that failed, by reason.",
                ["reason"],
            )?,
            pushes: registry.counter(
                "weft_control_pushes_total",
                "Discovery responses sent to proxies, by resource type.",
                ["type"],
            )?,
            nacks: registry.counter(
                "weft_control_nacks_total",
                "Resources that a proxy refused, by resource type.",
                ["type"],
            )?,
            generation: registry.gauge(
                "weft_control_generation",
                "The number of the current generation within its epoch.",
                [],
            )?,
            source_errors: registry.gauge(
                "weft_control_source_errors",
                "Source files with errors, of which the last good content or none is in force, and whatever else keeps a change from coming into force.",
                [],
            )?,
            source_changes: registry.counter(
                "weft_control_source_changes_total",
                "Changes of the source, by outcome: applied, partly (some files refused) or refused.",
                ["outcome"],
            )?,
            certificates_issued: registry.counter(
                "weft_control_certificates_issued_total",
                "Certificates issued, by how the caller proved who it is: token or certificate.",
                ["proof"],
            )?,
            certificates_refused: registry.counter(
                "weft_control_certificates_refused_total",
                "Certificate requests refused, by gRPC code.",
                ["code"],
            )?,
            knocks: registry.counter(
                "weft_control_knocks_total",
                "Connections made to proxies' pods at their request, by what became of them.",
                ["outcome"],
            )?,
            root_expiry: registry.gauge(
                "weft_control_root_expiry_timestamp_seconds",
                "When the signing root certificate ends, in seconds since 1970.",
                [],
            )?,
            jwks_fetches: registry.counter(
                "weft_control_jwks_fetches_total",
                "Fetches of token issuers' keys, by outcome: fetched or failed.",
                ["outcome"],
            )?,
            jwks_unresolved: registry.gauge(
                "weft_control_jwks_unresolved",
                "Token issuers whose keys are not held, so that their tokens are refused.",
                [],
            )?,
            jwks_failing: registry.gauge(
                "weft_control_jwks_failing",
                "Token issuers whose keys could not be fetched the last time.",
                [],
            )?,
            source_age: registry.gauge(
                "weft_control_source_age_seconds",
                "Seconds since the source was last looked at with success.",
                [],
            )?,
            config_age: registry.gauge(
                "weft_control_config_age_seconds",
                "Seconds since a change of the source last came into force.",
                [],
            )?,
        })
    }
}

/// The short name of a resource type, for labels and status.
pub fn kind_label(kind: Kind) -> &'static str {
    kind.type_url().rsplit('.').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_registers_and_kinds_have_short_names() {
        Metrics::new(&Registry::new("weft-control", "1").unwrap()).unwrap();
        let names: Vec<_> = Kind::ALL.into_iter().map(kind_label).collect();
        assert!(names.contains(&"Authorization") && names.contains(&"Generation"), "{names:?}");
    }
}
