//! A directory of YAML, read as a whole.
//!
//! Symbolic links are followed, since a mounted ConfigMap consists of them; what is hidden is left
//! alone, since the same mount keeps its versions there. Depth, number and size are bounded, and
//! nothing but a regular file is opened.

use crate::SourceFile;
use crate::document::FILE_SIZE_MAX;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The deepest directory below the given one.
const DEPTH_MAX: usize = 8;
/// The most files.
const FILES_MAX: usize = 50_000;
/// The most bytes of all files together.
const TOTAL_SIZE_MAX: usize = 256 * 1024 * 1024;

/// Why a directory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system says no.
    #[error("cannot read {path}")]
    Unreadable {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is above the bound.
    #[error("{path} is larger than {} MiB", FILE_SIZE_MAX >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// All files together are above a bound.
    #[error("{path} holds more than {FILES_MAX} files, {} MiB or {DEPTH_MAX} levels of directories", TOTAL_SIZE_MAX >> 20)]
    TooMuch {
        /// The directory.
        path: PathBuf,
    },
}

/// Reads every `*.yaml` and `*.yml` of a directory and of those within it, sorted by name. Bytes that
/// are not UTF-8 become replacement characters, which `compile` refuses with their place.
pub fn read_directory(path: impl AsRef<Path>) -> Result<Vec<SourceFile>, ReadError> {
    let path = path.as_ref();
    let mut reading = Reading { root: path, files: Vec::new(), total: 0 };
    reading.directory(path, 0)?;
    reading.files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(reading.files)
}

/// Reads directories as [`read_directory`] does, and single files whatever their names. Of several
/// paths each file goes by its path as given; of one directory, by its path within it.
pub fn read_paths(paths: &[PathBuf]) -> Result<Vec<SourceFile>, ReadError> {
    if let [only] = paths
        && only.is_dir()
    {
        return read_directory(only);
    }
    let mut reading = Reading { root: Path::new(""), files: Vec::new(), total: 0 };
    for path in paths {
        if path.is_dir() {
            reading.directory(path, 0)?;
        } else {
            reading.file(path)?;
        }
    }
    // A file that is named and lies in a directory that is named, too, is one file.
    let mut seen = std::collections::HashSet::new();
    reading.files.retain(|file| seen.insert(file.name.clone()));
    reading.files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(reading.files)
}

struct Reading<'p> {
    root: &'p Path,
    files: Vec<SourceFile>,
    total: usize,
}

impl Reading<'_> {
    fn too_much(&self) -> ReadError {
        ReadError::TooMuch { path: self.root.to_owned() }
    }

    fn directory(&mut self, path: &Path, depth: usize) -> Result<(), ReadError> {
        if depth > DEPTH_MAX {
            return Err(self.too_much());
        }
        let unreadable = |source| ReadError::Unreadable { path: path.to_owned(), source };
        for entry in fs::read_dir(path).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') {
                continue;
            }
            let wanted = name.ends_with(".yaml") || name.ends_with(".yml");
            let kind = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                // A link to nothing, or a file that went away: only what would have been read matters.
                Err(_) if !wanted => continue,
                Err(source) => return Err(ReadError::Unreadable { path, source }),
            };
            if kind.is_dir() {
                self.directory(&path, depth + 1)?;
            } else if kind.is_file() && wanted {
                self.file(&path)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), ReadError> {
        let unreadable = |source| ReadError::Unreadable { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let bound = u64::try_from(FILE_SIZE_MAX).unwrap_or(u64::MAX);
        let file = fs::File::open(path).map_err(unreadable)?;
        file.take(bound + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() > FILE_SIZE_MAX {
            return Err(ReadError::TooLarge { path: path.to_owned() });
        }
        self.total += bytes.len();
        if self.files.len() >= FILES_MAX || self.total > TOTAL_SIZE_MAX {
            return Err(self.too_much());
        }
        let name = path.strip_prefix(self.root).unwrap_or(path).to_string_lossy().into_owned();
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        self.files.push(SourceFile { name, text });
        Ok(())
    }
}
