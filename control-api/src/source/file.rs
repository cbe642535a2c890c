//! A watched directory of YAML. It is looked at every few milliseconds rather than subscribed to: one
//! pass over names, times and inodes costs microseconds, sees what notification misses (symlinks that
//! are swapped, as ConfigMaps do; network file systems) and cannot lose an event.
//! A file put in place by rename is read at once, for it is whole. What was written in place, appeared or
//! vanished must first look the same twice: half a file can be valid YAML and say something else. The
//! caller owns the clock; nothing in here waits.

use super::{Documents, SourceError, UnreadableFile};
use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use weft_config::SourceFile;

/// How often to look. An edit waits for half of it on average.
pub const INTERVAL: Duration = Duration::from_millis(20);

/// Looking takes at most this share of the time, however large the directory is.
const LOOKING_SHARE: u32 = 50;

/// But no edit waits longer than this for it. A look that took long may only have waited for a processor.
const INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Edits that follow one another within this are taken in together.
const COALESCE: Duration = Duration::from_millis(100);

/// A file changed again within this of its last change may look as it did: times are coarse.
const RACY: Duration = Duration::from_millis(100);

/// The largest file.
const FILE_LENGTH_MAX: u64 = 16 * 1024 * 1024;

/// How deep directories are looked into, and how many files there may be. More is an error rather than
/// left out: what is not read cannot deny.
const DEPTH_MAX: usize = 8;
const FILES_MAX: usize = 50_000;

/// The directory, and what was last seen in it.
#[derive(Debug)]
pub struct FileSource {
    directory: PathBuf,
    /// What was read, as it looked then.
    taken: Vec<FileState>,
    documents: Documents,
    /// A change that is to look the same once more before it is read.
    pending: Option<Vec<FileState>>,
    emitted: Option<Instant>,
    /// When it was read.
    read: SystemTime,
    /// Something was young when it was read: read again, whatever it looks like.
    recheck: bool,
    cost: Duration,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct FileState {
    name: String,
    /// Device and inode: another file of the same name is a replacement.
    file: Option<(u64, u64)>,
    size: u64,
    modified: Option<SystemTime>,
    changed: Option<SystemTime>,
}

impl FileSource {
    /// Reads the directory for the first time.
    pub fn open(directory: &Path) -> Result<(Self, Documents), SourceError> {
        let mut source = Self {
            directory: directory.to_owned(),
            taken: Vec::new(),
            documents: Documents::default(),
            pending: None,
            emitted: None,
            read: UNIX_EPOCH,
            recheck: false,
            cost: Duration::ZERO,
        };
        let seen = source.look()?;
        source.take(seen);
        let documents = source.documents.clone();
        Ok((source, documents))
    }

    /// What was read last.
    pub fn files(&self) -> &[SourceFile] {
        &self.documents.files
    }

    /// How long to wait before the next look.
    pub fn interval(&self) -> Duration {
        (self.cost * LOOKING_SHARE).clamp(INTERVAL, INTERVAL_MAX)
    }

    /// Looks whether anything changed; if so, and it is complete, all there is now.
    pub fn poll(&mut self, now: Instant) -> Result<Option<Documents>, SourceError> {
        let started = Instant::now();
        let seen = self.look()?;
        self.cost = started.elapsed();
        if seen == self.taken && !self.recheck {
            self.pending = None;
            return Ok(None);
        }
        let settled = self.pending.as_ref() == Some(&seen) || seen == self.taken;
        let coalescing = self.emitted.is_some_and(|last| now.saturating_duration_since(last) < COALESCE);
        // Where a look before this one saw something else, somebody is at work.
        let renamed = self.pending.is_none() && only_renamed(&self.taken, &seen);
        if coalescing || !(settled || renamed) {
            self.pending = Some(seen);
            return Ok(None);
        }
        if !self.take_whole(seen, Self::look)? {
            return Ok(None);
        }
        self.emitted = Some(now);
        Ok(Some(self.documents.clone()))
    }

