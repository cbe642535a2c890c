//! Header fields as they were written: order, case and duplicates kept.
//!
//! One arena holds the text, a flat list of fields points into it, so a parsed head costs two
//! allocations and a copy of it two `memcpy`s. Fields made here are written into the arena in the
//! same form as on the wire, so that the HTTP/1 encoder copies whole runs of lines at once.
//! This type checks the grammar of what is added; it decides nothing about meaning.

use super::grammar::{elements, is_token, is_value, trim};
use super::known::{Known, KnownSet};
use std::fmt;

/// More text than this is never held: the parser's limits are far lower, so only a rule that adds
/// without end could meet it.
const TEXT_MAX: usize = 1 << 20;

/// More fields than this are never held.
const FIELDS_MAX: usize = 4096;

/// A header block.
#[derive(Clone, Default)]
pub struct Headers {
    pub(crate) text: Vec<u8>,
    pub(crate) fields: Vec<Field>,
    present: KnownSet,
}

/// A range of the arena.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) length: u32,
}

/// One field: where its name and value lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) name_start: u32,
    pub(crate) name_length: u16,
    pub(crate) known: Known,
    /// The arena holds exactly `name: value\r\n` from `name_start` on.
    pub(crate) verbatim: bool,
    pub(crate) value: Span,
}

/// A field as seen from outside.
#[derive(Clone, Copy, Debug)]
pub struct FieldRef<'a> {
    /// The name in its original case.
    pub name: &'a [u8],
    /// The name's id.
    pub known: Known,
    /// The value without surrounding whitespace.
    pub value: &'a [u8],
}

/// Why a field cannot be added.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeaderError {
    /// Not a token of RFC 9110.
    #[error("the field name is not a token")]
    Name,
    /// A control character in the value.
    #[error("the field value holds a control character")]
    Value,
    /// More than a header block may ever hold.
    #[error("the header block is too large")]
    TooLarge,
}

// === impl Span ===

impl Span {
    pub(crate) fn of(self, text: &[u8]) -> &[u8] {
        let start = self.start as usize;
        text.get(start..start + self.length as usize).unwrap_or_default()
    }

    pub(crate) const fn end(self) -> u32 {
        self.start + self.length
    }
}

// === impl FieldRef ===

impl<'a> FieldRef<'a> {
    /// The name; names are ASCII.
    pub fn name_str(&self) -> &'a str {
        std::str::from_utf8(self.name).unwrap_or_default()
    }

    /// The value, if it is UTF-8.
    pub fn value_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.value).ok()
    }
}

// === impl Headers ===

impl Headers {
    /// An empty block; allocates nothing.
    pub const fn new() -> Self {
        Self { text: Vec::new(), fields: Vec::new(), present: KnownSet::EMPTY }
    }

    /// An empty block with room for so many fields and bytes of text.
    pub fn with_capacity(fields: usize, text: usize) -> Self {
        Self { text: Vec::with_capacity(text), fields: Vec::with_capacity(fields), present: KnownSet::EMPTY }
    }

    /// Takes over what a parser found; every field must lie within `text`.
    pub(crate) fn from_parts(text: Vec<u8>, fields: Vec<Field>, present: KnownSet) -> Self {
        Self { text, fields, present }
    }

    /// The number of fields.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The sum of the lengths of names and values, with 32 bytes a field as HTTP/2 counts them.
    pub fn size(&self) -> usize {
        self.fields
            .iter()
            .map(|field| usize::from(field.name_length) + field.value.length as usize + 32)
            .sum()
    }

    /// Whether one of these names is present.
    pub fn contains_any(&self, names: KnownSet) -> bool {
        self.present.intersects(names)
    }

    /// Whether the field is present.
    pub fn contains(&self, known: Known) -> bool {
        self.present.contains(known)
    }

    /// The first value of a field.
    pub fn get(&self, known: Known) -> Option<&[u8]> {
        if !self.present.contains(known) {
            return None;
        }
        self.get_all(known).next()
    }

    /// The first value of a field, if it is UTF-8.
    pub fn get_str(&self, known: Known) -> Option<&str> {
        self.get(known).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Every value of a field, in order.
    pub fn get_all(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let fields: &[Field] = if self.present.contains(known) { &self.fields } else { &[] };
        fields.iter().filter(move |field| field.known == known).map(|field| field.value.of(&self.text))
    }

    /// The first value of a field by name, in any case.
    pub fn find(&self, name: &str) -> Option<&[u8]> {
        let known = Known::of(name.as_bytes());
        self.iter().find(|field| is_named(field, known, name)).map(|field| field.value)
    }

    /// Every value of a field by name, in any case and in order.
    pub fn find_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let known = Known::of(name.as_bytes());
        self.iter().filter(move |field| is_named(field, known, name)).map(|field| field.value)
    }

