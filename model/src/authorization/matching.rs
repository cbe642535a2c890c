//! What each part of a rule means, in one place: verdicts, the index and the nearest miss all judge
//! through here.
//!
//! A part is a list of values as users write it: `namespaces` and `notNamespaces` are two. Without an
//! identity no value of `principals` matches, so the list fails and its `not` holds, as in Istio; the
//! same goes for a request without a token.

use super::header;
use super::{
    Action, Clause, Condition, Facts, Operation, Part, RequestPrincipal, Rule, ServiceAccount, Source,
};
use crate::spiffe::SpiffeId;
use crate::string_match::StringMatch;
use crate::token::VerifiedToken;
use ipnet::IpNet;
use std::net::IpAddr;

/// Lists that are known to match: an index has found the rule by one of their values.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Settled(u8);

impl Settled {
    pub(super) const PRINCIPALS: Self = Self(1);
    pub(super) const NAMESPACES: Self = Self(2);
    pub(super) const SERVICE_ACCOUNTS: Self = Self(4);
    pub(super) const HOSTS: Self = Self(8);
    pub(super) const PORTS: Self = Self(16);
    pub(super) const METHODS: Self = Self(32);
    pub(super) const PATHS: Self = Self(64);

    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// What to do about a part that fails: stop, or note it and go on.
pub(super) trait Misses<'a> {
    /// Whether a part that holds or not lets the judgement go on.
    fn goes_on(&mut self, holds: bool, part: Part<'a>) -> bool;
}

/// Stops at the first part that fails.
pub(super) struct Stop;

impl<'a> Misses<'a> for Stop {
    #[inline]
    fn goes_on(&mut self, holds: bool, _: Part<'a>) -> bool {
        holds
    }
}

/// Notes every part that fails.
impl<'a> Misses<'a> for Vec<Part<'a>> {
    fn goes_on(&mut self, holds: bool, part: Part<'a>) -> bool {
        if !holds {
            self.push(part);
        }
        true
    }
}

// One half of a clause: no values are no condition.
fn any<T>(values: &[T], test: impl FnMut(&T) -> bool) -> bool {
    values.is_empty() || values.iter().any(test)
}

fn none<T>(values: &[T], test: impl FnMut(&T) -> bool) -> bool {
    !values.iter().any(test)
}

fn both<T>(clause: &Clause<T>, mut test: impl FnMut(&T) -> bool) -> bool {
    any(&clause.any, &mut test) && none(&clause.not, test)
}

// Whether a clause leaves nothing to judge, given whether its values are settled.
fn is_settled<T>(clause: &Clause<T>, values: bool) -> bool {
    clause.not.is_empty() && (clause.any.is_empty() || values)
}

fn text(value: Option<&str>) -> impl Fn(&StringMatch) -> bool + '_ {
    move |pattern| value.is_some_and(|value| pattern.matches(value))
}

fn account(source: Option<&SpiffeId>) -> impl Fn(&ServiceAccount) -> bool + '_ {
    move |account| {
        source.is_some_and(|id| {
            id.namespace() == account.namespace.as_str() && id.service_account() == account.name.as_str()
        })
    }
}

// An IPv4 client on a dual-stack socket is an IPv4 client.
fn block(address: IpAddr) -> impl Fn(&IpNet) -> bool {
    let address = address.to_canonical();
    move |block| block.contains(&address)
}

fn token<'f>(token: Option<&'f VerifiedToken>) -> impl Fn(&RequestPrincipal) -> bool + 'f {
    move |wanted| {
        token.is_some_and(|token| {
            wanted.issuer.matches(token.issuer()) && wanted.subject.matches(token.subject())
        })
    }
}

// A claim's values are its text, or the texts of its list; one that matches is enough.
fn claim(path: &[Box<str>], clause: &Clause<StringMatch>, token: Option<&VerifiedToken>) -> bool {
    let has = |patterns: &[StringMatch]| {
        let mut found = false;
        if let Some(token) = token {
            token.visit_claim(path, |value| {
                found = patterns.iter().any(|pattern| pattern.matches(value));
                !found
            });
        }
        found
    };
    (clause.any.is_empty() || has(&clause.any)) && !has(&clause.not)
}

impl Rule {
    /// Whether any part of it needs HTTP.
    pub fn needs_http(&self) -> bool {
        self.sources.iter().any(Source::needs_http)
            || self.operations.iter().any(Operation::needs_http)
            || self.conditions.iter().any(Condition::needs_http)
    }

    /// Whether it can match where there is no HTTP: an ALLOW rule with a field that needs it cannot.
    pub(super) fn can_be_opaque(&self, action: Action) -> bool {
        action != Action::Allow || !self.needs_http()
    }

