//! `weft-bench instructions`: how many instructions the pair of proxies runs for one request of a fixed mix, counted
//! by callgrind. Times differ between machines and moments; this count hardly does, so that it is kept in the
//! repository and a change that makes requests dearer is seen before it lands.
//!
//! Each case goes in lockstep: every connection or stream sends one request, then all answers are awaited. Under
//! callgrind a proxy is far slower than the client, so that it finds the whole step waiting, and batches are the same
//! every time. What the kernel does is not counted.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use h2::client::SendRequest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::LocalSet,
    time::timeout,
};

use crate::{
    certificates::Certificates,
    contender::{self, Contender as _, Member, Running, Setting},
    http1::{self, AnswerReader},
    load::http2,
    process::{self, Scratch},
    raw, report, run,
    scenario::{Scenario, Shape},
};

/// The mix: a scenario, and how many steps of it are counted.
const MIX: [(&str, usize); 7] = [
    ("closed-1", 400),
    ("closed-16", 40),
    ("closed-4-up10k", 25),
    ("closed-1-100k", 25),
    ("h2c-1x32", 20),
    ("tcp-16", 40),
    ("connect-1", 60),
];

/// Steps before the count begins: connections, sessions and buffers are there by then.
const WARM_UP: usize = 5;

/// How much a case may cost above its record, in percent: what another day's run differs by, and a little.
const TOLERANCE_PERCENT: f64 = 8.0;

/// One step takes milliseconds; a proxy that takes longer than this has stopped.
const STEP_MAX: Duration = Duration::from_secs(60);

const READ_BYTES: usize = 32 * 1024;

/// Where a proxy run by callgrind leaves its counts, in its own directory.
const COUNTS: &str = "instructions";

