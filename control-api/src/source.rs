//! Where configuration comes from. A source emits the documents as they are now, all of them, whenever
//! they changed; what becomes of them is the index's business.

pub mod file;
pub mod last_good;

use weft_config::SourceFile;

/// All that a source holds at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Documents {
    /// The files that could be read, by name.
    pub files: Vec<SourceFile>,
    /// Those that could not.
    pub unreadable: Vec<UnreadableFile>,
}

/// A file that is there and cannot be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnreadableFile {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// The source as a whole cannot be read; what was served stays.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the policies in {directory}")]
pub struct SourceError {
    /// The directory.
    pub directory: String,
    /// Why not.
    #[source]
    pub source: std::io::Error,
}
