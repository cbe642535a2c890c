//! Verdicts. Policies go the whole way (YAML, compiler, joined into what binds one workload), and requests are taken in
//! turn from a set large enough that none is remembered by the branch predictor.

use std::hint::black_box;

use anyhow::{Result, ensure};
use weft_model::authorization::{AuthorizationSet, Caller, Facts};
use weft_model::request::{ConnectionFacts, HttpFacts};
use weft_model::spiffe::SpiffeId;

use super::{Case, REQUESTS, in_turn};
use crate::policies::{compiled, one_workload};

struct Sent {
    source: SpiffeId,
    method: &'static str,
    path: String,
}

pub(super) fn cases() -> Vec<Case> {
    let known = [(2, 2), (10, 10), (100, 10), (1_000, 10)].map(|(policies, rules)| {
        Case::new(format!("verdict, {policies} policies of {rules} rules"), move || {
            let (set, sent) = prepared(policies, rules)?;
            let callers: Vec<_> = sent.iter().map(|sent| set.caller(Some(&sent.source))).collect();
            Ok(move |number: u64| {
                let at = in_turn(number);
                black_box(judge(black_box(&set), black_box(&sent[at]), Some(&callers[at])));
            })
        })
    });
    let looked_up = Case::new("caller looked up and judged, 100 policies of 10 rules", || {
        let (set, sent) = prepared(100, 10)?;
        Ok(move |number: u64| {
            black_box(judge(black_box(&set), black_box(&sent[in_turn(number)]), None));
        })
    });
    known.into_iter().chain([looked_up]).collect()
}

fn prepared(policies: usize, rules: usize) -> Result<(AuthorizationSet, Vec<Sent>)> {
    let mesh = compiled(&one_workload(policies, rules))?;
    let named = mesh.authorizations.iter().map(|(name, held)| (name.clone(), Some(held.clone())));
    let set = AuthorizationSet::new(named);
    let sent = requests(policies * rules);
    let allowed = sent.iter().filter(|sent| judge(&set, sent, None)).count();
    ensure!(allowed > REQUESTS / 4 && allowed < REQUESTS, "{allowed} of {REQUESTS} are allowed");
    Ok((set, sent))
}

/// Requests of which rules are about: two of three as a rule wants them, the others off by one part.
fn requests(rules: usize) -> Vec<Sent> {
    (0..REQUESTS)
        .map(|index| {
            // Of every five policies one denies.
            let number = index * 7_919 % rules;
            let path = match number % 3 {
                0 => format!("/api/v1/things-{}/item-{index}", number % 331),
                1 => format!("/api/v1/things-{}/detail", number % 331),
                _ => format!("/api/v2/all/things-{}", number % 331),
            };
            let method = ["GET", "POST", "PUT"][number % 5 % 3];
            let method = if index % 3 == 2 { "DELETE" } else { method };
            let source = format!("spiffe://cluster.local/ns/team-{}/sa/app-{}", number % 97, number % 89);
            Sent { source: source.parse().expect("it is an identity"), method, path }
        })
        .collect()
}

/// `caller`: what a proxy looks up once for a connection.
fn judge(set: &AuthorizationSet, sent: &Sent, caller: Option<&Caller>) -> bool {
    let client = std::net::Ipv4Addr::new(10, 1, 2, 3).into();
    let facts = Facts {
        connection: ConnectionFacts {
            source: Some(&sent.source),
            source_address: client,
            original_address: Some(client),
            destination: (std::net::Ipv4Addr::new(10, 0, 0, 1), 8080).into(),
            sni: Some("8080.cart.shop"),
        },
        http: Some(HttpFacts {
            method: sent.method,
            authority: "cart.shop",
            path: &sent.path,
            query: None,
            headers: &(),
            remote_address: client,
            token: None,
        }),
    };
    let judgement = match caller {
        Some(caller) => set.judge_of(caller, &facts),
        None => set.judge(&facts),
    };
    judgement.verdict.is_allowed()
}