    /// How many values judging all of it may have to look at.
    pub(super) fn values(&self) -> usize {
        let sources = self.sources.iter().map(|source| {
            1 + source.principals.length()
                + source.namespaces.length()
                + source.service_accounts.length()
                + source.ip_blocks.length()
                + source.remote_ip_blocks.length()
                + source.request_principals.length()
        });
        let operations = self.operations.iter().map(|operation| {
            1 + operation.hosts.length()
                + operation.ports.length()
                + operation.methods.length()
                + operation.paths.length()
        });
        let conditions = self.conditions.iter().map(Condition::values);
        1 + sources.chain(operations).chain(conditions).sum::<usize>()
    }

    /// Whether it matches: one source, one operation and every condition.
    pub(super) fn matches(&self, facts: &Facts<'_>, action: Action) -> bool {
        let none = Settled::default();
        (facts.http.is_some() || self.can_be_opaque(action))
            && any(&self.sources, |source| source.holds(facts, action, none, &mut Stop))
            && any(&self.operations, |operation| operation.holds(facts, none, &mut Stop))
            && self.conditions_hold(facts, action, &mut Stop)
    }

    pub(super) fn conditions_hold<'a>(
        &'a self,
        facts: &Facts<'_>,
        action: Action,
        misses: &mut impl Misses<'a>,
    ) -> bool {
        self.conditions
            .iter()
            .all(|condition| misses.goes_on(condition.holds(facts, action), Part::Condition(condition)))
    }
}

impl Source {
    /// Whether these lists are all that it says. Without `http` what needs it says nothing.
    pub(super) fn is_settled(&self, settled: Settled, http: bool) -> bool {
        // Taken apart, so that no list is forgotten here.
        let Self {
            principals,
            namespaces,
            service_accounts,
            ip_blocks,
            remote_ip_blocks,
            request_principals,
        } = self;
        is_settled(principals, settled.has(Settled::PRINCIPALS))
            && is_settled(namespaces, settled.has(Settled::NAMESPACES))
            && is_settled(service_accounts, settled.has(Settled::SERVICE_ACCOUNTS))
            && is_settled(ip_blocks, false)
            && is_settled(remote_ip_blocks, false)
            && (!http || is_settled(request_principals, false))
    }

    pub(super) fn needs_http(&self) -> bool {
        !self.request_principals.is_empty()
    }

    pub(super) fn holds<'a>(
        &'a self,
        facts: &Facts<'_>,
        action: Action,
        settled: Settled,
        misses: &mut impl Misses<'a>,
    ) -> bool {
        let source = facts.connection.source;
        let principal = text(source.map(SpiffeId::principal));
        let namespace = text(source.map(SpiffeId::namespace));
        let account = account(source);
        let direct = block(facts.connection.source_address);
        let original = facts.original_address();
        // Where the original client is not known, an ALLOW does not hold and anything else does.
        let unknown = action != Action::Allow;
        let remote = |block_list: &[IpNet], not: bool| match original {
            _ if block_list.is_empty() => true,
            Some(address) => block_list.iter().any(block(address)) != not,
            None => unknown,
        };
        let known = |list| settled.has(list);
        let mut goes_on = |holds, name| misses.goes_on(holds, Part::Field(name));
        goes_on(known(Settled::PRINCIPALS) || any(&self.principals.any, &principal), "principals")
            && goes_on(none(&self.principals.not, principal), "notPrincipals")
            && goes_on(known(Settled::NAMESPACES) || any(&self.namespaces.any, &namespace), "namespaces")
            && goes_on(none(&self.namespaces.not, namespace), "notNamespaces")
            && goes_on(
                known(Settled::SERVICE_ACCOUNTS) || any(&self.service_accounts.any, &account),
                "serviceAccounts",
            )
            && goes_on(none(&self.service_accounts.not, account), "notServiceAccounts")
            && goes_on(any(&self.ip_blocks.any, &direct), "ipBlocks")
            && goes_on(none(&self.ip_blocks.not, direct), "notIpBlocks")
            && goes_on(remote(&self.remote_ip_blocks.any, false), "remoteIpBlocks")
            && goes_on(remote(&self.remote_ip_blocks.not, true), "notRemoteIpBlocks")
            && match &facts.http {
                Some(http) => {
                    goes_on(any(&self.request_principals.any, token(http.token)), "requestPrincipals")
                        && goes_on(
                            none(&self.request_principals.not, token(http.token)),
                            "notRequestPrincipals",
                        )
                }
                None => true,
            }
    }
}