#[derive(Args)]
pub(crate) struct Options {
    /// Compare with the record in this file; the exit code is 1 if a case costs more
    #[arg(long, value_name = "FILE", conflicts_with = "record")]
    check: Option<PathBuf>,
    /// Write the record to this file
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// Instructions per request, client side and server side.
type Pair = [f64; 2];

/// Measures the mix, and prints, writes or compares it; false if a case costs more than its record.
pub(crate) fn instructions(options: &Options) -> Result<bool> {
    let record = options.check.as_deref().map(read_record).transpose()?;
    for program in ["valgrind", "callgrind_control"] {
        ensure!(
            contender::in_path(program).is_some(),
            "{program} is not installed: it counts the instructions (on Debian: apt-get install valgrind)"
        );
    }
    process::end_on_interruption()?;
    let scratch = Scratch::new()?;
    let (application, address, raw) = run::start_application(scratch.path())?;
    let certificates = Certificates::make(scratch.path())?;
    let running = contender::weft().start(&Setting {
        directory: scratch.path(),
        application: address,
        application_raw: raw,
        certificates: &certificates,
        connections_max: 100,
        workers: 1,
        resumption: true,
        services: 0,
        counted: Some(&counted),
    })?;
    let proxies: Vec<_> = running.members.iter().filter(|member| member.role.is_proxy()).collect();
    let mut costs = BTreeMap::new();
    for (name, steps) in MIX {
        let scenario: Scenario = name.parse()?;
        let pair = measure(&scenario, steps, &running, &proxies, scratch.path())
            .with_context(|| format!("{name} cannot be measured"))?;
        application.check_running()?;
        running.check()?;
        report::instructions(name, pair, record.as_ref().and_then(|record| record.get(name)));
        costs.insert(name.to_owned(), pair);
    }
    if let Some(file) = &options.record {
        std::fs::write(file, written(&costs)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    record.map_or(Ok(true), |record| compare(&record, &costs))
}

/// The command that runs a proxy under callgrind.
fn counted(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet"]);
    command.arg(format!("--callgrind-out-file={}", directory.join(COUNTS).display()));
    command.arg(program);
    command
}

/// What one case costs.
fn measure(
    scenario: &Scenario,
    steps: usize,
    running: &Running,
    proxies: &[&Member],
    directory: &Path,
) -> Result<Pair> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let [client, server] = proxies else { bail!("a pair has two proxies") };
    LocalSet::new().block_on(&runtime, async {
        let mut clients = Clients::open(scenario, running).await?;
        for _ in 0..WARM_UP {
            clients.step(scenario, running).await?;
        }
        for proxy in [client, server] {
            take(proxy, directory)?;
        }
        for _ in 0..steps {
            clients.step(scenario, running).await?;
        }
        let requests = (steps * clients.at_once()) as f64;
        Ok([take(client, directory)? as f64 / requests, take(server, directory)? as f64 / requests])
    })
}

/// The instructions that a proxy has run since the last time.
fn take(proxy: &Member, directory: &Path) -> Result<u64> {
    let pid = proxy.process.pid().to_string();
    let output = Command::new("callgrind_control").args(["-d", &pid]).output()?;
    ensure!(output.status.success(), "callgrind_control: {}", String::from_utf8_lossy(&output.stderr).trim());
    // Each dump is a file of its own, numbered; read and removed, so that there is one at a time.
    let directory = directory.join(proxy.process.name().trim_start_matches("weft-proxy-"));
    for entry in std::fs::read_dir(&directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with(&format!("{COUNTS}.")) {
            continue;
        }
        let dump = std::fs::read_to_string(&path)?;
        std::fs::remove_file(&path)?;
        let total =
            dump.lines().find_map(|line| line.strip_prefix("totals: ")).context("a dump without totals")?;
        return Ok(total.trim().parse()?);
    }
    bail!("{} left no count", proxy.process.name())
}

/// What sends the requests of one case.
enum Clients {
    Http1(Vec<Http1>),
    Http2(Vec<SendRequest<Bytes>>, usize),
    Tcp(Vec<TcpStream>),
    Connect(usize),
}

struct Http1 {
    stream: TcpStream,
    reader: AnswerReader,
}

// === impl Clients ===

impl Clients {
    async fn open(scenario: &Scenario, running: &Running) -> Result<Self> {
        let mut streams = Vec::new();
        let raw = running.tcp_target.context("no port for opaque bytes")?;
        match scenario.shape {
            Shape::Closed { connections } => {
                for _ in 0..connections {
                    let stream = TcpStream::connect(running.target).await?;
                    stream.set_nodelay(true)?;
                    streams.push(Http1 { stream, reader: AnswerReader::default() });
                }
                Ok(Self::Http1(streams))
            }
            Shape::Http2 { connections, streams } => {
                let mut open = Vec::new();
                for _ in 0..connections {
                    open.push(http2::connect(running.http2_target).await?);
                }
                Ok(Self::Http2(open, streams))
            }
            Shape::Tcp { connections } => {
                let mut streams = Vec::new();
                for _ in 0..connections {
                    let stream = TcpStream::connect(raw).await?;
                    stream.set_nodelay(true)?;
                    streams.push(stream);
                }
                Ok(Self::Tcp(streams))
            }
            Shape::Connect { connections } => Ok(Self::Connect(connections)),
            Shape::Open { .. } | Shape::Idle { .. } | Shape::IdleTcp { .. } => bail!("not a case of the mix"),
        }
    }

    /// How many requests one step has.
    fn at_once(&self) -> usize {
        match self {
            Self::Http1(connections) => connections.len(),
            Self::Http2(connections, streams) => connections.len() * streams,
            Self::Tcp(streams) => streams.len(),
            Self::Connect(connections) => *connections,
        }
    }

    /// Sends one request each, and awaits all answers.
    async fn step(&mut self, scenario: &Scenario, running: &Running) -> Result<()> {
        timeout(STEP_MAX, self.exchange(scenario, running)).await.context("no answer")?
    }

    async fn exchange(&mut self, scenario: &Scenario, running: &Running) -> Result<()> {
        let bytes = scenario.body_bytes;
        match self {
            Self::Http1(connections) => {
                let request = match scenario.upload_bytes {
                    0 => http1::get(&running.host, &scenario.path()),
                    upload => http1::post(&running.host, &scenario.path(), upload),
                };
                for connection in &mut *connections {
                    connection.stream.write_all(&request).await?;
                }
                for connection in connections {
                    connection.answer(bytes).await?;
                }
                Ok(())
            }
            Self::Http2(connections, streams) => {
                let uri = format!("http://{}{}", running.host, scenario.path());
                let exchanges = connections.iter().flat_map(|sender| (0..*streams).map(|_| sender.clone()));
                let exchanges = exchanges.map(|mut sender| {
                    let uri = uri.clone();
                    tokio::task::spawn_local(async move { http2::exchange(&mut sender, &uri).await })
                });
                for exchange in exchanges.collect::<Vec<_>>() {
                    let answer = exchange.await??;
                    ensure!(answer.status == 200 && answer.body_bytes == bytes, "another answer: {answer:?}");
                }
                Ok(())
            }
            Self::Tcp(streams) => {
                let request = raw::request(scenario.upload_bytes, bytes)?;
                for stream in &mut *streams {
                    stream.write_all(&request).await?;
                }
                for stream in streams {
                    stream.read_exact(&mut vec![0; bytes]).await?;
                }
                Ok(())
            }
            Self::Connect(connections) => {
                let raw = running.tcp_target.context("no port for opaque bytes")?;
                let request = raw::request(scenario.upload_bytes, bytes)?;
                for _ in 0..*connections {
                    let mut stream = TcpStream::connect(raw).await?;
                    raw::exchange(&mut stream, &request, bytes, &mut raw::buffer()).await?;
                    stream.shutdown().await?;
                    ensure!(stream.read(&mut [0; 1]).await? == 0, "bytes after the answer");
                }
                Ok(())
            }
        }
    }
}

// === impl Http1 ===

impl Http1 {
    async fn answer(&mut self, bytes: usize) -> Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = self.stream.read(&mut buffer).await?;
            ensure!(count > 0, "closed before the end of the answer");
            if let Some(answer) = self.reader.feed(&buffer[..count])? {
                ensure!(answer.status == 200 && answer.body_bytes == bytes, "another answer: {answer:?}");
                return Ok(());
            }
        }
    }
}

