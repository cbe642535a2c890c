//! Open loop: request number i is due at i/rate, whether earlier ones were answered or not, and its latency counts
//! from when it was due; so a proxy that stalls cannot hide the requests that would have come meanwhile.
//! One thread per connection: a thread's sleep is exact to 50 µs, an event loop's timer to a millisecond, and at
//! 2000 requests per second the latter would send bursts and hide half of the wake-ups that this load is about.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{Options, Recorder, Window, expect_answer, say};
use crate::http1::{self, Answer, AnswerReader};

const READ_BYTES: usize = 32 * 1024;

/// Longer than any wait that is still an answer; then it is an error.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

struct Connection {
    stream: TcpStream,
    reader: AnswerReader,
    buffer: Vec<u8>,
}

/// Hands out due times in order; a free connection takes the next one.
struct Schedule {
    start: Instant,
    rate: u32,
    next: AtomicU64,
}

pub(super) fn run(options: &Options, rate: u32, connections: usize) -> Result<(Recorder, Duration)> {
    let open: Vec<_> = (0..connections).map(|_| Connection::open(options)).collect::<Result<_>>()?;
    let window = Window::from_now(options);
    let schedule = Arc::new(Schedule { start: Instant::now(), rate, next: AtomicU64::new(0) });
    let threads: Vec<_> = open
        .into_iter()
        .map(|connection| {
            let (options, schedule) = (options.clone(), Arc::clone(&schedule));
            thread::spawn(move || drive(connection, &options, window, &schedule))
        })
        .collect();
    thread::sleep(window.begin.saturating_duration_since(Instant::now()));
    let began = Instant::now();
    say("begin");
    let mut total = Recorder::new();
    for thread in threads {
        total.merge(thread.join().map_err(|_| anyhow!("a connection's thread must not panic"))?);
    }
    // The last request is due just before the end: the window is at least what was scheduled for it.
    thread::sleep(window.end.saturating_duration_since(Instant::now()));
    Ok((total, began.elapsed()))
}

fn drive(mut connection: Connection, options: &Options, window: Window, schedule: &Schedule) -> Recorder {
    let request = http1::get(&options.host, &options.scenario.path());
    let mut recorder = Recorder::new();
    loop {
        let due = schedule.take();
        if due >= window.end {
            return recorder;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let result = connection
            .exchange(&request)
            .and_then(|answer| expect_answer(answer, &options.scenario).map(|()| answer));
        let again = match result {
            Ok(answer) => {
                if due >= window.begin {
                    recorder.answered(due.elapsed());
                }
                if !answer.close {
                    continue;
                }
                recorder.reconnects += 1;
                true
            }
            Err(error) => recorder.failed(&error),
        };
        if !again {
            return recorder;
        }
        connection = match Connection::open(options) {
            Ok(connection) => connection,
            Err(error) => {
                recorder.failed(&error);
                return recorder;
            }
        };
    }
}

// === impl Schedule ===

impl Schedule {
    fn take(&self) -> Instant {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        self.start + Duration::from_nanos(index * 1_000_000_000 / u64::from(self.rate))
    }
}

// === impl Connection ===

impl Connection {
    fn open(options: &Options) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&options.target, ANSWER_TIMEOUT).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { stream, reader: AnswerReader::default(), buffer: vec![0; READ_BYTES] })
    }

    fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).context("cannot send")?;
        loop {
            let read = self.stream.read(&mut self.buffer).context("cannot read")?;
            ensure!(read > 0, "connection closed before the end of the answer");
            if let Some(answer) = self.reader.feed(&self.buffer[..read])? {
                return Ok(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_are_evenly_spaced_from_the_start() {
        let schedule = Schedule { start: Instant::now(), rate: 500, next: AtomicU64::new(0) };
        let due: Vec<_> = (0..3).map(|_| schedule.take() - schedule.start).collect();
        assert_eq!(due, [Duration::ZERO, Duration::from_millis(2), Duration::from_millis(4)]);
    }
}
