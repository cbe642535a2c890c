//! The process itself as metrics, under the names every Prometheus client library uses, read from
//! `/proc/self` when somebody scrapes. A value that cannot be read is left out rather than shown as zero.
//! Linux only, as the data path is; elsewhere the families are simply empty.

use std::fs;
use std::path::{Path, PathBuf};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};

use super::{RegistryError, refused};

/// The unit of times in `/proc/*/stat`: fixed at 100 a second in the kernel's interface to programs on
/// every architecture this builds for, whatever the kernel ticks at inside.
const TICKS_PER_SECOND: f64 = 100.0;

/// Name, help and type of each family, in the order in which [`ProcessCollector::values`] answers.
const FAMILIES: [(&str, &str, MetricType); 7] = [
    ("process_cpu_seconds_total", "User and system CPU time spent, in seconds.", MetricType::COUNTER),
    ("process_resident_memory_bytes", "Resident memory size in bytes.", MetricType::GAUGE),
    ("process_virtual_memory_bytes", "Virtual memory size in bytes.", MetricType::GAUGE),
    ("process_threads", "Number of threads.", MetricType::GAUGE),
    ("process_open_fds", "Number of open file descriptors.", MetricType::GAUGE),
    ("process_max_fds", "Number of file descriptors that may be open.", MetricType::GAUGE),
    (
        "process_start_time_seconds",
        "Start of the process in seconds since the Unix epoch.",
        MetricType::GAUGE,
    ),
];

#[derive(Debug)]
pub(super) struct ProcessCollector {
    proc: PathBuf,
    descs: Vec<Desc>,
}

// === impl ProcessCollector ===

impl ProcessCollector {
    pub(super) fn new() -> Result<Self, RegistryError> {
        Self::at(Path::new("/proc"))
    }

    fn at(proc: &Path) -> Result<Self, RegistryError> {
        let descs = FAMILIES
            .iter()
            .map(|(name, help, _)| {
                Desc::new((*name).into(), (*help).into(), Vec::new(), Default::default())
                    .map_err(|source| refused(name, source))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { proc: proc.to_owned(), descs })
    }

    fn values(&self) -> [Option<f64>; FAMILIES.len()] {
        let read = |path: &str| fs::read_to_string(self.proc.join(path)).unwrap_or_default();
        let stat = read("self/stat");
        let status = read("self/status");
        let limits = read("self/limits");
        let boot = read("stat");
        [
            cpu_seconds(&stat),
            kilobytes(&status, "VmRSS:"),
            kilobytes(&status, "VmSize:"),
            field(&status, "Threads:"),
            self.open_files(),
            field(&limits, "Max open files"),
            start_time(&stat, &boot),
        ]
    }

    fn open_files(&self) -> Option<f64> {
        let directory = self.proc.join("self/fd");
        // Linux 6.2 and later tell the number as the directory's size; counting entries costs
        // a walk over all connections.
        let told = fs::metadata(&directory).ok()?.len();
        if told > 0 && self.proc == Path::new("/proc") {
            return Some(told as f64);
        }
        // Less the one that reads the directory.
        Some((fs::read_dir(&directory).ok()?.count() as f64 - 1.0).max(0.0))
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let with_values = FAMILIES.iter().zip(self.values());
        with_values
            .filter_map(|((name, help, kind), value)| {
                let mut metric = Metric::default();
                match kind {
                    MetricType::COUNTER => {
                        let mut counter = Counter::default();
                        counter.set_value(value?);
                        metric.set_counter(counter);
                    }
                    _ => {
                        let mut gauge = Gauge::default();
                        gauge.set_value(value?);
                        metric.set_gauge(gauge);
                    }
                }
                let mut family = MetricFamily::default();
                family.set_name((*name).to_owned());
                family.set_help((*help).to_owned());
                family.set_field_type(*kind);
                family.set_metric(vec![metric]);
                Some(family)
            })
            .collect()
    }
}

/// Field number `number` of `/proc/self/stat`, as proc(5) counts them. The second is the program's name
/// in parentheses, which may hold anything, so that counting starts behind the last one.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_time(stat: &str, boot: &str) -> Option<f64> {
    Some(field(boot, "btime")? + stat_field(stat, 22)? / TICKS_PER_SECOND)
}

/// The first number behind a label at the start of a line.
fn field(text: &str, label: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn kilobytes(status: &str, label: &str) -> Option<f64> {
    Some(field(status, label)? * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_full_of_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c 1 2) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 3 0 12345 1 2";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(start_time(stat, "cpu 1 2\nbtime 1000\n"), Some(1123.45));
        assert_eq!(cpu_seconds("nonsense"), None);
    }

    #[test]
    fn values_of_this_process_are_plausible() {
        let [cpu, resident, virtual_size, threads, open, most, start] =
            ProcessCollector::new().unwrap().values();
        assert!(cpu.unwrap() >= 0.0);
        assert!(resident.unwrap() > 100_000.0);
        assert!(virtual_size.unwrap() >= resident.unwrap());
        assert!(threads.unwrap() >= 1.0);
        assert!(open.unwrap() >= 3.0);
        assert!(most.unwrap() >= open.unwrap());
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!(start.unwrap() <= now + 5.0 && start.unwrap() > 1.0e9);
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let empty = tempfile::tempdir().unwrap();
        let collector = ProcessCollector::at(empty.path()).unwrap();
        assert!(collector.collect().is_empty());
        fs::create_dir(empty.path().join("self")).unwrap();
        fs::write(empty.path().join("self/status"), "VmRSS:\t 4 kB\nThreads:\tx\n").unwrap();
        let families = collector.collect();
        assert_eq!(families.len(), 1);
        assert_eq!(families[0].name(), "process_resident_memory_bytes");
        assert_eq!(families[0].get_metric()[0].get_gauge().get_value(), 4096.0);
    }
}
