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

/// Looking takes at most this share of the time, for as long as a look takes less than 20 ms.
const LOOKING_SHARE: u32 = 50;

/// No edit waits longer than this for the next look, so that one of a very large directory takes a larger
/// share. A look that took long may also only have waited for a processor.
const INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Edits that follow one another within this are taken in together.
const COALESCE: Duration = Duration::from_millis(100);

/// A file changed again within this of its last change may look as it did: times are coarse.
const RACY: Duration = Duration::from_millis(100);

/// A file that could not be read looks the same when it could be: it is tried again this often.
const READ_RETRY: Duration = Duration::from_secs(1);

/// How often the directory is read at the start until it stays as it is meanwhile.
const READINGS_MAX: usize = 10;

/// The largest file.
const FILE_LENGTH_MAX: u64 = 16 * 1024 * 1024;

/// How deep directories are looked into, how many files there may be, and how large they may be together.
/// More is an error rather than left out: what is not read cannot deny.
const DEPTH_MAX: usize = 8;
const FILES_MAX: usize = 50_000;
const TOTAL_LENGTH_MAX: u64 = 256 * 1024 * 1024;

const EMPTIED: &str =
    "there is no policy file in it any more; if nothing is to be served, leave an empty one";

/// What stands for bytes that are not UTF-8.
const REPLACED: char = '\u{fffd}';

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
    /// When to try again what could not be read.
    retry: Option<Instant>,
    cost: Duration,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct FileState {
    name: String,
    /// Its name is not UTF-8: nothing can be said of it by that name, so it is not read.
    misnamed: bool,
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
            retry: None,
            cost: Duration::ZERO,
        };
        // What changed while it was read is read again. Who never stops changing it is seen at the next look.
        for _ in 0..READINGS_MAX {
            let seen = source.look()?;
            source.take(seen);
            if source.look()? == source.taken {
                break;
            }
        }
        source.retry_later(Instant::now());
        let documents = source.documents.clone();
        Ok((source, documents))
    }

    /// What was read last.
    pub fn files(&self) -> &[SourceFile] {
        &self.documents.files
    }

    /// Whether all that was there at the last look has been given out.
    pub fn is_settled(&self) -> bool {
        self.pending.is_none() && !self.recheck
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
        // A volume that is not mounted is an empty directory. Taken for the wish to serve nothing, it would
        // end every workload of the mesh.
        if seen.is_empty() && !self.taken.is_empty() {
            self.pending = None;
            return Err(self.failed(io::Error::other(EMPTIED)));
        }
        let retry = self.retry.is_some_and(|retry| now >= retry);
        if seen == self.taken && !self.recheck && !retry {
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
        let whole = self.take_whole(seen, Self::look);
        self.retry_later(now);
        if !whole? {
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

    fn retry_later(&mut self, now: Instant) {
        self.retry = (!self.documents.unreadable.is_empty()).then(|| now + READ_RETRY);
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
            match text.map_or_else(|| state.read(&self.directory), Ok) {
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
        let mut seen = Vec::with_capacity(self.taken.len());
        look_into(&self.directory, "", DEPTH_MAX, &mut seen).map_err(|error| self.failed(error))?;
        if seen.iter().map(|state| state.size).sum::<u64>() > TOTAL_LENGTH_MAX {
            return Err(self.failed(too_much()));
        }
        seen.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(seen)
    }

    fn failed(&self, source: io::Error) -> SourceError {
        SourceError { directory: self.directory.display().to_string(), source }
    }
}

fn look_into(directory: &Path, prefix: &str, depth: usize, seen: &mut Vec<FileState>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let written = entry.file_name();
        let name = written.to_string_lossy();
        // Hidden: an editor's temporary file, or the directories behind a ConfigMap's links.
        if name.starts_with('.') {
            continue;
        }
        let misnamed = written.to_str().is_none();
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
            _ if yaml => {
                let state = FileState::new(format!("{prefix}{name}"), metadata.ok().as_ref());
                seen.push(FileState { misnamed: misnamed || prefix.contains(REPLACED), ..state });
            }
            _ => {}
        }
    }
    Ok(())
}

fn too_much() -> io::Error {
    io::Error::other(format!(
        "more than {FILES_MAX} files, {} MiB or {DEPTH_MAX} levels of directories",
        TOTAL_LENGTH_MAX >> 20
    ))
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
            misnamed: false,
            file: metadata.map(|held| (held.dev(), held.ino())),
            size: metadata.map_or(0, Metadata::len),
            modified: metadata.and_then(|held| held.modified().ok()),
            // Also moves when somebody sets the modification time back.
            changed: metadata.and_then(change_time),
        }
    }

    fn read(&self, directory: &Path) -> io::Result<String> {
        if self.misnamed {
            return Err(io::Error::other("its name is not UTF-8: rename it"));
        }
        read(&directory.join(&self.name))
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
mod tests;
