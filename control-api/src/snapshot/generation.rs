//! The counter of generations: `EPOCH.N`, kept in the state directory. N rises when anything but
//! endpoints changed, and a restart with unchanged content keeps it. It is written before it is used,
//! so that one number never means two contents; a lost state directory means a new epoch.

use super::version::Version;
use crate::state::{StateDirectory, StateError};
use std::sync::Arc;
use weft_model::mesh::Generation;

const EPOCH_FILE: &str = "epoch";
const NUMBER_FILE: &str = "generation";

/// The counter.
#[derive(Debug)]
pub struct GenerationCounter {
    state: Arc<StateDirectory>,
    epoch: Box<str>,
    number: u64,
    content: Option<String>,
}

impl GenerationCounter {
    /// Takes up the count where the last run left it.
    pub fn load(state: Arc<StateDirectory>) -> Result<Self, StateError> {
        let read = |name: &str| -> Result<Option<String>, StateError> {
            let Some(bytes) = state.read(name)? else { return Ok(None) };
            let text = String::from_utf8(bytes).map_err(|_| state.damaged(name))?;
            Ok(Some(text.trim_ascii().to_owned()))
        };
        let epoch = match read(EPOCH_FILE)? {
            Some(epoch) if is_epoch(&epoch) => epoch,
            Some(_) => return Err(state.damaged(EPOCH_FILE)),
            None => {
                // A number of another epoch would be taken for one of this: it goes first.
                state.remove(NUMBER_FILE)?;
                let epoch = crate::random_hex(6);
                state.write(EPOCH_FILE, format!("{epoch}\n").as_bytes(), 0o644)?;
                epoch
            }
        };
        let (number, content) = match read(NUMBER_FILE)? {
            None => (0, None),
            Some(text) => {
                let parsed = text
                    .split_once(' ')
                    .and_then(|(number, content)| Some((number.parse().ok()?, Some(content.to_owned()))));
                parsed.ok_or_else(|| state.damaged(NUMBER_FILE))?
            }
        };
        Ok(Self { state, epoch: epoch.into(), number, content })
    }

    /// The generation of this content (a version of everything but endpoints).
    pub fn of(&mut self, content: Version) -> Result<Generation, StateError> {
        let content = content.to_string();
        if self.content.as_deref() != Some(&content) {
            let number = self.number + 1;
            self.state.write(NUMBER_FILE, format!("{number} {content}\n").as_bytes(), 0o644)?;
            self.number = number;
            self.content = Some(content);
        }
        Ok(Generation { epoch: self.epoch.clone(), number: self.number })
    }
}

fn is_epoch(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_rises_with_the_content_alone_and_outlives_the_process() {
        let temporary = tempfile::tempdir().unwrap();
        let state = Arc::new(StateDirectory::open(temporary.path()).unwrap());
        let (a, b) = (Version::of(b"a"), Version::of(b"b"));
        let mut counter = GenerationCounter::load(state.clone()).unwrap();
        assert_eq!(counter.of(a).unwrap().number, 1);
        assert_eq!(counter.of(a).unwrap().number, 1);
        let second = counter.of(b).unwrap();
        assert_eq!(second.number, 2);

        let mut again = GenerationCounter::load(state.clone()).unwrap();
        assert_eq!(again.of(b).unwrap(), second, "the same content after a restart");
        assert_eq!(again.of(a).unwrap().number, 3, "an old content is new again");

        state.remove(EPOCH_FILE).unwrap();
        let mut lost = GenerationCounter::load(state.clone()).unwrap();
        let first = lost.of(a).unwrap();
        assert_eq!(first.number, 1);
        assert_ne!(first.epoch, second.epoch);

        state.write(NUMBER_FILE, b"x", 0o644).unwrap();
        assert!(GenerationCounter::load(state).is_err());
    }
}