    /// Every field, in order.
    pub fn iter(&self) -> impl Iterator<Item = FieldRef<'_>> {
        self.fields.iter().map(|field| FieldRef {
            name: field.name(&self.text),
            known: field.known,
            value: field.value.of(&self.text),
        })
    }

    /// Adds a field behind the others. The name keeps its case.
    pub fn append(&mut self, name: &str, value: &[u8]) -> Result<(), HeaderError> {
        self.append_bytes(name.as_bytes(), value)
    }

    /// As [`Self::append`], from bytes.
    pub fn append_bytes(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeaderError> {
        if !is_token(name) {
            return Err(HeaderError::Name);
        }
        self.append_checked(Known::of(name), name, trim(value))
    }

    /// Adds a known field, its name in lower case.
    pub fn append_known(&mut self, known: Known, value: &[u8]) -> Result<(), HeaderError> {
        if known == Known::Other {
            return Err(HeaderError::Name);
        }
        self.append_checked(known, known.name().as_bytes(), trim(value))
    }

    fn append_checked(&mut self, known: Known, name: &[u8], value: &[u8]) -> Result<(), HeaderError> {
        if !is_value(value) {
            return Err(HeaderError::Value);
        }
        let name_length = u16::try_from(name.len()).map_err(|_| HeaderError::TooLarge)?;
        if self.fields.len() >= FIELDS_MAX {
            return Err(HeaderError::TooLarge);
        }
        self.room(name.len() + value.len() + 4)?;
        let name_start = self.text.len() as u32;
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(b": ");
        let value = self.push_text(value);
        self.text.extend_from_slice(b"\r\n");
        self.fields.push(Field { name_start, name_length, known, verbatim: true, value });
        self.present.insert(known);
        Ok(())
    }

    /// Sets a field: the first of that name gets the value and keeps its place, others go.
    pub fn insert(&mut self, name: &str, value: &[u8]) -> Result<(), HeaderError> {
        let known = Known::of(name.as_bytes());
        let value = trim(value);
        let first = {
            let text = &self.text;
            self.fields.iter().position(|field| is_named(&field.seen(text), known, name))
        };
        let Some(first) = first else { return self.append(name, value) };
        if !is_value(value) {
            return Err(HeaderError::Value);
        }
        self.replace_value(first, value)?;
        let text = &self.text;
        let mut index = 0;
        self.fields.retain(|field| {
            let keep = index <= first || !is_named(&field.seen(text), known, name);
            index += 1;
            keep
        });
        Ok(())
    }

    /// Sets a known field, as [`Self::insert`].
    pub fn insert_known(&mut self, known: Known, value: &[u8]) -> Result<(), HeaderError> {
        if self.contains(known) { self.insert(known.name(), value) } else { self.append_known(known, value) }
    }

    /// Removes every field of that name; says whether there was one.
    pub fn remove(&mut self, known: Known) -> bool {
        if !self.present.contains(known) || known == Known::Other {
            return false;
        }
        self.fields.retain(|field| field.known != known);
        self.present.remove(known);
        true
    }

    /// Removes every field of that name, in any case; says whether there was one.
    pub fn remove_name(&mut self, name: &str) -> bool {
        let known = Known::of(name.as_bytes());
        if known != Known::Other {
            return self.remove(known);
        }
        let before = self.fields.len();
        let text = &self.text;
        self.fields.retain(|field| !is_named(&field.seen(text), known, name));
        self.fields.len() != before
    }

    /// Removes every field of that name, however it is spelled: in any case, and with `_` for `-`, which
    /// applications behind CGI's convention (WSGI, PHP) read alike.
    pub fn remove_spellings(&mut self, name: &str) {
        if self.iter().any(|field| is_spelling(field.name, name)) {
            self.retain(|field| !is_spelling(field.name, name));
        }
    }

    /// Removes every field that is spelled almost so, and keeps those of that very name.
    pub fn keep_spelling(&mut self, name: &str) {
        let is_other =
            |found: &[u8]| is_spelling(found, name) && !found.eq_ignore_ascii_case(name.as_bytes());
        if self.iter().any(|field| is_other(field.name)) {
            self.retain(|field| !is_other(field.name));
        }
    }

    /// Keeps the fields for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(FieldRef<'_>) -> bool) {
        let text = &self.text;
        let mut present = KnownSet::EMPTY;
        self.fields.retain(|field| {
            let kept = keep(field.seen(text));
            if kept {
                present.insert(field.known);
            }
            kept
        });
        self.present = present;
    }

    /// Whether a comma-separated field has this element, in any case.
    pub fn has_element(&self, known: Known, element: &str) -> bool {
        self.get_all(known)
            .any(|value| elements(value).any(|found| found.eq_ignore_ascii_case(element.as_bytes())))
    }

    /// Removes what belongs to one connection only (RFC 9110, section 7.6.1): the fields that
    /// `Connection` names, `Connection` itself and those that are always of one hop. `TE` stays
    /// if it says `trailers`. With `upgrade`, the Upgrade field stays and `Connection` names it,
    /// for a request or answer that goes on over HTTP/1.1 to be upgraded there.
    pub fn remove_hop_by_hop(&mut self, upgrade: bool) {
        if !self.contains_any(HOP_BY_HOP) {
            return;
        }
        self.remove_nominated();
        let keep_te = self.contains(Known::Te) && self.has_element(Known::Te, "trailers");
        let keep_upgrade = upgrade && self.contains(Known::Upgrade);
        self.retain(|field| {
            !HOP_BY_HOP.contains(field.known) || keep_upgrade && field.known == Known::Upgrade
        });
        // These cannot fail: two short constant fields in place of what was just removed.
        if keep_te {
            let _ = self.append("TE", b"trailers");
        }
        if keep_upgrade {
            let _ = self.append("Connection", b"Upgrade");
        }
    }

    /// Removes the fields that `Connection` names. Fields that frame or route the message cannot
    /// be named away (a client could otherwise make its Authorization or our identity header go).
    fn remove_nominated(&mut self) {
        let mut named: Vec<Box<[u8]>> = Vec::new();
        for value in self.get_all(Known::Connection) {
            for element in elements(value) {
                let known = Known::of(element);
                if element.eq_ignore_ascii_case(b"close")
                    || NOT_NOMINATED.contains(known)
                    || HOP_BY_HOP.contains(known)
                {
                    continue;
                }
                named.push(element.into());
            }
        }
        if !named.is_empty() {
            self.retain(|field| !named.iter().any(|name| field.name.eq_ignore_ascii_case(name)));
        }
    }

    /// Puts text that is no field into the arena: the target, the reason phrase.
    pub(crate) fn push(&mut self, text: &[u8]) -> Result<Span, HeaderError> {
        self.room(text.len())?;
        Ok(self.push_text(text))
    }

    /// Gives the field at `index` another value. The value must have been checked.
    pub(crate) fn replace_value(&mut self, index: usize, value: &[u8]) -> Result<(), HeaderError> {
        let Some(field) = self.fields.get(index).copied() else { return Ok(()) };
        self.room(usize::from(field.name_length) + value.len() + 4)?;
        let name = field.name_start as usize..field.name_start as usize + usize::from(field.name_length);
        let name_start = self.text.len() as u32;
        self.text.extend_from_within(name);
        self.text.extend_from_slice(b": ");
        let value = self.push_text(value);
        self.text.extend_from_slice(b"\r\n");
        self.fields[index] = Field { name_start, verbatim: true, value, ..field };
        Ok(())
    }

    fn push_text(&mut self, text: &[u8]) -> Span {
        let span = Span { start: self.text.len() as u32, length: text.len() as u32 };
        self.text.extend_from_slice(text);
        span
    }

    fn room(&self, more: usize) -> Result<(), HeaderError> {
        if self.text.len() + more > TEXT_MAX { Err(HeaderError::TooLarge) } else { Ok(()) }
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for field in self.iter() {
            map.entry(&field.name_str(), &field.value.escape_ascii().to_string());
        }
        map.finish()
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        let key = |field: FieldRef<'_>| (field.name.to_vec(), field.value.to_vec());
        self.iter().map(key).eq(other.iter().map(key))
    }
}

