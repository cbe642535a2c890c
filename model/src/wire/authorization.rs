//! `weft.v1.Authorization`.

use super::{Refusal, each, level, missing, parse, port, provenance_from_wire, provenance_to_wire};
use crate::authorization::{
    Action, Authorization, Clause, Condition, Operation, RequestPrincipal, Rule, ServiceAccount, Source,
};
use crate::names::InvalidName;
use crate::proto::v1;
use crate::proto::v1::condition::Attribute;
use crate::proto::v1::string_match::Kind;
use crate::string_match::{PathTemplate, StringMatch};
use ipnet::IpNet;

pub(super) fn to_wire(policy: &Authorization) -> v1::Authorization {
    let action = match policy.action {
        Action::Allow => v1::Action::Allow,
        Action::Deny => v1::Action::Deny,
        Action::Audit => v1::Action::Audit,
        Action::Custom => v1::Action::Custom,
    };
    v1::Authorization {
        needs_level: 1,
        namespace: policy.namespace.to_string(),
        name: policy.name.to_string(),
        action: action.into(),
        dry_run: policy.dry_run,
        provider: policy.provider.as_deref().unwrap_or_default().to_owned(),
        rules: policy
            .rules
            .iter()
            .map(|rule| v1::AuthorizationRule {
                sources: rule.sources.iter().map(source_to_wire).collect(),
                operations: rule.operations.iter().map(operation_to_wire).collect(),
                conditions: rule.conditions.iter().map(condition_to_wire).collect(),
                provenance: provenance_to_wire(&rule.provenance),
            })
            .collect(),
        provenance: provenance_to_wire(&policy.provenance),
    }
}

pub(super) fn from_wire(message: v1::Authorization) -> Result<Authorization, Refusal> {
    level(message.needs_level)?;
    let action = match v1::Action::try_from(message.action) {
        Ok(v1::Action::Allow) => Action::Allow,
        Ok(v1::Action::Deny) => Action::Deny,
        Ok(v1::Action::Audit) => Action::Audit,
        Ok(v1::Action::Custom) => Action::Custom,
        Ok(v1::Action::Unspecified) | Err(_) => return Err(missing("the action")),
    };
    if (action == Action::Custom) == message.provider.is_empty() {
        return Err(missing("a provider with the action CUSTOM and no other"));
    }
    if message.dry_run && !matches!(action, Action::Allow | Action::Deny) {
        return Err(missing("an action that can be a dry run"));
    }
    Ok(Authorization {
        namespace: parse(&message.namespace)?,
        name: parse(&message.name)?,
        action,
        dry_run: message.dry_run,
        provider: (action == Action::Custom).then(|| message.provider.into()),
        rules: each(message.rules, |rule| {
            Ok(Rule {
                sources: each(rule.sources, source_from_wire)?,
                operations: each(rule.operations, operation_from_wire)?,
                conditions: each(rule.conditions, condition_from_wire)?,
                provenance: provenance_from_wire(rule.provenance),
            })
        })?,
        provenance: provenance_from_wire(message.provenance),
    })
}

pub(super) fn match_to_wire(matched: &StringMatch) -> v1::StringMatch {
    let kind = match matched {
        StringMatch::Exact(text) => Kind::Exact(text.to_string()),
        StringMatch::Prefix(text) => Kind::Prefix(text.to_string()),
        StringMatch::Suffix(text) => Kind::Suffix(text.to_string()),
        StringMatch::Presence => Kind::Presence(true),
        StringMatch::Template(template) => Kind::Template(template.as_str().to_owned()),
    };
    v1::StringMatch { kind: Some(kind) }
}

pub(super) fn match_from_wire(message: v1::StringMatch) -> Result<StringMatch, Refusal> {
    Ok(match message.kind {
        Some(Kind::Exact(text)) => StringMatch::Exact(text.into()),
        Some(Kind::Prefix(text)) => StringMatch::Prefix(text.into()),
        Some(Kind::Suffix(text)) => StringMatch::Suffix(text.into()),
        Some(Kind::Presence(true)) => StringMatch::Presence,
        Some(Kind::Template(text)) => {
            let template: Result<PathTemplate, InvalidName> = PathTemplate::parse(&text);
            StringMatch::Template(template.map_err(super::invalid)?)
        }
        Some(Kind::Presence(false) | Kind::Regex(_)) | None => return Err(missing("a string match")),
    })
}

fn texts_to_wire(clause: &Clause<StringMatch>) -> (Vec<v1::StringMatch>, Vec<v1::StringMatch>) {
    (clause.any.iter().map(match_to_wire).collect(), clause.not.iter().map(match_to_wire).collect())
}

fn texts(any: Vec<v1::StringMatch>, not: Vec<v1::StringMatch>) -> Result<Clause<StringMatch>, Refusal> {
    Ok(Clause { any: each(any, match_from_wire)?, not: each(not, match_from_wire)? })
}

