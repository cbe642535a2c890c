//! The last good text of every file, in memory and in STATE/last-good/, one file each. Of use when a
//! file turns bad: what it said before stays in force, also over a restart.
//! Names are escaped so that each is one plain file name; text is kept as it was, for people to compare.

use crate::state::{StateDirectory, StateError};
use std::collections::{BTreeMap, BTreeSet};
use weft_config::SourceFile;

const DIRECTORY: &str = "last-good";

/// The last good files.
#[derive(Debug)]
pub struct LastGood {
    state: StateDirectory,
    files: BTreeMap<String, String>,
}

impl LastGood {
    /// Reads what an earlier run left.
    pub fn load(state: &StateDirectory) -> Result<Self, StateError> {
        let state = state.subdirectory(DIRECTORY)?;
        let mut files = BTreeMap::new();
        for held in state.list()? {
            let Some(name) = unescape(&held) else { continue };
            let Some(text) = state.read(&held)? else { continue };
            let text = String::from_utf8(text).map_err(|_| state.damaged(&held))?;
            files.insert(name, text);
        }
        Ok(Self { state, files })
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

    /// Whether these files are the ones that are held.
    pub fn is(&self, files: &[SourceFile]) -> bool {
        files.len() == self.files.len()
            && files.iter().all(|file| self.get(&file.name) == Some(file.text.as_str()))
    }

    /// These are good: written where they differ, and files that are no more are removed.
    pub fn accept(&mut self, files: &[SourceFile]) -> Result<(), StateError> {
        for file in files {
            if self.get(&file.name) != Some(file.text.as_str()) {
                self.state.write(&escape(&file.name), file.text.as_bytes(), 0o600)?;
                self.files.insert(file.name.clone(), file.text.clone());
            }
        }
        let names: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
        let gone: Vec<String> =
            self.files.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
        for name in gone {
            self.state.remove(&escape(&name))?;
            self.files.remove(&name);
        }
        Ok(())
    }
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
        assert!(again.is(&[file("team/100%.yaml", "3")]));
        assert!(!again.is(&[]));
        assert_eq!(again.get("a.yaml"), None);
    }

    #[test]
    fn names_come_back_from_their_escaped_form() {
        for name in ["a.yaml", "a/b/c.yaml", "%2F.yaml", "%25/%.yaml"] {
            assert_eq!(unescape(&escape(name)).as_deref(), Some(name));
            assert!(!escape(name).contains('/'));
        }
    }
}