/// The record's text.
fn written(counted: &BTreeMap<String, Pair>) -> String {
    let mut text = String::from(
        "# Instructions per request, client side and server side: made by `make instructions-record`, compared by\n\
         # `make instructions`. A change that makes a case dearer by more than the tolerance says why and records anew.\n",
    );
    for (name, _) in MIX {
        if let Some([client, server]) = counted.get(name) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name} {client:.0} {server:.0}");
        }
    }
    text
}

fn read_record(file: &Path) -> Result<BTreeMap<String, Pair>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse_record(&text).with_context(|| format!("{} is not a record of instructions", file.display()))
}

fn parse_record(text: &str) -> Result<BTreeMap<String, Pair>> {
    let mut record = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let parts: Vec<_> = line.split_whitespace().collect();
        let [name, client, server] = parts[..] else {
            bail!("line {}: expected NAME CLIENT SERVER", number + 1)
        };
        record.insert(name.to_owned(), [client.parse()?, server.parse()?]);
    }
    Ok(record)
}

/// Whether no case costs more than it may.
fn compare(record: &BTreeMap<String, Pair>, counted: &BTreeMap<String, Pair>) -> Result<bool> {
    for name in record.keys().chain(counted.keys()) {
        ensure!(
            record.contains_key(name) && counted.contains_key(name),
            "the record and the mix differ in {name}: record anew"
        );
    }
    let dearer = counted.iter().filter(|(name, pair)| {
        let sum = |pair: &Pair| pair[0] + pair[1];
        sum(pair) > sum(&record[*name]) * (1.0 + TOLERANCE_PERCENT / 100.0)
    });
    Ok(dearer.count() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let counted: BTreeMap<_, _> = MIX
            .iter()
            .enumerate()
            .map(|(number, (name, _))| ((*name).to_owned(), [number as f64, 7.0]))
            .collect();
        assert_eq!(parse_record(&written(&counted)).unwrap(), counted);
    }

    #[test]
    fn what_is_dearer_than_the_tolerance_fails_and_what_is_cheaper_does_not() {
        let pair = |client: f64| BTreeMap::from([("closed-1".to_owned(), [client, 1000.0])]);
        let record = pair(1000.0);
        assert!(compare(&record, &pair(1070.0)).unwrap());
        assert!(!compare(&record, &pair(1200.0)).unwrap());
        assert!(compare(&record, &pair(500.0)).unwrap());
        assert!(compare(&record, &BTreeMap::new()).is_err());
    }

    #[test]
    fn every_case_of_the_mix_is_a_scenario() {
        for (name, _) in MIX {
            name.parse::<Scenario>().unwrap();
        }
    }
}
