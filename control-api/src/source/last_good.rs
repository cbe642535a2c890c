//! The last good text of every file, in memory and in STATE/last-good/, one file each. Of use when a
//! file turns bad: what it said before stays in force, also over a restart.
//! Names are escaped so that each is one plain file name; text is kept as it was, for people to compare.
//! A name that is too long for that stands in the file, before the text. What is good now is known at
//! once; what could not be written of it is tried again, since the next start depends on it.

use crate::state::{StateDirectory, StateError};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use weft_config::SourceFile;

const DIRECTORY: &str = "last-good";

/// The last good files.
#[derive(Debug)]
pub struct LastGood {
    state: StateDirectory,
    files: BTreeMap<String, String>,
    /// Those that do not lie in the directory as they are here.
    behind: BTreeSet<String>,
}

impl LastGood {
    /// Reads what an earlier run left.
    pub fn load(state: &StateDirectory) -> Result<Self, StateError> {
        let state = state.subdirectory(DIRECTORY)?;
        let mut files = BTreeMap::new();
        for held in state.list()? {
            let damaged = || state.damaged(&held);
            let Some(text) = state.read(&held)? else { continue };
            let text = String::from_utf8(text).map_err(|_| damaged())?;
            if held.starts_with(LONG) {
                let (name, text) = text.split_once('\0').ok_or_else(damaged)?;
                files.insert(name.to_owned(), text.to_owned());
            } else if let Some(name) = unescape(&held) {
                files.insert(name, text);
            }
        }
        Ok(Self { state, files, behind: BTreeSet::new() })
    }

    /// Whether nothing was ever good.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The last good text of a file.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.files.get(name).map(String::as_str)
    }

    /// The same, with the name as it is held here.
    pub fn get_key_value(&self, name: &str) -> Option<(&str, &str)> {
        self.files.get_key_value(name).map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// All of them.
    pub fn files(&self) -> Vec<SourceFile> {
        self.files.iter().map(|(name, text)| SourceFile { name: name.clone(), text: text.clone() }).collect()
    }

    /// These are good, and others are no more. An error: not all of it could be written.
    pub fn accept(&mut self, files: &[SourceFile]) -> Result<(), StateError> {
        for file in files {
            if self.get(&file.name) != Some(file.text.as_str()) {
                self.files.insert(file.name.clone(), file.text.clone());
                self.behind.insert(file.name.clone());
            }
        }
        let names: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
        let behind = &mut self.behind;
        self.files.retain(|name, _| {
            let stays = names.contains(name.as_str());
            if !stays {
                behind.insert(name.clone());
            }
            stays
        });
        self.write()
    }

    /// Whether the next start would find something else.
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Writes what is not written yet; one that cannot be does not keep the others from it.
    pub fn write(&mut self) -> Result<(), StateError> {
        let mut outcome = Ok(());
        self.behind.retain(|name| {
            let written = match self.files.get(name) {
                Some(text) => self.state.write(&file_name(name), &content(name, text), 0o600),
                None => self.state.remove(&file_name(name)),
            };
            let failed = written.is_err();
            if outcome.is_ok() {
                outcome = written;
            }
            failed
        });
        outcome
    }
}

/// How the names of files begin that hold their own name, up to the first zero byte. No name is escaped to
/// such a one.
const LONG: &str = "%.";

/// A file name has 255 bytes at most, and a temporary file's is longer by a process number.
const NAME_LENGTH_MAX: usize = 200;

fn file_name(name: &str) -> String {
    let escaped = escape(name);
    if escaped.len() <= NAME_LENGTH_MAX {
        return escaped;
    }
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().fold(LONG.to_owned(), |held, byte| format!("{held}{byte:02x}"))
}

fn content(name: &str, text: &str) -> Vec<u8> {
    if file_name(name).starts_with(LONG) { format!("{name}\0{text}").into_bytes() } else { text.into() }
}

/// `/` and `%` in hexadecimal.
fn escape(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

fn unescape(name: &str) -> Option<String> {
    let plain = name.replace("%2F", "/").replace("%25", "%");
    (escape(&plain) == name).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> SourceFile {
        SourceFile { name: name.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn what_was_accepted_is_there_after_a_restart_and_what_was_deleted_is_not() {
        let temporary = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(temporary.path()).unwrap();
        let mut last_good = LastGood::load(&state).unwrap();
        last_good.accept(&[file("a.yaml", "1"), file("team/100%.yaml", "2")]).unwrap();
        last_good.accept(&[file("team/100%.yaml", "3")]).unwrap();

        let again = LastGood::load(&state).unwrap();
        assert_eq!(again.files(), [file("team/100%.yaml", "3")]);
        assert_eq!(again.get("a.yaml"), None);
    }

    #[test]
    fn what_cannot_be_written_keeps_nothing_else_from_it_and_is_written_later() {
        let temporary = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(temporary.path()).unwrap();
        let mut last_good = LastGood::load(&state).unwrap();
        last_good.accept(&[file("b.yaml", "1")]).unwrap();
        // A directory cannot be replaced by a file.
        let obstacle = temporary.path().join(DIRECTORY).join("a.yaml");
        std::fs::create_dir(&obstacle).unwrap();
        last_good.accept(&[file("a.yaml", "1"), file("b.yaml", "2")]).unwrap_err();
        assert!(last_good.is_behind());
        assert_eq!(last_good.get("a.yaml"), Some("1"), "it is what is in force");
        std::fs::remove_dir(&obstacle).unwrap();
        assert_eq!(LastGood::load(&state).unwrap().files(), [file("b.yaml", "2")]);
        last_good.write().unwrap();
        assert!(!last_good.is_behind());
        assert_eq!(LastGood::load(&state).unwrap().files(), [file("a.yaml", "1"), file("b.yaml", "2")]);
    }

    #[test]
    fn names_that_are_no_file_names_any_more_are_kept_too() {
        let temporary = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(temporary.path()).unwrap();
        let mut last_good = LastGood::load(&state).unwrap();
        let deep = |last: &str| format!("{}/{last}.yaml", vec!["d".repeat(200); 6].join("/"));
        let files = [file(&deep("a"), "1"), file(&deep("b"), "2\0")];
        last_good.accept(&files).unwrap();
        assert_eq!(LastGood::load(&state).unwrap().files(), files);
        last_good.accept(&files[1..]).unwrap();
        assert_eq!(LastGood::load(&state).unwrap().files(), files[1..]);
    }

    #[test]
    fn names_come_back_from_their_escaped_form() {
        for name in ["a.yaml", "a/b/c.yaml", "%2F.yaml", "%25/%.yaml"] {
            assert_eq!(unescape(&escape(name)).as_deref(), Some(name));
            assert!(!escape(name).contains('/'));
        }
    }
}