    /// Reads what was seen; whether it says something else than before. `look` looks once more.
    fn take_whole(
        &mut self,
        seen: Vec<FileState>,
        look: impl FnOnce(&Self) -> Result<Vec<FileState>, SourceError>,
    ) -> Result<bool, SourceError> {
        let (documents, taken, read) = (self.documents.clone(), self.taken.clone(), self.read);
        self.take(seen);
        if self.documents == documents {
            return Ok(false);
        }
        // Changed while it was read: this reading may be torn, so it is not given out. All of it is
        // forgotten: a text that was held before would else pass for what its file says now.
        let after = look(self)?;
        if after != self.taken {
            (self.documents, self.taken, self.read) = (documents, taken, read);
            self.pending = Some(after);
            return Ok(false);
        }
        Ok(true)
    }

    fn take(&mut self, seen: Vec<FileState>) {
        let mut documents = Documents::default();
        let mut held: BTreeMap<String, String> = std::mem::take(&mut self.documents.files)
            .into_iter()
            .map(|file| (file.name, file.text))
            .collect();
        for state in &seen {
            // What looks as it did is as it was, unless it was too young to tell.
            let before = self.taken.binary_search_by(|taken| taken.name.cmp(&state.name));
            let same = before.is_ok_and(|at| self.taken[at] == *state) && !state.is_young(self.read);
            let text = held.remove(&state.name).filter(|_| same);
            match text.map_or_else(|| read(&self.directory.join(&state.name)), Ok) {
                Ok(text) => documents.files.push(SourceFile { name: state.name.clone(), text }),
                Err(error) => documents
                    .unreadable
                    .push(UnreadableFile { name: state.name.clone(), reason: error.to_string() }),
            }
        }
        self.read = SystemTime::now();
        self.recheck = seen.iter().any(|state| state.is_young(self.read));
        self.taken = seen;
        self.documents = documents;
        self.pending = None;
    }

    fn look(&self) -> Result<Vec<FileState>, SourceError> {
        let failed = |source| SourceError { directory: self.directory.display().to_string(), source };
        let mut seen = Vec::with_capacity(self.taken.len());
        look_into(&self.directory, "", DEPTH_MAX, &mut seen).map_err(failed)?;
        seen.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(seen)
    }
}

fn look_into(directory: &Path, prefix: &str, depth: usize, seen: &mut Vec<FileState>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        // Hidden: an editor's temporary file, or the directories behind a ConfigMap's links.
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        let path = entry.path();
        let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
        // Follows links: what counts is what would be read.
        let metadata = fs::metadata(&path);
        match &metadata {
            Ok(metadata) if metadata.is_dir() => {
                let below = depth.checked_sub(1).ok_or_else(too_much)?;
                look_into(&path, &format!("{prefix}{name}/"), below, seen)?;
            }
            _ if seen.len() >= FILES_MAX => return Err(too_much()),
            _ if yaml => seen.push(FileState::new(format!("{prefix}{name}"), metadata.ok().as_ref())),
            _ => {}
        }
    }
    Ok(())
}

fn too_much() -> io::Error {
    io::Error::other(format!("more than {FILES_MAX} files or {DEPTH_MAX} levels of directories"))
}

fn read(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_LENGTH_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_LENGTH_MAX {
        return Err(io::Error::other("it is larger than 16 MiB"));
    }
    Ok(text)
}

/// Whether all that differs is files that another file took the place of by a rename, which is at once
/// and whole. A rename moves a file's change time and not its modification time; where the two are alike
/// (no such file system, or too coarse a clock) it may be a file that is still being written.
fn only_renamed(before: &[FileState], after: &[FileState]) -> bool {
    before.len() == after.len()
        && before.iter().zip(after).all(|(old, new)| {
            let replaced = new.file.is_some() && old.file != new.file;
            old.name == new.name && (old == new || (replaced && new.changed_after_written()))
        })
}

impl FileState {
    fn new(name: String, metadata: Option<&Metadata>) -> Self {
        Self {
            name,
            file: metadata.map(|held| (held.dev(), held.ino())),
            size: metadata.map_or(0, Metadata::len),
            modified: metadata.and_then(|held| held.modified().ok()),
            // Also moves when somebody sets the modification time back.
            changed: metadata.and_then(change_time),
        }
    }

    /// Whether a further change would not show when it was read then.
    fn is_young(&self, read: SystemTime) -> bool {
        self.modified.is_some_and(|modified| modified + RACY > read && modified < read + RACY)
    }

    fn changed_after_written(&self) -> bool {
        self.changed > self.modified
    }
}

