//! The closed list of reasons for every answer the mesh makes itself.
//!
//! Status, gRPC status, metric label, log field and the `x-weft-reason` header of such an answer
//! all come from one entry here. An answer that has no entry cannot be made.

use std::fmt;

/// Whose doing an answer is: what an operator looks at first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Fault {
    /// What the client sent, or who the client is.
    Client,
    /// What the mesh was told to do, or not told.
    Configuration,
    /// The mesh itself: limits, drain, a bug.
    Mesh,
    /// The server behind the mesh.
    Server,
}

/// One row of the list.
struct Entry {
    label: &'static str,
    status: u16,
    grpc: u8,
    fault: Fault,
    text: &'static str,
}

macro_rules! reasons {
    ($($variant:ident $label:literal $status:literal $grpc:literal $fault:ident $text:literal;)+) => {
        /// Why the mesh answered itself. See `docs/reasons.md`.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Reason {
            $(#[doc = $text] $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of the document.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            const fn entry(self) -> Entry {
                match self {
                    $(Self::$variant => Entry {
                        label: $label, status: $status, grpc: $grpc, fault: Fault::$fault, text: $text,
                    },)+
                }
            }
        }
    };
}

// label, HTTP status, gRPC status, whose fault, what happened.
reasons! {
    RequestMalformed "request_malformed" 400 13 Client "The request does not follow the grammar of RFC 9110 and RFC 9112.";
    RequestFramingAmbiguous "request_framing_ambiguous" 400 13 Client "The length of the request can be read in two ways, for instance by Content-Length and Transfer-Encoding.";
    HostInvalid "host_invalid" 400 13 Client "The request has no Host, several, or one that is not a host and port.";
    AuthorityMismatch "authority_mismatch" 400 13 Client "The request's target and its Host header name different authorities.";
    TargetTooLong "target_too_long" 414 13 Client "The request target is longer than the limit.";
    HeaderTooLarge "header_too_large" 431 8 Client "The header block is larger than 96 KiB, or has more than 256 fields.";
    HeaderTimeout "header_timeout" 408 4 Client "The request's head did not arrive in time.";
    BodyMalformed "body_malformed" 400 13 Client "The body's chunk framing is not valid.";
    BodyTimeout "body_timeout" 408 4 Client "The request's body stopped arriving.";
    BodyTooLarge "body_too_large" 413 8 Client "The request's body is longer than what the workload's external authorizer is to see.";
    VersionUnsupported "version_unsupported" 505 12 Client "The HTTP version is not one the mesh speaks.";
    TransferCodingUnsupported "transfer_coding_unsupported" 501 12 Client "The transfer coding is not exactly `chunked`.";
    ExpectationUnsupported "expectation_unsupported" 417 12 Client "The Expect header asks for something else than 100-continue.";
    UpgradeUnsupported "upgrade_unsupported" 501 12 Client "The upgrade cannot be carried on this connection.";
    MethodUnsupported "method_unsupported" 501 12 Client "The method cannot be carried here, for instance CONNECT inside a mesh connection.";
    TlsRequired "tls_required" 403 16 Client "The workload accepts only mutual TLS, and the connection is plaintext or not the mesh's.";
    HttpRequired "http_required" 400 13 Client "The port carries HTTP, as it is declared or as a policy needs it, and the connection is not HTTP.";
    AuthorizationDenied "authorization_denied" 403 7 Client "An authorization policy denies the request.";
    AuthorizationUnresolved "authorization_unresolved" 403 7 Configuration "A policy that binds this workload is not held or not understood, so the request is denied.";
    ExternalAuthorizerDenied "external_authorizer_denied" 403 7 Client "An external authorizer denies the request (the status is its own).";
    ExternalAuthorizerFailed "external_authorizer_failed" 403 7 Server "An external authorizer could not be asked, or its answer is not understood.";
    JwtInvalid "jwt_invalid" 401 16 Client "The request carries a token that is not valid.";
    JwtAudienceRefused "jwt_audience_refused" 403 7 Client "The request's token is for another audience.";
    JwtKeysUnresolved "jwt_keys_unresolved" 401 16 Configuration "The keys of the token's issuer are not known, so no token of it is accepted.";
    PolicyTooOld "policy_too_old" 403 7 Configuration "The last known configuration is older than its maximum age.";
    WorkloadMismatch "workload_mismatch" 503 14 Mesh "The connection names a workload or service that this proxy does not serve.";
    ServiceUnknown "service_unknown" 502 14 Configuration "No service of the mesh has this name or address.";
    ConfigurationMissing "configuration_missing" 503 14 Configuration "The configuration of the destination did not arrive in time.";
    ResourceUnresolved "resource_unresolved" 500 13 Configuration "A resource that the destination names is not held or not understood.";
    RouteNotFound "route_not_found" 404 12 Configuration "The service has routes and none matches the request.";
    RouteRedirect "route_redirect" 302 13 Configuration "A route redirects the request (the status is the route's).";
    CorsPreflight "cors_preflight" 204 13 Configuration "A route says what pages of another origin may do.";
    BackendInvalid "backend_invalid" 500 13 Configuration "The matched rule's backend does not exist, or its weights are all zero.";
    FaultInjected "fault_injected" 503 14 Configuration "A fault that a TrafficPolicy wants (the status is the policy's).";
    EndpointsMissing "endpoints_missing" 503 14 Server "The destination has no endpoint that is ready.";
    ConnectFailed "connect_failed" 503 14 Server "No connection could be made to an endpoint.";
    ConnectTimeout "connect_timeout" 503 14 Server "The connection to an endpoint was not made in time.";
    PeerIdentityMismatch "peer_identity_mismatch" 503 14 Server "The endpoint did not prove the identity that the mesh expects of it.";
    PeerRefused "peer_refused" 503 14 Server "The endpoint's proxy refused the request before its application saw it.";
    RequestTimeout "request_timeout" 504 4 Server "The request's deadline passed.";
    ResponseMalformed "response_malformed" 502 13 Server "The server's answer does not follow the grammar of HTTP.";
    ResponseHeaderTooLarge "response_header_too_large" 502 13 Server "The answer's header block is larger than 96 KiB, or has more than 256 fields.";
    ConnectionReset "connection_reset" 502 14 Server "The connection to the server ended before the answer did; the request may have been executed.";
    ApplicationUnreachable "application_unreachable" 503 14 Server "The proxy could not connect to its application.";
    InFlightLimit "in_flight_limit" 503 8 Mesh "The TrafficPolicy of the Service allows no more requests under way.";
    ConnectionLimit "connection_limit" 503 8 Mesh "The TrafficPolicy of the Service allows no more connections, and none came free in time.";
    QueueFull "queue_full" 503 8 Mesh "No endpoint is ready or no connection free, and as many requests wait for one as may.";
    RetryBudgetExhausted "retry_budget_exhausted" 503 14 Mesh "A retry was due and the retry budget is spent.";
    OriginalDestinationMissing "original_destination_missing" 503 14 Mesh "A redirected connection came without the destination it was meant for.";
    LoopDetected "loop_detected" 508 13 Configuration "The connection would lead back to this proxy.";
    RateLimited "rate_limited" 429 8 Client "A rate limit of the workload's Service is reached.";
    ConcurrencyLimited "concurrency_limited" 503 8 Mesh "The workload serves as many requests as it may, and no more may wait.";
    QueueTimeout "queue_timeout" 503 8 Mesh "The request waited for its turn as long as it may.";
    Overloaded "overloaded" 503 8 Mesh "A limit on connections, requests or memory is reached.";
    Internal "internal" 500 13 Mesh "A fault in the proxy itself.";
}

impl Reason {
    /// The HTTP status code.
    pub const fn status(self) -> u16 {
        self.entry().status
    }

    /// The gRPC status code, sent as `grpc-status` to gRPC clients.
    pub const fn grpc_status(self) -> u8 {
        self.entry().grpc
    }

    /// The word used in `x-weft-reason`, metric labels and logs.
    pub const fn label(self) -> &'static str {
        self.entry().label
    }

    /// Whose doing it is.
    pub const fn fault(self) -> Fault {
        self.entry().fault
    }

    /// One sentence for people.
    pub const fn text(self) -> &'static str {
        self.entry().text
    }

    /// Finds a reason by its label.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.label() == label)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn labels_are_distinct_and_found_again() {
        let labels: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_label(reason.label()), Some(*reason));
        }
    }

    #[test]
    fn statuses_are_answers_that_http_and_grpc_know() {
        for reason in Reason::ALL {
            // A preflight is the one question that the mesh answers with yes.
            assert!((300..600).contains(&reason.status()) || *reason == Reason::CorsPreflight, "{reason:?}");
            assert!((1..=16).contains(&reason.grpc_status()), "{reason:?}");
        }
    }
}
