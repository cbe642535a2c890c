//! The CPU quota that the process's cgroup allows, and the number of workers that follows from it.
//! Reads both generations: `cpu.max` (v2) and `cpu.cfs_quota_us` (v1), for the process's own group and
//! every group above it, since the tightest one holds. A file that is missing or unreadable means "no
//! quota from here": the answer is then the number of processors.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Component, Path, PathBuf};
use std::thread;

/// Where to read cgroups; the default is this process's own.
#[derive(Clone, Debug)]
pub struct Cgroup {
    /// Where the hierarchies are mounted: `/sys/fs/cgroup`.
    pub mount: PathBuf,
    /// Which group this process is in: `/proc/self/cgroup`.
    pub membership: PathBuf,
}

/// How many workers: the quota rounded up, or all processors where there is none; never more than
/// `at_most`, and at least one. Rounded up, because the rest of a processor is there to be used; a
/// worker too many costs little, since all of them idle most of the time.
#[must_use]
pub fn worker_count(quota: Option<f64>, at_most: usize) -> NonZeroUsize {
    let wanted = match quota {
        // The cast saturates, and makes 0 of what is no number.
        Some(quota) => quota.ceil() as usize,
        None => thread::available_parallelism().map_or(1, NonZeroUsize::get),
    };
    NonZeroUsize::new(wanted.min(at_most)).unwrap_or(NonZeroUsize::MIN)
}

// === impl Cgroup ===

impl Cgroup {
    /// Processors' worth of time that this process may use, such as 0.5 or 2.0; none without a quota.
    #[must_use]
    pub fn cpu_quota(&self) -> Option<f64> {
        let membership = fs::read_to_string(&self.membership).unwrap_or_default();
        let mut tightest: Option<f64> = None;
        let mut consider = |quota: Option<f64>| {
            if let Some(quota) = quota {
                tightest = Some(tightest.map_or(quota, |least| least.min(quota)));
            }
        };
        // Inside a container without a namespace of its own the path is the host's and is not there
        // below the mount; the mount's own files, which are always asked, are then the right ones.
        let (mut unified, mut legacy) = (PathBuf::new(), PathBuf::new());
        for line in membership.lines() {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next(), fields.next(), fields.next());
            match (controllers, path) {
                (Some(""), Some(path)) => unified = inside(path),
                (Some(controllers), Some(path)) if controllers.split(',').any(|c| c == "cpu") => {
                    legacy = inside(path);
                }
                _ => {}
            }
        }
        for group in unified.ancestors() {
            consider(unified_quota(&self.mount.join(group)));
        }
        for hierarchy in ["cpu", "cpu,cpuacct"] {
            for group in legacy.ancestors() {
                consider(legacy_quota(&self.mount.join(hierarchy).join(group)));
            }
        }
        tightest
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self { mount: PathBuf::from("/sys/fs/cgroup"), membership: PathBuf::from("/proc/self/cgroup") }
    }
}

/// The path below the mount: relative, and without `..` (which a process outside its namespace's root
/// sees), so that it cannot lead out of the mount.
fn inside(path: &str) -> PathBuf {
    Path::new(path).components().filter(|component| matches!(component, Component::Normal(_))).collect()
}

/// v2: `max 100000` or `150000 100000`, quota and period in microseconds.
fn unified_quota(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let quota = fields.next()?.parse().ok()?;
    let period = fields.next().map_or(Ok(100_000.0), str::parse).ok()?;
    ratio(quota, period)
}

/// v1: two files, and a quota of -1 for none.
fn legacy_quota(group: &Path) -> Option<f64> {
    let read = |name: &str| -> Option<f64> {
        let text = fs::read_to_string(group.join(name)).ok()?;
        text.trim().parse().ok()
    };
    ratio(read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?)
}

fn ratio(quota: f64, period: f64) -> Option<f64> {
    let sensible = quota > 0.0 && period > 0.0 && quota.is_finite() && period.is_finite();
    sensible.then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        directory: tempfile::TempDir,
    }

    impl Fake {
        fn new(membership: &str) -> Self {
            let fake = Self { directory: tempfile::tempdir().unwrap() };
            fake.write("membership", membership);
            fake
        }

        fn write(&self, path: &str, content: &str) {
            let path = self.directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn quota(&self) -> Option<f64> {
            Cgroup {
                mount: self.directory.path().join("mount"),
                membership: self.directory.path().join("membership"),
            }
            .cpu_quota()
        }
    }

    #[test]
    fn a_container_sees_its_quota_at_the_mount() {
        let fake = Fake::new("0::/\n");
        fake.write("mount/cpu.max", "150000 100000\n");
        assert_eq!(fake.quota(), Some(1.5));
        fake.write("mount/cpu.max", "max 100000\n");
        assert_eq!(fake.quota(), None);
    }

    #[test]
    fn the_tightest_group_on_the_way_up_holds() {
        let fake = Fake::new("0::/pods.slice/pod1/proxy\n");
        fake.write("mount/pods.slice/cpu.max", "400000 100000");
        fake.write("mount/pods.slice/pod1/cpu.max", "50000 100000");
        fake.write("mount/pods.slice/pod1/proxy/cpu.max", "max 100000");
        assert_eq!(fake.quota(), Some(0.5));
    }

    #[test]
    fn version_one_is_read_as_well() {
        let fake = Fake::new("4:memory:/x\n3:cpu,cpuacct:/docker/abc\n0::/elsewhere\n");
        fake.write("mount/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
        fake.write("mount/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        assert_eq!(fake.quota(), None);
        fake.write("mount/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "250000\n");
        fake.write("mount/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n");
        assert_eq!(fake.quota(), Some(2.5));
    }

    #[test]
    fn nonsense_and_absence_mean_no_quota() {
        assert_eq!(Fake::new("").quota(), None);
        for content in ["", "0 100000", "1 0", "many 100000", "nan 1", "1 2 3 x", "-5 100000"] {
            let fake = Fake::new("0::/../../..\nnonsense\n");
            fake.write("mount/cpu.max", content);
            let expected = (content == "1 2 3 x").then_some(0.5);
            assert_eq!(fake.quota(), expected, "{content:?}");
        }
    }

    #[test]
    fn a_path_with_dots_stays_inside_the_mount() {
        let fake = Fake::new("0::/../outside\n");
        fake.write("outside/cpu.max", "100 100000");
        assert_eq!(fake.quota(), None);
    }

    #[test]
    fn workers_are_the_quota_rounded_up_within_one_and_the_cap() {
        assert_eq!(worker_count(Some(0.1), 8).get(), 1);
        assert_eq!(worker_count(Some(1.0), 8).get(), 1);
        assert_eq!(worker_count(Some(1.5), 8).get(), 2);
        assert_eq!(worker_count(Some(64.0), 2).get(), 2);
        assert_eq!(worker_count(Some(f64::NAN), 8).get(), 1);
        assert_eq!(worker_count(Some(4.0), 0).get(), 1);
        assert!(worker_count(None, usize::MAX).get() >= 1);
    }
}
