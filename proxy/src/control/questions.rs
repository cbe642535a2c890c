//! The destinations that were asked for, and what is known of them: the control API answers with a name, which
//! may be another than the one that was asked for, or says that there is nothing.

use crate::policy::Asked;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use weft_model::names::ResourceName;

/// All that was asked for, by the name on the wire.
#[derive(Debug, Default)]
pub(super) struct Questions {
    asked: BTreeMap<String, Question>,
    count: u64,
}

#[derive(Debug)]
struct Question {
    asked: Asked,
    /// Counts up: who asked first has the lowest.
    number: u64,
    answer: Option<Answer>,
}

/// What is known of a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    /// It is known under this name.
    Named(ResourceName),
    /// There is nothing.
    Absent,
}

// === impl Questions ===

impl Questions {
    /// Notes that a destination is wanted; its name on the wire if that is new.
    pub(super) fn ask(&mut self, asked: &Asked) -> Option<String> {
        let name = asked.wire_name();
        if self.asked.contains_key(&name) {
            return None;
        }
        self.count += 1;
        let question = Question { asked: asked.clone(), number: self.count, answer: None };
        self.asked.insert(name.clone(), question);
        Some(name)
    }

    /// The same by the name on the wire.
    pub(super) fn ask_by_name(&mut self, name: &str) {
        let asked = match name.strip_prefix('@') {
            Some(address) => address.parse().ok().map(Asked::Address),
            None => name.parse().ok().map(Asked::Service),
        };
        if let Some(asked) = asked {
            self.ask(&asked);
        }
    }

    /// Forgets addresses at which nothing of the mesh is, at most so many, the longest known first.
    pub(super) fn forget_absent(&mut self, most: usize) -> Vec<String> {
        let absent = |question: &Question| {
            matches!(question.asked, Asked::Address(_)) && question.answer == Some(Answer::Absent)
        };
        let mut found: Vec<(u64, String)> = self
            .asked
            .iter()
            .filter(|(_, question)| absent(question))
            .map(|(name, question)| (question.number, name.clone()))
            .collect();
        found.sort_unstable();
        found.truncate(most);
        found.into_iter().map(|(_, name)| name).inspect(|name| drop(self.asked.remove(name))).collect()
    }

    /// All names.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.asked.keys()
    }

    /// Whether the name is asked for.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.asked.contains_key(name)
    }

    /// Whether the name is asked for, and nothing is known of it yet.
    pub(super) fn is_open(&self, name: &str) -> bool {
        self.asked.get(name).is_some_and(|question| question.answer.is_none())
    }

    /// Notes what is known of a name, if it is asked for.
    pub(super) fn answer(&mut self, name: &str, answer: Answer) {
        if let Some(question) = self.asked.get_mut(name) {
            question.answer = Some(answer);
        }
    }

    /// Notes that what was known under this name is gone.
    pub(super) fn withdraw(&mut self, name: &ResourceName) {
        let named =
            |question: &&mut Question| matches!(&question.answer, Some(Answer::Named(held)) if held == name);
        for question in self.asked.values_mut().filter(named) {
            question.answer = Some(Answer::Absent);
        }
    }

    /// What is known, by what was asked for.
    pub(super) fn answers(&self) -> impl Iterator<Item = (&Asked, &Answer)> {
        self.asked.values().filter_map(|question| Some((&question.asked, question.answer.as_ref()?)))
    }

    /// The names under which destinations are known.
    pub(super) fn known(&self) -> BTreeSet<ResourceName> {
        let named = |(_, answer): (_, &Answer)| match answer {
            Answer::Named(name) => Some(name.clone()),
            Answer::Absent => None,
        };
        self.answers().filter_map(named).collect()
    }

    /// The names on the wire: of what is known by its own name, and of what is not there.
    pub(super) fn parted(&self) -> (HashMap<&ResourceName, Vec<String>>, Vec<String>) {
        let mut aliases: HashMap<&ResourceName, Vec<String>> = HashMap::new();
        let mut absent = Vec::new();
        for (name, question) in &self.asked {
            match &question.answer {
                Some(Answer::Named(canonical)) => aliases.entry(canonical).or_default().push(name.clone()),
                Some(Answer::Absent) => absent.push(name.clone()),
                None => {}
            }
        }
        (aliases, absent)
    }
}
