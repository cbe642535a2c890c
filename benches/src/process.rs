//! Processes and their owner: what is started here is killed by its own pid when its owner is dropped, and all of
//! it, with the directory it worked in, when the bench is interrupted. Nothing is ever looked up by name.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write as _,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// All that lives, so that an interruption can end it. A child leaves the list before it is reaped, under the same
/// lock, so that a pid that may have been reused is never killed.
static LIVE: Mutex<Vec<Live>> = Mutex::new(Vec::new());

/// Enough for two descriptors per connection of the largest scenario.
const DESCRIPTORS: u64 = 65_536;

enum Live {
    Process(Child),
    Directory(PathBuf),
}

/// A running process and where its output went.
pub(crate) struct Owned {
    name: String,
    pid: u32,
    log: PathBuf,
}

/// A directory that goes away with its owner or with an interruption.
pub(crate) struct Scratch(TempDir);

/// Kills everything and ends the bench when it is told to stop.
pub(crate) fn end_on_interruption() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        use tokio::signal::unix::{SignalKind, signal};
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        // The lock is kept until the end: nothing can be started any more.
        let mut live = lock();
        for entry in live.drain(..) {
            match entry {
                Live::Process(mut child) => {
                    child.kill().and_then(|()| child.wait()).ok();
                }
                Live::Directory(directory) => {
                    std::fs::remove_dir_all(directory).ok();
                }
            }
        }
        std::process::exit(130);
    });
    Ok(())
}

/// As many file descriptors as this process, and all that it starts, may have. An idle connection takes two of a proxy.
pub(crate) fn raise_descriptor_limit() -> Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Whoever may raise the hard limit has it raised; all others get what there is.
    let wanted = hard.max(DESCRIPTORS);
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// A port of `address` that was free a moment ago.
pub(crate) fn free_port(address: IpAddr) -> Result<SocketAddr> {
    // The kernel may offer a port again as soon as it is released, before its user has bound it.
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..1000 {
        let listener = TcpListener::bind((address, 0)).with_context(|| format!("cannot bind {address}"))?;
        let port = listener.local_addr()?;
        if given.insert(port.port()) {
            return Ok(port);
        }
    }
    bail!("no port of {address} is free")
}

/// Polls until `done`, at a millisecond's distance: fine enough for the start times that are measured with it.
pub(crate) fn wait_until(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if done()? {
            return Ok(start.elapsed());
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn lock() -> MutexGuard<'static, Vec<Live>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Owned ===

impl Owned {
    /// Starts `command`, its output going to a file in `directory`.
    pub(crate) fn start(name: &str, directory: &Path, command: &mut Command) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        command.stdout(output.try_clone()?).stderr(output);
        Ok(Self::spawn(name, log, command)?.0)
    }

    /// Starts `command`, whose standard output is read by the bench.
    pub(crate) fn start_piped(
        name: &str,
        directory: &Path,
        command: &mut Command,
    ) -> Result<(Self, ChildStdout)> {
        let log = directory.join(format!("{name}.log"));
        command.stdout(Stdio::piped()).stderr(File::create(&log)?);
        let (process, output) = Self::spawn(name, log, command)?;
        Ok((process, output.context("standard output must be piped")?))
    }

    fn spawn(name: &str, log: PathBuf, command: &mut Command) -> Result<(Self, Option<ChildStdout>)> {
        // Spawned under the lock, so that an interruption sees every child or prevents it.
        let mut live = lock();
        let program = command.get_program().to_owned();
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let pid = child.id();
        let output = child.stdout.take();
        live.push(Live::Process(child));
        Ok((Self { name: name.to_owned(), pid, log }, output))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Fails with the process's own words if it has ended.
    pub(crate) fn check_running(&self) -> Result<()> {
        let Some(status) = self.ended()? else { return Ok(()) };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<_> = log.lines().rev().take(12).collect();
        let tail: Vec<_> = tail.into_iter().rev().collect();
        bail!("{} ended ({status}); its last words:\n{}", self.name, tail.join("\n"));
    }

    fn ended(&self) -> Result<Option<ExitStatus>> {
        let mut live = lock();
        for entry in live.iter_mut() {
            if let Live::Process(child) = entry
                && child.id() == self.pid
            {
                return Ok(child.try_wait()?);
            }
        }
        Ok(None)
    }
}

impl Owned {
    /// Ends it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let mut live = lock();
        let position =
            live.iter().position(|entry| matches!(entry, Live::Process(child) if child.id() == self.pid));
        if let Some(position) = position
            && let Live::Process(mut child) = live.swap_remove(position)
        {
            child.kill().and_then(|()| child.wait()).ok();
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.kill();
    }
}

// === impl Scratch ===

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("weft-bench-").tempdir()?;
        lock().push(Live::Directory(directory.path().to_owned()));
        Ok(Self(directory))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Writes `text` to a new file that only its owner may read: keys and tokens go through here as well.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
