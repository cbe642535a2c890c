//! The state directory: the few small files that must outlive the process. Every write is atomic
//! (temporary file, fsync, rename, fsync of the directory), so that a crash leaves the old file or the
//! new one. Secrets that others could read are refused, and never repaired in silence: they may have
//! been read already.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// No state file but a last good document is anywhere near this.
const LENGTH_MAX: u64 = 32 * 1024 * 1024;

/// What cannot be done with the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// An operation failed.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others than its owner may read a secret.
    #[error(
        "{path} may be read by others than its owner (mode {mode:04o}): make it 0600, and if anybody \
         else could have read it, delete it with what was signed by it"
    )]
    Exposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Another server uses it.
    #[error("the state directory {path} is in use by another weft-control")]
    Locked {
        /// The directory.
        path: String,
    },
    /// A file does not hold what was written to it.
    #[error("{path} is damaged: it does not hold what a weft-control writes there")]
    Damaged {
        /// The file.
        path: String,
    },
    /// A file is larger than any that was written here.
    #[error("{path} is too large to be a state file")]
    TooLarge {
        /// The file.
        path: String,
    },
}

/// The directory.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    // Held while the server lives.
    _lock: Option<File>,
}

impl StateDirectory {
    /// Opens it for the server, which must be its only one; makes it where it is missing.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let mut state = Self::make(path)?;
        let lock_path = state.path.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|source| failed("open", &lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => state._lock = Some(lock),
            Err(TryLockError::WouldBlock) => {
                return Err(StateError::Locked { path: path.display().to_string() });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock", &lock_path, source)),
        }
        Ok(state)
    }

    /// Opens it beside a running server. It must be there: in a directory that was misspelt, a new key
    /// would sign what no server believes.
    pub fn open_shared(path: &Path) -> Result<Self, StateError> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Ok(Self { path: path.to_owned(), _lock: None }),
            Ok(_) => Err(failed("use the directory", path, io::ErrorKind::NotADirectory.into())),
            Err(source) => Err(failed("use the directory", path, source)),
        }
    }

    fn make(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| failed("make the directory", path, source))?;
        Ok(Self { path: path.to_owned(), _lock: None })
    }

    /// A directory within it, made where it is missing.
    pub fn subdirectory(&self, name: &str) -> Result<Self, StateError> {
        Self::make(&self.path.join(name))
    }

    /// Where a file lies, for messages.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The error of a file whose content cannot be used.
    pub fn damaged(&self, name: &str) -> StateError {
        StateError::Damaged { path: self.path_of(name).display().to_string() }
    }

    /// The names of its files, hidden ones (temporary files) left out.
    pub fn list(&self) -> Result<Vec<String>, StateError> {
        let refused = |source| failed("read the directory", &self.path, source);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(refused)? {
            let name = entry.map_err(refused)?.file_name();
            if let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The content of a file; `None` where there is none.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path_of(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed("read", &path, source)),
        };
        let mut content = Vec::new();
        file.take(LENGTH_MAX + 1)
            .read_to_end(&mut content)
            .map_err(|source| failed("read", &path, source))?;
        if content.len() as u64 > LENGTH_MAX {
            return Err(StateError::TooLarge { path: path.display().to_string() });
        }
        Ok(Some(content))
    }

    /// The content of a secret, refused where others may read it.
    pub fn read_secret(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path_of(name);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.mode() & 0o077 != 0 => {
                Err(StateError::Exposed { path: path.display().to_string(), mode: metadata.mode() & 0o7777 })
            }
            Ok(_) => self.read(name),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("read", &path, source)),
        }
    }

    /// Puts a file in place of the one of that name, if any.
    pub fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<(), StateError> {
        let path = self.path_of(name);
        let temporary = self.write_temporary(name, content, mode)?;
        fs::rename(&temporary, &path).map_err(|source| {
            let _ = fs::remove_file(&temporary);
            failed("replace", &path, source)
        })?;
        self.sync()
    }

    /// Makes a file that must not be there yet; whether it was this call that made it.
    pub fn create(&self, name: &str, content: &[u8], mode: u32) -> Result<bool, StateError> {
        let path = self.path_of(name);
        let temporary = self.write_temporary(name, content, mode)?;
        // Unlike a rename, a link fails where somebody else was faster.
        let linked = fs::hard_link(&temporary, &path);
        let _ = fs::remove_file(&temporary);
        match linked {
            Ok(()) => self.sync().map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(source) => Err(failed("make", &path, source)),
        }
    }

    /// Removes a file; it need not be there.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.path_of(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path, source)),
            _ => Ok(()),
        }
    }

    fn write_temporary(&self, name: &str, content: &[u8], mode: u32) -> Result<PathBuf, StateError> {
        let path = self.path.join(format!(".{name}.{}", std::process::id()));
        let write = || {
            // Of an earlier process with this number, which cannot be writing any more.
            let _ = fs::remove_file(&path);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(content)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()
        };
        write().map(|()| path.clone()).map_err(|source| {
            // Half of it would take the room that is missing.
            let _ = fs::remove_file(&path);
            failed("write", &path, source)
        })
    }

    fn sync(&self) -> Result<(), StateError> {
        File::open(&self.path)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| failed("write", &self.path, source))
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> StateError {
    StateError::Io { operation, path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_at_a_time_uses_a_directory_and_tools_may_beside_it() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("state");
        assert!(StateDirectory::open_shared(&path).is_err(), "a tool makes no state of its own");
        let first = StateDirectory::open(&path).unwrap();
        let error = StateDirectory::open(&path).unwrap_err();
        assert!(error.to_string().ends_with("is in use by another weft-control"), "{error}");
        StateDirectory::open_shared(&path).unwrap();
        drop(first);
        StateDirectory::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(temporary.path()).unwrap();
        state.write("key", b"secret", 0o600).unwrap();
        assert_eq!(state.read_secret("key").unwrap().unwrap(), b"secret");
        for mode in [0o640, 0o604, 0o644, 0o660] {
            fs::set_permissions(state.path_of("key"), fs::Permissions::from_mode(mode)).unwrap();
            let error = state.read_secret("key").unwrap_err();
            assert!(matches!(error, StateError::Exposed { mode: found, .. } if found == mode), "{error}");
        }
        assert!(state.read_secret("none").unwrap().is_none());
    }

    #[test]
    fn creating_never_replaces_and_writing_always_does() {
        let temporary = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(temporary.path()).unwrap();
        assert!(state.create("a", b"1", 0o600).unwrap());
        assert!(!state.create("a", b"2", 0o600).unwrap());
        assert_eq!(state.read("a").unwrap().unwrap(), b"1");
        state.write("a", b"3", 0o644).unwrap();
        assert_eq!(state.read("a").unwrap().unwrap(), b"3");
        assert_eq!(state.list().unwrap(), ["a", "lock"]);
        state.remove("a").unwrap();
        state.remove("a").unwrap();
        assert!(state.read("a").unwrap().is_none());
    }
}
