//! Reading values: each method takes a node for what it should be, or says what it is instead.
//!
//! A mapping is read through [`Object`], which knows every key it was asked for and reports all
//! others when it goes away: a reader cannot forget to refuse a typo.

use crate::closest::did_you_mean;
use crate::document::scalar::{Meaning, differs_in_yaml_1_1, meaning};
use crate::document::{Content, quoted};
use crate::report::{At, IntoHint, Place, Report};
use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;
use weft_model::duration::parse_duration;

/// One value of a document.
#[derive(Clone, Copy)]
pub(crate) struct Value<'r> {
    pub(crate) report: &'r Report<'r>,
    pub(crate) place: Place,
}

/// A mapping of known keys.
pub(crate) struct Object<'r> {
    value: Value<'r>,
    entries: &'r [(u32, u32)],
    known: RefCell<Vec<&'static str>>,
    open: Cell<bool>,
}

impl<'r> Value<'r> {
    pub(crate) fn at<T>(self, value: T) -> At<T> {
        At { value, place: self.place }
    }

    pub(crate) fn error(self, message: impl Into<String>) {
        self.report.error(self.place, message);
    }

    pub(crate) fn error_hint(self, message: impl Into<String>, hint: impl IntoHint) {
        self.report.error_hint(self.place, message, hint);
    }

    fn content(self) -> &'r Content<'r> {
        &self.report.tree(self.place).node(self.place.node).content
    }

    fn same_file(self, node: u32) -> Self {
        Self { place: Place { node, ..self.place }, ..self }
    }

    // What stands there, for "must be …, and is …".
    fn what(self) -> &'static str {
        match self.content() {
            Content::Sequence(_) => "a list",
            Content::Mapping(_) => "a mapping",
            Content::Scalar { plain: false, .. } | Content::Alias(_) => "text",
            Content::Scalar { text, .. } => match meaning(text) {
                Meaning::Null => "empty",
                Meaning::Flag(_) => "a boolean",
                Meaning::Number => "a number",
                Meaning::Text => "text",
            },
        }
    }

    fn wrong(self, wanted: &str) {
        self.error(format!("this must be {wanted}, and is {}", self.what()));
    }

    pub(crate) fn is_null(self) -> bool {
        matches!(self.content(), Content::Scalar { text, plain: true } if meaning(text) == Meaning::Null)
    }

    pub(crate) fn is_number(self) -> bool {
        matches!(self.content(), Content::Scalar { text, plain: true } if meaning(text) == Meaning::Number)
    }

    pub(crate) fn is_flag(self) -> bool {
        matches!(self.content(), Content::Scalar { text, plain: true } if matches!(meaning(text), Meaning::Flag(_)))
    }

    /// Text.
    pub(crate) fn text(self) -> Option<At<&'r str>> {
        let Content::Scalar { text, plain } = self.content() else {
            self.wrong("text");
            return None;
        };
        let text: &'r str = text;
        if *plain && meaning(text) != Meaning::Text {
            let message = format!("this must be text, and is {}", self.what());
            self.error_hint(message, (!text.is_empty()).then(|| format!("write {text:?} in quotes")));
            return None;
        }
        if *plain && differs_in_yaml_1_1(text) {
            let message = format!("{text} without quotes is text here, but not to kubectl (YAML 1.1)");
            self.report.warn(self.place, message, format!("write {text:?} in quotes"));
        }
        Some(self.at(text))
    }

    /// Text of a form.
    pub(crate) fn parse<T: FromStr>(self) -> Option<At<T>>
    where
        T::Err: Display,
    {
        self.parse_with(str::parse)
    }

    /// Text of a form, by a function.
    pub(crate) fn parse_with<T, E: Display>(
        self,
        parse: impl FnOnce(&'r str) -> Result<T, E>,
    ) -> Option<At<T>> {
        let text = self.text()?;
        match parse(text.value) {
            Ok(value) => Some(self.at(value)),
            Err(error) => {
                self.error(error.to_string());
                None
            }
        }
    }

    /// A duration, `1h30m`.
    pub(crate) fn duration(self) -> Option<At<Duration>> {
        self.parse_with(parse_duration)
    }

    /// A whole number within bounds.
    pub(crate) fn number(self, range: RangeInclusive<u32>) -> Option<At<u32>> {
        let Content::Scalar { text, plain: true } = self.content() else {
            self.wrong("a number");
            return None;
        };
        // A leading zero is octal to YAML 1.1.
        let decimal =
            text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        let parsed = text.parse().ok().filter(|number| decimal && range.contains(number));
        if parsed.is_none() {
            self.error(format!("this must be a whole number from {} to {}", range.start(), range.end()));
        }
        parsed.map(|number| self.at(number))
    }

    /// A port's number.
    pub(crate) fn port(self) -> Option<At<u16>> {
        let number = self.number(1..=65535)?;
        u16::try_from(number.value).ok().map(|port| self.at(port))
    }

    /// `true` or `false`.
    pub(crate) fn flag(self) -> Option<At<bool>> {
        if let Content::Scalar { text, plain: true } = self.content()
            && let Meaning::Flag(flag) = meaning(text)
        {
            return Some(self.at(flag));
        }
        self.wrong("true or false");
        None
    }

    /// One word of several.
    pub(crate) fn choice<T: Copy>(self, words: &[(&'static str, T)]) -> Option<At<T>> {
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(self.at(*value));
        }
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let message = format!("{} is none of {}", quoted(text.value), all.join(", "));
        self.error_hint(message, did_you_mean(text.value, all.iter().copied()));
        None
    }

    /// The items of a list.
    pub(crate) fn list(self) -> Option<Vec<Self>> {
        let items = self.list_quietly();
        if items.is_none() {
            self.wrong("a list");
        }
        items
    }

    /// The items of a list of bounded length that may not be empty.
    pub(crate) fn items(self, most: usize) -> Option<Vec<Self>> {
        let items = self.list()?;
        if items.is_empty() {
            self.error_hint("this list is empty", "leave the key out if nothing is meant, or say what is");
            return None;
        }
        if items.len() > most {
            self.error(format!("this list has {} items; at most {most} are allowed", items.len()));
            return None;
        }
        Some(items)
    }

    /// The entries of a mapping of free keys.
    pub(crate) fn entries(self) -> Option<Vec<(At<&'r str>, Self)>> {
        let Content::Mapping(entries) = self.content() else {
            self.wrong("a mapping");
            return None;
        };
        let tree = self.report.tree(self.place);
        let entry = |(key, value): &(u32, u32)| {
            let key = self.same_file(*key).at(tree.text(*key)?);
            Some((key, self.same_file(*value)))
        };
        Some(entries.iter().filter_map(entry).collect())
    }

    /// The keys of a mapping, without a word about anything else.
    pub(crate) fn entries_quietly(self) -> Vec<&'r str> {
        let tree = self.report.tree(self.place);
        match self.content() {
            Content::Mapping(entries) => entries.iter().filter_map(|(key, _)| tree.text(*key)).collect(),
            _ => Vec::new(),
        }
    }

    /// The items of a list, without a word about anything else.
    pub(crate) fn list_quietly(self) -> Option<Vec<Self>> {
        match self.content() {
            Content::Sequence(items) => Some(items.iter().map(|item| self.same_file(*item)).collect()),
            _ => None,
        }
    }

    /// The text of a scalar, whatever it means.
    pub(crate) fn text_quietly(self) -> Option<&'r str> {
        match self.content() {
            Content::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// A mapping of known keys.
    pub(crate) fn object(self) -> Option<Object<'r>> {
        match self.content() {
            Content::Mapping(entries) => {
                Some(Object { value: self, entries, known: RefCell::default(), open: Cell::new(false) })
            }
            _ => {
                self.wrong("a mapping");
                None
            }
        }
    }
}