fn change_time(metadata: &Metadata) -> Option<SystemTime> {
    let seconds = u64::try_from(metadata.ctime()).ok()?;
    let nanoseconds = u32::try_from(metadata.ctime_nsec()).ok()?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Fixture {
        temporary: tempfile::TempDir,
        source: FileSource,
        now: Instant,
    }

    impl Fixture {
        fn new(files: &[(&str, &str)]) -> Self {
            let temporary = tempfile::tempdir().unwrap();
            for (name, text) in files {
                fs::write(temporary.path().join(name), text).unwrap();
            }
            let (source, _) = FileSource::open(temporary.path()).unwrap();
            Self { temporary, source, now: Instant::now() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.temporary.path().join(name)
        }

        fn rename_into(&self, name: &str, text: &str) {
            let temporary = self.path(".new");
            fs::write(&temporary, text).unwrap();
            // However coarse the file system's clock is.
            let written = SystemTime::now() - Duration::from_secs(1);
            fs::File::options().write(true).open(&temporary).unwrap().set_modified(written).unwrap();
            fs::rename(temporary, self.path(name)).unwrap();
        }

        /// One look, `after` later.
        fn poll(&mut self, after: Duration) -> Option<Vec<(String, String)>> {
            self.now += after;
            let documents = self.source.poll(self.now).unwrap()?;
            Some(documents.files.into_iter().map(|file| (file.name, file.text)).collect())
        }

        /// Looks until nothing is about to come any more.
        fn quiet(&mut self) {
            while self.source.recheck || self.source.pending.is_some() {
                self.poll(COALESCE);
            }
        }
    }

    fn pairs(files: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        Some(files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
    }

    #[test]
    fn a_rename_is_taken_in_at_the_first_look() {
        let mut fixture = Fixture::new(&[("a.yaml", "1"), ("b.yml", "1"), ("c.txt", "no")]);
        fixture.quiet();
        assert_eq!(fixture.poll(INTERVAL), None);
        fixture.rename_into("a.yaml", "2");
        assert_eq!(fixture.poll(INTERVAL), pairs(&[("a.yaml", "2"), ("b.yml", "1")]));
        assert_eq!(fixture.poll(INTERVAL), None);
    }

    #[test]
    fn what_was_written_in_place_appeared_or_vanished_must_look_the_same_twice() {
        let mut fixture = Fixture::new(&[("a.yaml", "1")]);
        fixture.quiet();
        fs::write(fixture.path("a.yaml"), "").unwrap();
        assert_eq!(fixture.poll(INTERVAL), None, "truncated, not yet written");
        fs::write(fixture.path("a.yaml"), "two").unwrap();
        assert_eq!(fixture.poll(INTERVAL), None);
        assert_eq!(fixture.poll(INTERVAL), pairs(&[("a.yaml", "two")]));

        fs::write(fixture.path("b.yaml"), "b").unwrap();
        assert_eq!(fixture.poll(COALESCE), None);
        assert_eq!(fixture.poll(INTERVAL), pairs(&[("a.yaml", "two"), ("b.yaml", "b")]));

        // As editors do that move the old file away first.
        fs::remove_file(fixture.path("a.yaml")).unwrap();
        assert_eq!(fixture.poll(COALESCE), None);
        fs::write(fixture.path("a.yaml"), "three").unwrap();
        assert_eq!(fixture.poll(INTERVAL), None);
        assert_eq!(fixture.poll(INTERVAL), pairs(&[("a.yaml", "three"), ("b.yaml", "b")]));

        fs::remove_file(fixture.path("a.yaml")).unwrap();
        assert_eq!(fixture.poll(COALESCE), None);
        assert_eq!(fixture.poll(INTERVAL), pairs(&[("b.yaml", "b")]));
    }

    #[test]
    fn edits_in_a_burst_are_taken_in_together() {
        let mut fixture = Fixture::new(&[("a.yaml", "1")]);
        fixture.quiet();
        fixture.rename_into("a.yaml", "2");
        assert!(fixture.poll(COALESCE).is_some());
        for text in ["3", "4"] {
            fixture.rename_into("a.yaml", text);
            assert_eq!(fixture.poll(INTERVAL), None);
        }
        assert_eq!(fixture.poll(COALESCE), pairs(&[("a.yaml", "4")]));
    }

    #[test]
    fn a_config_maps_swapped_link_is_seen() {
        let temporary = tempfile::tempdir().unwrap();
        for (directory, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(temporary.path().join(directory)).unwrap();
            fs::write(temporary.path().join(directory).join("a.yaml"), text).unwrap();
        }
        symlink("..1", temporary.path().join("..data")).unwrap();
        symlink("..data/a.yaml", temporary.path().join("a.yaml")).unwrap();
        let (source, first) = FileSource::open(temporary.path()).unwrap();
        assert_eq!(first.files.len(), 1, "the files behind the links are not read twice");
        let mut fixture = Fixture { temporary, source, now: Instant::now() };
        fixture.quiet();
        symlink("..2", fixture.path("..data_tmp")).unwrap();
        fs::rename(fixture.path("..data_tmp"), fixture.path("..data")).unwrap();
        assert_eq!(fixture.poll(COALESCE), None);
        assert_eq!(fixture.poll(INTERVAL), pairs(&[("a.yaml", "two")]));
    }

    #[test]
    fn a_second_change_in_the_same_instant_is_not_lost() {
        let mut fixture = Fixture::new(&[("a.yaml", "1")]);
        // It was read as it was being written: the clock is too coarse to tell the two apart.
        fixture.source.documents.files[0].text = "0".to_owned();
        assert!(fixture.source.recheck);
        assert_eq!(fixture.poll(COALESCE), pairs(&[("a.yaml", "1")]));
        fixture.quiet();
        assert_eq!(fixture.poll(COALESCE), None);
    }

    #[test]
    fn an_edit_that_was_read_while_another_was_made_is_not_lost() {
        let mut fixture = Fixture::new(&[("a.yaml", "1"), ("b.yaml", "1")]);
        fixture.quiet();
        fixture.rename_into("b.yaml", "2");
        let seen = fixture.source.look().unwrap();
        let mut source =
            std::mem::replace(&mut fixture.source, FileSource::open(fixture.temporary.path()).unwrap().0);
        let whole = source.take_whole(seen, |source| {
            fixture.rename_into("a.yaml", "2");
            source.look()
        });
        assert!(!whole.unwrap(), "half of it is from before, half from after");
        fixture.source = source;
        assert_eq!(fixture.poll(COALESCE), pairs(&[("a.yaml", "2"), ("b.yaml", "2")]));
    }

    #[test]
    fn a_look_that_took_long_puts_the_next_one_off_by_no_more_than_a_second() {
        let mut fixture = Fixture::new(&[("a.yaml", "1")]);
        assert_eq!(fixture.source.interval(), INTERVAL);
        fixture.source.cost = Duration::from_millis(1);
        assert_eq!(fixture.source.interval(), Duration::from_millis(50));
        fixture.source.cost = Duration::from_secs(3);
        assert_eq!(fixture.source.interval(), INTERVAL_MAX);
    }

    #[test]
    fn subdirectories_are_read_and_what_cannot_be_read_is_named() {
        let mut fixture = Fixture::new(&[("a.yaml", "1")]);
        fs::create_dir(fixture.path("team")).unwrap();
        fs::write(fixture.path("team/b.yaml"), "2").unwrap();
        fs::write(fixture.path("bad.yaml"), [0xff, 0xfe]).unwrap();
        symlink("nowhere", fixture.path("lost.yaml")).unwrap();
        fixture.quiet();
        let documents = &fixture.source.documents;
        let names: Vec<_> = documents.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["a.yaml", "team/b.yaml"]);
        let names: Vec<_> = documents.unreadable.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["bad.yaml", "lost.yaml"]);
    }

    #[test]
    fn a_directory_that_is_gone_is_an_error_and_not_an_empty_configuration() {
        let mut fixture = Fixture::new(&[("a.yaml", "1")]);
        fs::rename(fixture.temporary.path(), fixture.temporary.path().with_extension("away")).unwrap();
        assert!(fixture.source.poll(fixture.now).is_err());
        fs::rename(fixture.temporary.path().with_extension("away"), fixture.temporary.path()).unwrap();
        assert_eq!(fixture.poll(COALESCE), None);
        assert!(FileSource::open(&fixture.path("none")).is_err());
    }
}
