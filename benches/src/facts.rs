//! What is measured once per contender and not per request: start to ready, memory, and the time from a policy
//! file's rename to the first answer that obeys it. Also the proof that the job is done at all: the allowed path is
//! answered, the forbidden one refused, and plaintext gets no answer from the server-side proxy.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::{
    contender::{PolicyFile, Running},
    counters, http1,
    process::{Owned, wait_until},
};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(10);
const ENFORCED_WITHIN: Duration = Duration::from_secs(10);
const POLICY_EDITS: usize = 5;
const RESTARTS: usize = 5;

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Facts {
    pub(crate) members: Vec<MemberFacts>,
    /// From the rename of the policy file to the first denied answer, once per edit.
    pub(crate) policy_edit_milliseconds: Vec<f64>,
    /// From killing the server-side proxy, its control API gone, to the first answer of the next one.
    pub(crate) restart_milliseconds: Vec<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct MemberFacts {
    pub(crate) name: String,
    /// From spawning to the first 200 for its readiness path, once per start.
    pub(crate) ready_milliseconds: Vec<f64>,
    pub(crate) resident_idle_bytes: u64,
    /// With every service in use asked once.
    pub(crate) resident_used_bytes: Option<u64>,
    pub(crate) resident_after_bytes: Option<u64>,
}

/// Status of one request on a connection of its own; an error if there was no HTTP answer.
pub(crate) fn status(target: SocketAddr, host: &str, path: &str) -> Result<u16> {
    let mut stream = TcpStream::connect_timeout(&target, ANSWER_TIMEOUT).context("cannot connect")?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(&http1::get(host, path))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // The status line is all that matters: an error's body may be framed in any way.
    while !answer.contains(&b'\n') {
        let read = stream.read(&mut buffer).context("cannot read")?;
        ensure!(read > 0, "no answer");
        answer.extend_from_slice(&buffer[..read]);
    }
    let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = std::str::from_utf8(line).context("the status line is not text")?;
    text.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status in the answer")
}

/// Fails unless the contender does the job it is measured for.
pub(crate) fn verify(running: &Running) -> Result<()> {
    wait_until("first answer", FIRST_ANSWER_WITHIN, || {
        running.check()?;
        Ok(status(running.target, &running.host, "/items/100").is_ok_and(|status| status == 200))
    })?;
    for (target, host) in &running.also {
        wait_until("first answer of another service", FIRST_ANSWER_WITHIN, || {
            running.check()?;
            Ok(status(*target, host, "/items/100").is_ok_and(|status| status == 200))
        })?;
    }
    if running.authorizes {
        let forbidden = status(running.target, &running.host, "/forbidden/100")?;
        ensure!(forbidden == 403, "the forbidden path was answered with {forbidden}, not 403");
    }
    if let Some(inbound) = running.inbound {
        let plaintext = status(inbound, &running.host, "/items/100");
        ensure!(
            !plaintext.as_ref().is_ok_and(|status| *status == 200),
            "the server-side proxy answered plaintext from anybody"
        );
    }
    Ok(())
}

pub(crate) fn idle(running: &Running) -> Result<Vec<MemberFacts>> {
    let facts = running.members.iter().map(|member| {
        Ok(MemberFacts {
            name: member.process.name().to_owned(),
            ready_milliseconds: Vec::new(),
            resident_idle_bytes: counters::resident_bytes(member.process.pid())?,
            resident_used_bytes: None,
            resident_after_bytes: None,
        })
    });
    facts.collect()
}

/// Adds how long each process of this start took to be ready.
pub(crate) fn started(running: &Running, facts: &mut [MemberFacts]) {
    for (member, facts) in running.members.iter().zip(facts) {
        facts.ready_milliseconds.push(member.ready_after.as_secs_f64() * 1000.0);
    }
}

/// Adds what each process holds now that all services in use were asked.
pub(crate) fn used(running: &Running, facts: &mut [MemberFacts]) -> Result<()> {
    for (member, facts) in running.members.iter().zip(facts) {
        facts.resident_used_bytes = Some(counters::resident_bytes(member.process.pid())?);
    }
    Ok(())
}

pub(crate) fn after_load(running: &Running, facts: &mut Facts) -> Result<()> {
    for (member, facts) in running.members.iter().zip(&mut facts.members) {
        facts.resident_after_bytes = Some(counters::resident_bytes(member.process.pid())?);
    }
    Ok(())
}

/// Times how long edits of the policy take until they are obeyed, one way; the way back is waited for as well.
pub(crate) fn policy_edits(running: &Running, policy: &PolicyFile) -> Result<Vec<f64>> {
    let obeyed = |wanted: u16| {
        wait_until("policy enforcement", ENFORCED_WITHIN, || {
            Ok(status(running.target, &running.host, "/items/100")? == wanted)
        })
    };
    let mut milliseconds = Vec::with_capacity(POLICY_EDITS);
    for _ in 0..POLICY_EDITS {
        let edited = replace(policy, &policy.deny)?;
        obeyed(403)?;
        milliseconds.push(edited.elapsed().as_secs_f64() * 1000.0);
        replace(policy, &policy.allow)?;
        obeyed(200)?;
    }
    Ok(milliseconds)
}

/// Kills the server-side proxy and starts it again, from what it keeps alone, and waits for an answer through it.
pub(crate) fn restarts(running: &mut Running, directory: &Path) -> Result<Vec<f64>> {
    let Some(restart) = &running.restart else { return Ok(Vec::new()) };
    running.members[restart.control].process.kill();
    let mut milliseconds = Vec::with_capacity(RESTARTS);
    for number in 0..RESTARTS {
        let started = Instant::now();
        let member = &mut running.members[restart.member];
        member.process.kill();
        let name = format!("{}-{number}", member.process.name());
        member.process = Owned::start(&name, directory, &mut (restart.command)())?;
        wait_until("an answer after a restart", FIRST_ANSWER_WITHIN, || {
            Ok(status(running.target, &running.host, "/items/100").is_ok_and(|status| status == 200))
        })?;
        milliseconds.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(milliseconds)
}

/// Replaces the file as an editor or a sync job would: written beside, renamed over. The moment of the rename.
fn replace(policy: &PolicyFile, text: &str) -> Result<Instant> {
    let beside = policy.path.with_extension("new");
    fs::write(&beside, text)?;
    let before = Instant::now();
    fs::rename(&beside, &policy.path)?;
    Ok(before)
}
