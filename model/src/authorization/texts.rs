//! Values that keys are made of, by number from 1; 0 is "not one of them". Each knows with what else it
//! makes keys, so that nothing is looked for that cannot be there.

use super::hash::Map;
use super::index::length;

/// The longest host that is looked for: hosts are compared in lower case, and a copy of a longer one
/// would have to be allocated. Names of DNS are shorter.
pub(super) const HOST_LENGTH_MAX: usize = 255;

/// A value.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Found {
    pub(super) number: u32,
    /// The kinds of keys that it is a half of, as bits; none where it is not one of them.
    pub(super) shapes: u16,
}

/// Whole texts.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(Map<Box<str>, Found>);

impl Names {
    /// Adds a text, or another kind of keys that it is a half of.
    pub(super) fn add(&mut self, text: &str, shape: u16) -> u32 {
        let next = length(self.0.len() + 1);
        let found = match self.0.get_mut(text) {
            Some(found) => found,
            None => self.0.entry(text.into()).or_insert(Found { number: next, shapes: 0 }),
        };
        found.shapes |= shape;
        found.number
    }

    pub(super) fn find(&self, text: &str) -> Found {
        self.0.get(text).copied().unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Finds a text that was added in lower case.
    pub(super) fn find_ignoring_case(&self, text: &str) -> Found {
        if self.0.is_empty() || !text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.find(text);
        }
        let mut lower = [0; HOST_LENGTH_MAX];
        let Some(lower) = lower.get_mut(..text.len()) else { return Found::default() };
        lower.copy_from_slice(text.as_bytes());
        lower.make_ascii_lowercase();
        std::str::from_utf8(lower).map_or(Found::default(), |lower| self.find(lower))
    }
}

/// Whole texts, and beginnings of texts.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    whole: Names,
    beginnings: Names,
    /// Sorted by text, once sealed. All beginnings of a text are the parents of the longest one, which
    /// is the text's predecessor here or one of its parents: what lies between a beginning of a text and
    /// the text begins with it, too.
    prefixes: Box<[Prefix]>,
}

#[derive(Clone, Debug)]
struct Prefix {
    text: Box<str>,
    found: Found,
    /// The next shorter beginning of this one, counted from 1; 0: there is none.
    parent: u32,
}

impl Texts {
    pub(super) fn add(&mut self, text: &str, shape: u16) -> u32 {
        self.whole.add(text, shape)
    }

    pub(super) fn add_prefix(&mut self, text: &str, shape: u16) -> u32 {
        self.beginnings.add(text, shape)
    }

    /// Nothing more is added.
    pub(super) fn seal(&mut self) {
        let beginnings = std::mem::take(&mut self.beginnings).0;
        let mut prefixes: Vec<Prefix> =
            beginnings.into_iter().map(|(text, found)| Prefix { text, found, parent: 0 }).collect();
        prefixes.sort_by(|a, b| a.text.cmp(&b.text));
        let mut open: Vec<usize> = Vec::new();
        for index in 0..prefixes.len() {
            while open.pop_if(|last| !prefixes[index].text.starts_with(&*prefixes[*last].text)).is_some() {}
            prefixes[index].parent = open.last().map_or(0, |last| length(last + 1));
            open.push(index);
        }
        self.prefixes = prefixes.into();
    }

    pub(super) fn find(&self, text: &str) -> Found {
        self.whole.find(text)
    }

    /// Where [`Self::prefixes`] begins for a text.
    pub(super) fn longest_prefix(&self, text: &str) -> u32 {
        let mut place = self.prefixes.partition_point(|prefix| *prefix.text <= *text);
        while let Some(prefix) = place.checked_sub(1).and_then(|index| self.prefixes.get(index)) {
            if text.starts_with(&*prefix.text) {
                break;
            }
            place = prefix.parent as usize;
        }
        length(place)
    }

    /// All beginnings, the longest first.
    pub(super) fn prefixes(&self, longest: u32) -> impl Iterator<Item = Found> + '_ {
        let at = |place: u32| self.prefixes.get((place as usize).checked_sub(1)?);
        std::iter::successors(at(longest), move |prefix| at(prefix.parent)).map(|prefix| prefix.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_beginnings_of_a_text_are_found_and_no_others() {
        let mut texts = Texts::default();
        let all = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/b", "", "/a/c"];
        for text in all {
            texts.add_prefix(text, 1);
        }
        texts.seal();
        for text in ["/a/b/x", "/", "", "x", "/abc", "/a/b/c", "/c", "/a/bb", "/\u{10ffff}", "0"] {
            let found: Vec<u32> =
                texts.prefixes(texts.longest_prefix(text)).map(|found| found.number).collect();
            let mut wanted: Vec<&str> = all.into_iter().filter(|prefix| text.starts_with(prefix)).collect();
            wanted.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
            let number = |text: &&str| 1 + all.iter().position(|held| held == text).unwrap() as u32;
            assert_eq!(found, wanted.iter().map(number).collect::<Vec<_>>(), "{text}");
        }
    }

    #[test]
    fn hosts_are_found_in_any_case() {
        let mut names = Names::default();
        let number = names.add("cart.shop", 1);
        names.add("cart.shop", 4);
        let found = Found { number, shapes: 5 };
        assert_eq!(names.find_ignoring_case("Cart.SHOP"), found);
        assert_eq!(names.find_ignoring_case("cart.shop"), found);
        assert_eq!(names.find_ignoring_case("Cart"), Found::default());
        assert_eq!(names.find_ignoring_case(&"X".repeat(300)), Found::default());
    }
}