// === impl Field ===

impl Field {
    pub(crate) fn name<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        Span { start: self.name_start, length: self.name_length.into() }.of(text)
    }

    fn seen<'a>(&self, text: &'a [u8]) -> FieldRef<'a> {
        FieldRef { name: self.name(text), known: self.known, value: self.value.of(text) }
    }
}

/// Fields that always belong to one connection.
pub(crate) const HOP_BY_HOP: KnownSet = KnownSet::EMPTY
    .with(Known::Connection)
    .with(Known::KeepAlive)
    .with(Known::ProxyConnection)
    .with(Known::Te)
    .with(Known::TransferEncoding)
    .with(Known::Upgrade)
    .with(Known::Http2Settings);

/// Fields that a `Connection` header cannot name away: they say where the message goes, how long
/// it is, or who sends it.
const NOT_NOMINATED: KnownSet = KnownSet::EMPTY
    .with(Known::Host)
    .with(Known::ContentLength)
    .with(Known::ContentType)
    .with(Known::Authorization)
    .with(Known::Cookie)
    .with(Known::Forwarded)
    .with(Known::XForwardedFor)
    .with(Known::XForwardedProto)
    .with(Known::XForwardedHost)
    .with(Known::XForwardedClientCert)
    .with(Known::XRequestId)
    .with(Known::Traceparent)
    .with(Known::Tracestate);

// Whether an application may take one name for the other.
fn is_spelling(found: &[u8], name: &str) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    found.len() == name.len()
        && found.iter().zip(name.bytes()).all(|(found, byte)| plain(*found) == plain(byte))
}

fn is_named(field: &FieldRef<'_>, known: Known, name: &str) -> bool {
    field.known == known && (known != Known::Other || field.name.eq_ignore_ascii_case(name.as_bytes()))
}