fn blocks_to_wire(clause: &Clause<IpNet>) -> (Vec<String>, Vec<String>) {
    let all = |blocks: &[IpNet]| blocks.iter().map(ToString::to_string).collect();
    (all(&clause.any), all(&clause.not))
}

fn blocks(any: Vec<String>, not: Vec<String>) -> Result<Clause<IpNet>, Refusal> {
    Ok(Clause { any: each(any, |block| parse(&block))?, not: each(not, |block| parse(&block))? })
}

fn ports_to_wire(clause: &Clause<u16>) -> (Vec<u32>, Vec<u32>) {
    let all = |ports: &[u16]| ports.iter().map(|port| (*port).into()).collect();
    (all(&clause.any), all(&clause.not))
}

fn ports(any: Vec<u32>, not: Vec<u32>) -> Result<Clause<u16>, Refusal> {
    Ok(Clause { any: each(any, port)?, not: each(not, port)? })
}

fn accounts_to_wire(accounts: &[ServiceAccount]) -> Vec<v1::ServiceAccountMatch> {
    accounts
        .iter()
        .map(|held| v1::ServiceAccountMatch {
            namespace: held.namespace.to_string(),
            name: held.name.to_string(),
        })
        .collect()
}

fn account_from_wire(message: v1::ServiceAccountMatch) -> Result<ServiceAccount, Refusal> {
    Ok(ServiceAccount { namespace: parse(&message.namespace)?, name: parse(&message.name)? })
}

fn accounts(
    any: Vec<v1::ServiceAccountMatch>,
    not: Vec<v1::ServiceAccountMatch>,
) -> Result<Clause<ServiceAccount>, Refusal> {
    Ok(Clause { any: each(any, account_from_wire)?, not: each(not, account_from_wire)? })
}

fn principals_to_wire(principals: &[RequestPrincipal]) -> Vec<v1::RequestPrincipalMatch> {
    let half = |matched| Some(match_to_wire(matched));
    principals
        .iter()
        .map(|held| v1::RequestPrincipalMatch { issuer: half(&held.issuer), subject: half(&held.subject) })
        .collect()
}

fn principal_from_wire(message: v1::RequestPrincipalMatch) -> Result<RequestPrincipal, Refusal> {
    let half = |message: Option<_>| match_from_wire(message.ok_or_else(|| missing("a request principal"))?);
    Ok(RequestPrincipal { issuer: half(message.issuer)?, subject: half(message.subject)? })
}

fn principals(
    any: Vec<v1::RequestPrincipalMatch>,
    not: Vec<v1::RequestPrincipalMatch>,
) -> Result<Clause<RequestPrincipal>, Refusal> {
    Ok(Clause { any: each(any, principal_from_wire)?, not: each(not, principal_from_wire)? })
}

fn source_to_wire(source: &Source) -> v1::Source {
    let (principals, not_principals) = texts_to_wire(&source.principals);
    let (namespaces, not_namespaces) = texts_to_wire(&source.namespaces);
    let (ip_blocks, not_ip_blocks) = blocks_to_wire(&source.ip_blocks);
    let (remote_ip_blocks, not_remote_ip_blocks) = blocks_to_wire(&source.remote_ip_blocks);
    v1::Source {
        principals,
        not_principals,
        namespaces,
        not_namespaces,
        service_accounts: accounts_to_wire(&source.service_accounts.any),
        not_service_accounts: accounts_to_wire(&source.service_accounts.not),
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
        request_principals: principals_to_wire(&source.request_principals.any),
        not_request_principals: principals_to_wire(&source.request_principals.not),
    }
}

// A source that says nothing matches everybody: what it was meant to say is lost.
fn source_from_wire(message: v1::Source) -> Result<Source, Refusal> {
    if message == v1::Source::default() {
        return Err(missing("what a source says"));
    }
    Ok(Source {
        principals: texts(message.principals, message.not_principals)?,
        namespaces: texts(message.namespaces, message.not_namespaces)?,
        service_accounts: accounts(message.service_accounts, message.not_service_accounts)?,
        ip_blocks: blocks(message.ip_blocks, message.not_ip_blocks)?,
        remote_ip_blocks: blocks(message.remote_ip_blocks, message.not_remote_ip_blocks)?,
        request_principals: principals(message.request_principals, message.not_request_principals)?,
    })
}

fn operation_to_wire(operation: &Operation) -> v1::Operation {
    let (hosts, not_hosts) = texts_to_wire(&operation.hosts);
    let (ports, not_ports) = ports_to_wire(&operation.ports);
    let (methods, not_methods) = texts_to_wire(&operation.methods);
    let (paths, not_paths) = texts_to_wire(&operation.paths);
    v1::Operation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths }
}

fn operation_from_wire(message: v1::Operation) -> Result<Operation, Refusal> {
    if message == v1::Operation::default() {
        return Err(missing("what an operation says"));
    }
    Ok(Operation {
        hosts: texts(message.hosts, message.not_hosts)?,
        ports: ports(message.ports, message.not_ports)?,
        methods: texts(message.methods, message.not_methods)?,
        paths: texts(message.paths, message.not_paths)?,
    })
}

