//! The state directory: what this proxy needs to serve again after a restart without the control
//! API. Meant for a tmpfs that only the proxy's container mounts.
//!
//! Files are whole or absent: written beside, then renamed; a checksum in front tells a torn or
//! edited one. They hold a private key, so the directory is 0700 and files are 0600, and what others
//! can read is refused, not used. What vouches for a file is that only this user can have put it there:
//! it must be a file, no link, and this user's or root's. A signature would add nothing: its key would lie beside
//! it. The checksum is against accidents.

use aws_lc_rs::digest::{SHA256, digest};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What every file begins with.
const MAGIC: &[u8] = b"weft-proxy state 1\n";

/// A SHA-256.
const CHECKSUM_LENGTH: usize = 32;

/// The largest file that is read: a snapshot of tens of thousands of endpoints is a few megabytes.
const BYTES_MAX: u64 = 64 << 20;

/// A directory of files.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    path: PathBuf,
}

/// A file's content.
#[derive(Debug)]
pub struct Kept {
    /// What was written.
    pub content: Vec<u8>,
    /// When it was written, or last confirmed.
    pub time: SystemTime,
}

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory cannot be made or written.
    #[error(
        "the state directory {path} cannot be used; make it writable for this user or choose another by state"
    )]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others can read a file that holds a key.
    #[error(
        "{path} can be read by others (mode {mode:o}) and holds a private key; delete it, or run chmod 600 if \
         nobody has read it"
    )]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Somebody else put a file there.
    #[error("{path} belongs to user {user}, who may have written anything in it; delete it")]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Whose.
        user: u32,
    },
    /// A file is there and cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not one of ours, or not whole.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// A file cannot be written.
    #[error("{path} cannot be written")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl StateDirectory {
    /// Makes the directory if it is not there, and sees that it can be written.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Directory { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let state = Self { path: path.to_owned() };
        let probe = state.path.join(".probe");
        private_file(&probe).map_err(failed)?;
        fs::remove_file(&probe).map_err(failed)?;
        Ok(state)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file's content; `None` where there is none.
    pub fn read(&self, name: &str) -> Result<Option<Kept>, StateError> {
        let path = self.path.join(name);
        let failed = |source| StateError::Read { path: path.clone(), source };
        let damaged = |why| StateError::Damaged { path: path.clone(), why };
        let no_link = nix::fcntl::OFlag::O_NOFOLLOW.bits();
        let mut file = match OpenOptions::new().read(true).custom_flags(no_link).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        let facts = file.metadata().map_err(failed)?;
        if facts.mode() & 0o077 != 0 {
            return Err(StateError::Exposed { path, mode: facts.mode() & 0o777 });
        }
        if !facts.is_file() {
            return Err(damaged("it is no file"));
        }
        let user = facts.uid();
        if user != 0 && user != nix::unistd::geteuid().as_raw() {
            return Err(StateError::Foreign { path, user });
        }
        if facts.len() > BYTES_MAX {
            return Err(damaged("it is too large"));
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(failed)?;
        let head = MAGIC.len() + CHECKSUM_LENGTH;
        if content.len() < head || !content.starts_with(MAGIC) {
            return Err(damaged("it does not begin as a state file does"));
        }
        let body = content.split_off(head);
        if digest(&SHA256, &body).as_ref() != &content[MAGIC.len()..] {
            return Err(damaged("its checksum is wrong"));
        }
        let time = facts.modified().map_err(failed)?;
        Ok(Some(Kept { content: body, time }))
    }

    /// Replaces a file's content.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(name);
        let beside = self.path.join(format!(".{name}.new"));
        let write = || -> io::Result<()> {
            let mut file = private_file(&beside)?;
            file.write_all(MAGIC)?;
            file.write_all(digest(&SHA256, content).as_ref())?;
            file.write_all(content)?;
            drop(file);
            fs::rename(&beside, &path)
        };
        write().map_err(|source| StateError::Write { path: path.clone(), source })
    }

    /// What the file says is still true now.
    pub fn confirm(&self, name: &str) -> Result<(), StateError> {
        let path = self.path.join(name);
        let touch = || OpenOptions::new().write(true).open(&path)?.set_modified(SystemTime::now());
        touch().map_err(|source| StateError::Write { path: path.clone(), source })
    }
}

/// A new file that only this user can read. One that is left over from a crash is replaced.
fn private_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_written_is_read_and_only_by_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(&directory.path().join("a/b")).unwrap();
        assert!(state.read("x").unwrap().is_none());
        state.write("x", b"one").unwrap();
        state.write("x", b"two").unwrap();
        assert_eq!(state.read("x").unwrap().unwrap().content, b"two");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&state.path().join("x")), 0o600);
        assert_eq!(mode(state.path()), 0o700);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        state.write("x", b"key").unwrap();
        fs::set_permissions(directory.path().join("x"), PermissionsExt::from_mode(0o644)).unwrap();
        let error = state.read("x").unwrap_err().to_string();
        assert!(error.contains("can be read by others (mode 644)"), "{error}");
    }

    #[test]
    fn a_link_and_somebody_elses_file_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        state.write("real", b"key").unwrap();
        std::os::unix::fs::symlink("real", directory.path().join("x")).unwrap();
        assert!(matches!(state.read("x"), Err(StateError::Read { .. })));
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(directory.path().join("real"), Some(65_533), None).unwrap();
            let error = state.read("real").unwrap_err();
            assert!(matches!(error, StateError::Foreign { user: 65_533, .. }), "{error}");
        }
    }

    #[test]
    fn every_damaged_file_is_told_from_a_whole_one() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        state.write("x", b"some content").unwrap();
        let path = directory.path().join("x");
        let whole = fs::read(&path).unwrap();
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            assert!(matches!(state.read("x"), Err(StateError::Damaged { .. })), "{end}");
        }
        for flipped in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[flipped] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert!(matches!(state.read("x"), Err(StateError::Damaged { .. })), "{flipped}");
        }
    }
}