impl Operation {
    /// Whether these lists are all that it says. Without `http` what needs it says nothing.
    pub(super) fn is_settled(&self, settled: Settled, http: bool) -> bool {
        let Self { hosts, ports, methods, paths } = self;
        let of_requests = is_settled(hosts, settled.has(Settled::HOSTS))
            && is_settled(methods, settled.has(Settled::METHODS))
            && is_settled(paths, settled.has(Settled::PATHS));
        is_settled(ports, settled.has(Settled::PORTS)) && (!http || of_requests)
    }

    pub(super) fn needs_http(&self) -> bool {
        !(self.hosts.is_empty() && self.methods.is_empty() && self.paths.is_empty())
    }

    pub(super) fn holds<'a>(
        &'a self,
        facts: &Facts<'_>,
        settled: Settled,
        misses: &mut impl Misses<'a>,
    ) -> bool {
        let port = facts.connection.destination.port();
        let known = |list| settled.has(list);
        let mut goes_on = |holds, name| misses.goes_on(holds, Part::Field(name));
        let ports = goes_on(
            known(Settled::PORTS) || self.ports.any.is_empty() || self.ports.any.contains(&port),
            "ports",
        ) && goes_on(!self.ports.not.contains(&port), "notPorts");
        let Some(http) = &facts.http else { return ports };
        let host = |pattern: &StringMatch| pattern.matches_ignoring_case(http.host());
        let method = |pattern: &StringMatch| pattern.matches(http.method);
        let path = |pattern: &StringMatch| pattern.matches(http.path);
        ports
            && goes_on(known(Settled::HOSTS) || any(&self.hosts.any, host), "hosts")
            && goes_on(none(&self.hosts.not, host), "notHosts")
            && goes_on(known(Settled::METHODS) || any(&self.methods.any, method), "methods")
            && goes_on(none(&self.methods.not, method), "notMethods")
            && goes_on(known(Settled::PATHS) || any(&self.paths.any, path), "paths")
            && goes_on(none(&self.paths.not, path), "notPaths")
    }
}

impl Condition {
    pub(super) fn needs_http(&self) -> bool {
        matches!(self, Self::RequestHeader(..) | Self::RequestPrincipal(_) | Self::RequestClaim(..))
    }

    fn values(&self) -> usize {
        1 + match self {
            Self::RequestHeader(_, clause)
            | Self::RequestClaim(_, clause)
            | Self::SourcePrincipal(clause)
            | Self::SourceNamespace(clause)
            | Self::ConnectionSni(clause) => clause.length(),
            Self::SourceServiceAccount(clause) => clause.length(),
            Self::RequestPrincipal(clause) => clause.length(),
            Self::SourceIp(clause) | Self::RemoteIp(clause) | Self::DestinationIp(clause) => clause.length(),
            Self::DestinationPort(clause) => clause.length(),
        }
    }

    fn holds(&self, facts: &Facts<'_>, action: Action) -> bool {
        let connection = &facts.connection;
        let source = connection.source;
        match self {
            Self::SourcePrincipal(clause) => both(clause, text(source.map(SpiffeId::principal))),
            Self::SourceNamespace(clause) => both(clause, text(source.map(SpiffeId::namespace))),
            Self::SourceServiceAccount(clause) => both(clause, account(source)),
            // A host's name, in whatever case a client writes it.
            Self::ConnectionSni(clause) => both(clause, |pattern: &StringMatch| {
                connection.sni.is_some_and(|sni| pattern.matches_ignoring_case(sni))
            }),
            Self::SourceIp(clause) => both(clause, block(connection.source_address)),
            Self::RemoteIp(clause) => match facts.original_address() {
                Some(address) => both(clause, block(address)),
                None => action != Action::Allow,
            },
            Self::DestinationIp(clause) => both(clause, block(connection.destination.ip())),
            Self::DestinationPort(clause) => both(clause, |port| *port == connection.destination.port()),
            // What needs HTTP, where there is none, is as if it were not there; ALLOW rules with such
            // a condition are not even asked.
            Self::RequestHeader(name, clause) => {
                facts.http.as_ref().is_none_or(|http| header::matches(clause, name, http, action))
            }
            Self::RequestPrincipal(clause) => {
                facts.http.as_ref().is_none_or(|http| both(clause, token(http.token)))
            }
            Self::RequestClaim(path, clause) => {
                facts.http.as_ref().is_none_or(|http| claim(path, clause, http.token))
            }
        }
    }
}

impl Facts<'_> {
    /// The original client's address, as far as it is known.
    fn original_address(&self) -> Option<IpAddr> {
        match &self.http {
            Some(http) => Some(http.remote_address),
            None => self.connection.original_address,
        }
    }
}