// === impl Object ===

impl<'r> Object<'r> {
    pub(crate) fn place(&self) -> Place {
        self.value.place
    }

    pub(crate) fn report(&self) -> &'r Report<'r> {
        self.value.report
    }

    pub(crate) fn error(&self, message: impl Into<String>) {
        self.value.error(message);
    }

    fn find(&self, key: &'static str) -> Option<(Place, Value<'r>)> {
        self.known.borrow_mut().push(key);
        let tree = self.value.report.tree(self.value.place);
        let (key, value) = self.entries.iter().find(|(held, _)| tree.text(*held) == Some(key))?;
        Some((self.value.same_file(*key).place, self.value.same_file(*value)))
    }

    /// A value. A key with nothing behind it is an error: what was meant to be there is not.
    pub(crate) fn take(&self, key: &'static str) -> Option<Value<'r>> {
        let (place, value) = self.find(key)?;
        if value.is_null() {
            let hint = "remove the key, or check the indentation of what should be below it";
            self.value.report.error_hint(place, format!("`{key}` is empty"), hint);
            return None;
        }
        Some(value)
    }

    /// A value, where `null` means the same as no key.
    pub(crate) fn take_filled(&self, key: &'static str) -> Option<Value<'r>> {
        self.find(key).map(|(_, value)| value).filter(|value| !value.is_null())
    }

    /// A value that must be there.
    pub(crate) fn require(&self, key: &'static str) -> Option<Value<'r>> {
        let tree = self.value.report.tree(self.value.place);
        if !self.entries.iter().any(|(held, _)| tree.text(*held) == Some(key)) {
            self.known.borrow_mut().push(key);
            self.error(format!("`{key}` is missing"));
            return None;
        }
        self.take(key)
    }

    /// Whether the key is there.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        let tree = self.value.report.tree(self.value.place);
        self.entries.iter().any(|(held, _)| tree.text(*held) == Some(key))
    }

    /// Whether it has no keys at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys without effect on a mesh.
    pub(crate) fn accept(&self, keys: &[&'static str]) {
        self.known.borrow_mut().extend(keys);
    }

    /// All keys, whatever they are.
    pub(crate) fn accept_all(&self) {
        self.open.set(true);
    }

    /// Keys that are known, mean something and are not evaluated: never ignored.
    pub(crate) fn not_yet(&self, keys: &[&'static str]) {
        for key in keys {
            if let Some((place, _)) = self.find(key) {
                self.value.report.error(place, format!("`{key}` is not evaluated yet"));
            }
        }
    }

    /// Keys that are known, and mean nothing different from not being there when they have one value.
    pub(crate) fn only(&self, key: &'static str, value: &str) {
        let Some(held) = self.take(key) else { return };
        match held.content() {
            Content::Scalar { text, .. } if text == value => {}
            _ => held.error_hint(format!("`{key}` other than {value} is not evaluated yet"), None),
        }
    }
}

impl Drop for Object<'_> {
    fn drop(&mut self) {
        if self.open.get() {
            return;
        }
        let known = self.known.take();
        let tree = self.value.report.tree(self.value.place);
        for (key, _) in self.entries {
            let Some(text) = tree.text(*key) else { continue };
            if !known.contains(&text) && text != "<<" {
                let hint = did_you_mean(text, known.iter().copied());
                self.value.same_file(*key).error_hint(format!("unknown key {}", quoted(text)), hint);
            }
        }
    }
}
