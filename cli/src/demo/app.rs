//! The shop's applications: one small HTTP/1.1 server that knows nothing of a mesh. Each runs as a
//! process of its own (`weft demo-app`), answers who it is, and keeps a ledger of the orders it has
//! executed, which is what the demo's claims about POST are checked against.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

/// The hidden subcommand of the `weft` program.
pub(crate) const SUBCOMMAND: &str = "demo-app";

/// Longest line and longest body that is read.
const INPUT_MAX: u64 = 1 << 20;

/// Settings of the hidden subcommand.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// What it calls itself
    #[arg(long)]
    pub(crate) name: String,
    /// The version it says it is
    #[arg(long)]
    pub(crate) version: String,
    /// Where it listens
    #[arg(long)]
    pub(crate) listen: SocketAddr,
}

/// Orders executed, by id.
type Ledger = Arc<Mutex<BTreeMap<String, u32>>>;

/// Serves until the process is ended.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match serve_all(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "weft demo-app: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve_all(arguments: &Arguments) -> std::io::Result<()> {
    let listener = TcpListener::bind(arguments.listen)?;
    let ledger = Ledger::default();
    for stream in listener.incoming() {
        let (stream, arguments, ledger) = (stream?, arguments.clone(), ledger.clone());
        // A connection that breaks is its client's business.
        std::thread::Builder::new().spawn(move || drop(serve(&stream, &arguments, &ledger)))?;
    }
    Ok(())
}

fn serve(stream: &TcpStream, arguments: &Arguments, ledger: &Ledger) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let reached = stream.local_addr()?;
    while let Some(request) = read(&mut reader)? {
        let body = answer(&request, arguments, ledger, reached);
        let text = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-application: {}\r\nx-version: {}\r\n\
             content-length: {}\r\n\r\n{body}",
            arguments.name,
            arguments.version,
            body.len()
        );
        (&mut &*stream).write_all(text.as_bytes())?;
    }
    Ok(())
}

/// What the demo looks at.
struct Request {
    method: String,
    path: String,
    id: Option<String>,
}

fn answer(request: &Request, arguments: &Arguments, ledger: &Ledger, reached: SocketAddr) -> String {
    let mut ledger = ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if request.method == "POST"
        && let Some(id) = &request.id
    {
        *ledger.entry(id.clone()).or_default() += 1;
    }
    if request.path == "/ledger" {
        return serde_json::json!(*ledger).to_string();
    }
    let Arguments { name, version, .. } = arguments;
    let reached = reached.to_string();
    serde_json::json!({ "application": name, "version": version, "path": request.path, "reached": reached })
        .to_string()
}

fn read(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Option<Request>> {
    let start = line(reader)?;
    let mut words = start.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut request = Request { method: method.to_owned(), path: path.to_owned(), id: None };
    let mut length = 0;
    loop {
        let line = line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        if name.eq_ignore_ascii_case("x-request-id") {
            request.id = Some(value.trim().to_owned());
        } else if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    std::io::copy(&mut reader.take(length.min(INPUT_MAX)), &mut std::io::sink())?;
    Ok(Some(request))
}

/// One line without its end; empty at the end of the connection.
fn line(reader: &mut BufReader<&TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    reader.by_ref().take(INPUT_MAX).read_line(&mut line)?;
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}