fn condition_to_wire(condition: &Condition) -> v1::Condition {
    let mut message = v1::Condition::default();
    let text = |message: &mut v1::Condition, attribute, clause: &Clause<StringMatch>| {
        message.attribute = Some(attribute);
        (message.values, message.not_values) = texts_to_wire(clause);
    };
    let block = |message: &mut v1::Condition, attribute, clause: &Clause<IpNet>| {
        message.attribute = Some(attribute);
        (message.blocks, message.not_blocks) = blocks_to_wire(clause);
    };
    match condition {
        Condition::RequestHeader(name, clause) => {
            text(&mut message, Attribute::RequestHeader(name.to_string()), clause);
        }
        Condition::SourcePrincipal(clause) => text(&mut message, Attribute::SourcePrincipal(true), clause),
        Condition::SourceNamespace(clause) => text(&mut message, Attribute::SourceNamespace(true), clause),
        Condition::SourceServiceAccount(clause) => {
            message.attribute = Some(Attribute::SourceServiceAccount(true));
            message.service_accounts = accounts_to_wire(&clause.any);
            message.not_service_accounts = accounts_to_wire(&clause.not);
        }
        Condition::RequestPrincipal(clause) => {
            message.attribute = Some(Attribute::RequestPrincipal(true));
            message.request_principals = principals_to_wire(&clause.any);
            message.not_request_principals = principals_to_wire(&clause.not);
        }
        Condition::RequestClaim(path, clause) => {
            let names = path.iter().map(ToString::to_string).collect();
            text(&mut message, Attribute::RequestClaim(v1::ClaimPath { names }), clause);
        }
        Condition::ConnectionSni(clause) => text(&mut message, Attribute::ConnectionSni(true), clause),
        Condition::SourceIp(clause) => block(&mut message, Attribute::SourceIp(true), clause),
        Condition::RemoteIp(clause) => block(&mut message, Attribute::RemoteIp(true), clause),
        Condition::DestinationIp(clause) => block(&mut message, Attribute::DestinationIp(true), clause),
        Condition::DestinationPort(clause) => {
            message.attribute = Some(Attribute::DestinationPort(true));
            (message.ports, message.not_ports) = ports_to_wire(clause);
        }
    }
    message
}

fn condition_from_wire(message: v1::Condition) -> Result<Condition, Refusal> {
    let text = texts(message.values, message.not_values)?;
    let block = blocks(message.blocks, message.not_blocks)?;
    let port = ports(message.ports, message.not_ports)?;
    let attribute = message.attribute.ok_or_else(|| missing("a condition's attribute"))?;
    let account = accounts(message.service_accounts, message.not_service_accounts)?;
    let principal = principals(message.request_principals, message.not_request_principals)?;
    // A condition without values would hold for everything; the values of another type would be lost.
    let said =
        [!text.is_empty(), !block.is_empty(), !port.is_empty(), !account.is_empty(), !principal.is_empty()];
    let wanted = match &attribute {
        Attribute::SourceIp(_) | Attribute::RemoteIp(_) | Attribute::DestinationIp(_) => 1,
        Attribute::DestinationPort(_) => 2,
        Attribute::SourceServiceAccount(_) => 3,
        Attribute::RequestPrincipal(_) => 4,
        Attribute::RequestHeader(_)
        | Attribute::RequestClaim(_)
        | Attribute::SourcePrincipal(_)
        | Attribute::SourceNamespace(_)
        | Attribute::ConnectionSni(_) => 0,
    };
    if said.iter().enumerate().any(|(index, said)| *said != (index == wanted)) {
        return Err(missing("a condition's values"));
    }
    Ok(match attribute {
        Attribute::RequestHeader(name) => {
            let name: http::HeaderName = parse(&name)?;
            Condition::RequestHeader(name.as_str().into(), text)
        }
        Attribute::RequestClaim(path) => {
            if path.names.is_empty() || path.names.iter().any(String::is_empty) {
                return Err(missing("a claim's name"));
            }
            Condition::RequestClaim(path.names.into_iter().map(Into::into).collect(), text)
        }
        Attribute::SourceServiceAccount(_) => Condition::SourceServiceAccount(account),
        Attribute::RequestPrincipal(_) => Condition::RequestPrincipal(principal),
        Attribute::SourcePrincipal(_) => Condition::SourcePrincipal(text),
        Attribute::SourceNamespace(_) => Condition::SourceNamespace(text),
        Attribute::ConnectionSni(_) => Condition::ConnectionSni(text),
        Attribute::SourceIp(_) => Condition::SourceIp(block),
        Attribute::RemoteIp(_) => Condition::RemoteIp(block),
        Attribute::DestinationIp(_) => Condition::DestinationIp(block),
        Attribute::DestinationPort(_) => Condition::DestinationPort(port),
    })
}
