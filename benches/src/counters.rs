//! What the kernel counted for a process: CPU in nanoseconds and voluntary context switches (each one is a wake-up),
//! summed over its threads; resident memory. CPU comes from schedstat, since a clock tick is worth hundreds of requests.

use std::{collections::HashMap, fs};

use anyhow::{Context as _, Result};

/// A clock tick of /proc is 10 ms on every Linux.
const TICK_NANOSECONDS: u64 = 10_000_000;

#[derive(Clone, Copy, Default)]
struct Thread {
    cpu_nanoseconds: u64,
    wakeups: u64,
}

/// A process's counters at one moment.
pub(crate) struct Sample {
    threads: HashMap<u32, Thread>,
    ticks: u64,
}

/// What a process used between two samples.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_nanoseconds: u64,
    pub(crate) wakeups: u64,
}

/// The whole machine's busy time at one moment, in ticks.
pub(crate) struct MachineSample(u64);

// === impl Sample ===

impl Sample {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let directory = format!("/proc/{pid}/task");
        let mut threads = HashMap::new();
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {directory}"))? {
            let entry = entry?;
            let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A thread may end between the listing and the reading.
            let (Ok(schedule), Ok(status)) = (
                fs::read_to_string(entry.path().join("schedstat")),
                fs::read_to_string(entry.path().join("status")),
            ) else {
                continue;
            };
            let cpu = schedule.split_whitespace().next().and_then(|field| field.parse().ok());
            threads.insert(
                thread,
                Thread {
                    cpu_nanoseconds: cpu.context("schedstat has no CPU time")?,
                    wakeups: field(&status, "voluntary_ctxt_switches:").context("status has no switches")?,
                },
            );
        }
        Ok(Self { threads, ticks: process_ticks(pid)? })
    }

    /// What was used since `earlier`. Where a thread has ended meanwhile its nanoseconds are gone, and the
    /// process's ticks, which outlive threads, are taken instead if they say more.
    pub(crate) fn since(&self, earlier: &Self) -> Usage {
        let mut usage = Usage::default();
        for (thread, now) in &self.threads {
            let before = earlier.threads.get(thread).copied().unwrap_or_default();
            usage.cpu_nanoseconds += now.cpu_nanoseconds.saturating_sub(before.cpu_nanoseconds);
            usage.wakeups += now.wakeups.saturating_sub(before.wakeups);
        }
        if earlier.threads.keys().any(|thread| !self.threads.contains_key(thread)) {
            let ticks = self.ticks.saturating_sub(earlier.ticks) * TICK_NANOSECONDS;
            usage.cpu_nanoseconds = usage.cpu_nanoseconds.max(ticks);
        }
        usage
    }
}

// === impl MachineSample ===

impl MachineSample {
    pub(crate) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().context("/proc/stat is empty")?;
        let fields: Vec<u64> =
            line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal: all but the two in which nobody ran.
        Ok(Self(
            fields
                .iter()
                .take(8)
                .enumerate()
                .filter(|(at, _)| !matches!(at, 3 | 4))
                .map(|(_, ticks)| ticks)
                .sum(),
        ))
    }

    pub(crate) fn busy_nanoseconds_since(&self, earlier: &Self) -> u64 {
        self.0.saturating_sub(earlier.0) * TICK_NANOSECONDS
    }
}

/// Resident memory of a process.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    Ok(field(&status, "VmRSS:").context("status has no VmRSS")? * 1024)
}

fn process_ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // The name in parentheses may hold anything; user and system time are the 12th and 13th fields after it.
    let (_, after) = stat.rsplit_once(')').context("stat has no name")?;
    let fields: Vec<u64> =
        after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(fields.iter().sum())
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_is_counted() {
        let pid = std::process::id();
        let before = Sample::of(pid).unwrap();
        let mut sum = 0_u64;
        while Sample::of(pid).unwrap().since(&before).cpu_nanoseconds < 5_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(resident_bytes(pid).unwrap() > 100_000);
    }

    #[test]
    fn a_thread_that_ended_leaves_its_ticks() {
        let thread = |cpu_nanoseconds, wakeups| Thread { cpu_nanoseconds, wakeups };
        let earlier =
            Sample { threads: HashMap::from([(1, thread(100, 1)), (2, thread(5_000_000, 9))]), ticks: 3 };
        let both =
            Sample { threads: HashMap::from([(1, thread(400, 3)), (2, thread(6_000_000, 9))]), ticks: 4 };
        let used = both.since(&earlier);
        assert_eq!((used.cpu_nanoseconds, used.wakeups), (1_000_300, 2));
        let one = Sample { threads: HashMap::from([(1, thread(400, 3))]), ticks: 7 };
        assert_eq!(one.since(&earlier).cpu_nanoseconds, 4 * TICK_NANOSECONDS);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "VmHWM:\t   900 kB\nVmRSS:\t   700 kB\nnonvoluntary_ctxt_switches:\t5\nvoluntary_ctxt_switches:\t4\n";
        assert_eq!(field(status, "VmRSS:"), Some(700));
        assert_eq!(field(status, "voluntary_ctxt_switches:"), Some(4));
        assert_eq!(field(status, "VmSwap:"), None);
    }
}
