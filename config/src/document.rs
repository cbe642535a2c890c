//! Text → positioned trees: one bounded walk over the parser's events.
//!
//! Every node knows its line, column and place in its parent, so that each later problem can be
//! shown where it stands. Depth, number of nodes and what aliases expand to are bounded before
//! anything else looks at the text; aliases are kept as references, so a bomb costs nothing.
//! Refused: duplicate keys, merge keys, tags, keys that are not text.

pub(crate) mod scalar;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::borrow::Cow;
use std::collections::HashMap;

/// The largest file that is read. 16 MiB hold some 30,000 documents.
pub(crate) const FILE_SIZE_MAX: usize = 16 * 1024 * 1024;
/// The deepest nesting. The deepest thing a user can write here needs 12.
const DEPTH_MAX: usize = 64;
/// The most nodes of a file: eight bytes of text each in a file of the largest size.
const NODES_MAX: usize = 2_000_000;
/// The most nodes that all aliases of a file may stand for.
const ALIASED_NODES_MAX: u64 = 100_000;
/// The most problems of a file's text that are kept.
const FLAWS_MAX: usize = 1_000;
/// "No parent".
pub(crate) const NONE: u32 = u32::MAX;

/// All documents of a file.
#[derive(Debug, Default)]
pub(crate) struct Tree<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    /// The root of each document, ascending; an item of a `List` counts as a document.
    pub(crate) documents: Vec<u32>,
}

/// One value or key.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) content: Content<'a>,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) parent: u32,
    /// Its index among its parent's items or entries.
    pub(crate) position: u32,
}

#[derive(Debug)]
pub(crate) enum Content<'a> {
    Scalar { text: Cow<'a, str>, plain: bool },
    Sequence(Vec<u32>),
    Mapping(Vec<(u32, u32)>),
    Alias(u32),
}

/// A problem of the text itself.
#[derive(Debug)]
pub(crate) struct Flaw {
    /// The node, or [`NONE`] where there is only a position.
    pub(crate) node: u32,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// Reads a file. What comes before a syntax error is kept.
pub(crate) fn walk(text: &str) -> (Tree<'_>, Vec<Flaw>) {
    let mut walk = Walk::default();
    if text.len() > FILE_SIZE_MAX {
        walk.flaw_at((1, 1), format!("the file is larger than {} MiB", FILE_SIZE_MAX >> 20), None);
        return (walk.tree, walk.flaws);
    }
    // A replacement character is what a byte that is not UTF-8 has become.
    if let Some(at) = text.find('\u{fffd}') {
        walk.flaw_at(position(text, at), "the text is not valid UTF-8".to_owned(), None);
        return (walk.tree, walk.flaws);
    }
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    for event in Parser::new_from_str(body) {
        let step = match event {
            Ok((event, span)) => walk.event(event, span),
            Err(error) => {
                let at = (number(error.marker().line()), number(error.marker().col() + 1));
                let hint = body
                    .lines()
                    .nth(error.marker().line().saturating_sub(1))
                    .filter(|line| line.trim_start_matches(' ').starts_with('\t'))
                    .map(|_| "indent with spaces: YAML does not allow tabs there".to_owned());
                walk.flaw_at(at, format!("this is not YAML: {}", error.info()), hint);
                Err(Stop)
            }
        };
        if step.is_err() {
            break;
        }
    }
    walk.split_lists();
    (walk.tree, walk.flaws)
}

fn position(text: &str, at: usize) -> (u32, u32) {
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[..at].bytes().filter(|byte| *byte == b'\n').count() + 1;
    (number(line), number(text[line_start..at].chars().count() + 1))
}

// Bounded by the size of a file.
fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// The rest of the file is not read.
struct Stop;

#[derive(Default)]
struct Walk<'a> {
    tree: Tree<'a>,
    flaws: Vec<Flaw>,
    open: Vec<Frame>,
    root: Option<u32>,
    // Finished anchors with the number of nodes they stand for; `None` while they are open.
    anchors: HashMap<usize, (u32, Option<u64>)>,
    aliased: u64,
}

struct Frame {
    node: u32,
    anchor: usize,
    key: Option<u32>,
    size: u64,
}

impl<'a> Walk<'a> {
    fn event(&mut self, event: Event<'a>, span: Span) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(_) => {
                self.open.clear();
                self.anchors.clear();
                self.root = None;
            }
            Event::DocumentEnd => self.tree.documents.extend(self.root.take()),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let node = self.add(Content::Scalar { text, plain }, span)?;
                if tag.is_some_and(|tag| !(tag.is_yaml_core_schema() && tag.suffix == "str")) {
                    self.flaw(node, "tags (`!…`) are not supported".to_owned(), None);
                }
                self.finish(node, anchor, 1);
            }
            Event::SequenceStart(anchor, tag) => {
                self.start(Content::Sequence(Vec::new()), anchor, tag.is_some(), span)?
            }
            Event::MappingStart(anchor, tag) => {
                self.start(Content::Mapping(Vec::new()), anchor, tag.is_some(), span)?
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(frame) = self.open.pop() {
                    self.check_keys(frame.node);
                    self.finish(frame.node, frame.anchor, frame.size);
                }
            }
            Event::Alias(anchor) => {
                let target = self.anchors.get(&anchor).copied();
                let node = self.add(Content::Alias(target.map_or(NONE, |(node, _)| node)), span)?;
                let size = match target {
                    Some((_, Some(size))) => size,
                    Some((_, None)) => return self.stop(node, "the alias contains itself"),
                    None => return self.stop(node, "the alias names nothing in this document"),
                };
                self.aliased = self.aliased.saturating_add(size);
                if self.aliased > ALIASED_NODES_MAX {
                    return self.stop(node, "the aliases of this file stand for too much");
                }
                self.finish(node, 0, size);
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd => {}
        }
        Ok(())
    }

    fn add(&mut self, content: Content<'a>, span: Span) -> Result<u32, Stop> {
        let (line, column) = (number(span.start.line()), number(span.start.col() + 1));
        if self.tree.nodes.len() >= NODES_MAX {
            self.flaw_at((line, column), format!("the file has more than {NODES_MAX} values"), None);
            return Err(Stop);
        }
        let (parent, position) = match self.open.last() {
            None => (NONE, 0),
            Some(frame) => (frame.node, self.tree.nodes[frame.node as usize].content.len()),
        };
        let node = number(self.tree.nodes.len());
        self.tree.nodes.push(Node { content, line, column, parent, position });
        if parent == NONE {
            self.root = Some(node);
        }
        Ok(node)
    }

    fn start(&mut self, content: Content<'a>, anchor: usize, tag: bool, span: Span) -> Result<(), Stop> {
        let node = self.add(content, span)?;
        if self.open.len() >= DEPTH_MAX {
            return self.stop(node, &format!("this is nested more than {DEPTH_MAX} levels deep"));
        }
        if tag {
            self.flaw(node, "tags (`!…`) are not supported".to_owned(), None);
        }
        if anchor != 0 {
            self.anchors.insert(anchor, (node, None));
        }
        self.open.push(Frame { node, anchor, key: None, size: 1 });
        Ok(())
    }

    // Hands a finished node to its parent.
    fn finish(&mut self, node: u32, anchor: usize, size: u64) {
        if anchor != 0 {
            self.anchors.insert(anchor, (node, Some(size)));
        }
        let Some(frame) = self.open.last_mut() else { return };
        frame.size = frame.size.saturating_add(size);
        match &mut self.tree.nodes[frame.node as usize].content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping(entries) => match frame.key.take() {
                Some(key) => entries.push((key, node)),
                None => frame.key = Some(node),
            },
            Content::Scalar { .. } | Content::Alias(_) => {}
        }
    }

    // Kubernetes' own readers take the last of several equal keys without a word.
    fn check_keys(&mut self, mapping: u32) {
        let Content::Mapping(entries) = &self.tree.nodes[mapping as usize].content else { return };
        let mut found = Vec::new();
        let mut lines: HashMap<&str, u32> = HashMap::with_capacity(entries.len());
        for (key, _) in entries {
            let node = &self.tree.nodes[*key as usize];
            let Content::Scalar { text, plain } = &node.content else {
                found.push((*key, "a key must be a text".to_owned(), None));
                continue;
            };
            if *plain && text == "<<" {
                let hint = Some("write the merged keys out".to_owned());
                found.push((*key, "merge keys (`<<`) are not supported".to_owned(), hint));
            } else if let Some(line) = lines.insert(text, node.line) {
                let message = format!("the key {} comes twice", quoted(text));
                found.push((*key, message, Some(format!("it stands in line {line} already"))));
            }
        }
        for (key, message, hint) in found {
            self.flaw(key, message, hint);
        }
    }

    // The tree above the node is unfinished: it is no document, and the flaw has no path.
    fn stop(&mut self, node: u32, message: &str) -> Result<(), Stop> {
        let Node { line, column, .. } = self.tree.nodes[node as usize];
        self.flaws.truncate(FLAWS_MAX - 1);
        self.flaw_at((line, column), message.to_owned(), None);
        Err(Stop)
    }

    fn flaw(&mut self, node: u32, message: String, hint: Option<String>) {
        let Node { line, column, .. } = self.tree.nodes[node as usize];
        self.push(Flaw { node, line, column, message, hint });
    }

    fn flaw_at(&mut self, (line, column): (u32, u32), message: String, hint: Option<String>) {
        self.push(Flaw { node: NONE, line, column, message, hint });
    }

    fn push(&mut self, flaw: Flaw) {
        if self.flaws.len() < FLAWS_MAX {
            self.flaws.push(flaw);
        }
    }

    // `kubectl get -o yaml` writes one `List`; its items are documents like any others.
    fn split_lists(&mut self) {
        let mut documents = Vec::with_capacity(self.tree.documents.len());
        for root in std::mem::take(&mut self.tree.documents) {
            documents.push(root);
            if let Some(items) = self.tree.list_items(root) {
                documents.extend(items.iter().copied());
            }
        }
        self.tree.documents = documents;
    }
}

// === impl Tree ===

impl<'a> Tree<'a> {
    /// A node by its number, aliases followed.
    pub(crate) fn node(&self, mut node: u32) -> &Node<'a> {
        // An alias never names an alias that comes later, so this ends.
        while let Content::Alias(target) = &self.nodes[node as usize].content {
            node = *target;
        }
        &self.nodes[node as usize]
    }

    /// The text of a scalar.
    pub(crate) fn text(&self, node: u32) -> Option<&str> {
        match &self.node(node).content {
            Content::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The items of a document that is a `List`.
    pub(crate) fn list_items(&self, root: u32) -> Option<&[u32]> {
        let Content::Mapping(entries) = &self.node(root).content else { return None };
        let value =
            |wanted| entries.iter().find(|(key, _)| self.text(*key) == Some(wanted)).map(|(_, value)| *value);
        if self.text(value("kind")?) != Some("List") {
            return None;
        }
        match &self.nodes[value("items")? as usize].content {
            Content::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// The document a node belongs to, by the number of its root.
    pub(crate) fn document_of(&self, node: u32) -> u32 {
        let index = self.documents.partition_point(|root| *root <= node);
        index.checked_sub(1).map_or(NONE, |index| self.documents[index])
    }

    /// The way to a node: `spec.rules[0].from`.
    pub(crate) fn path(&self, node: u32) -> String {
        let mut steps = Vec::new();
        let mut at = &self.nodes[node as usize];
        while at.parent != NONE {
            let parent = &self.nodes[at.parent as usize];
            steps.push(match &parent.content {
                Content::Mapping(entries) => {
                    let key = entries.get(at.position as usize).and_then(|(key, _)| self.text(*key));
                    step(key.unwrap_or("?"))
                }
                _ => format!("[{}]", at.position),
            });
            at = parent;
        }
        let path: String = steps.into_iter().rev().collect();
        path.strip_prefix('.').unwrap_or(&path).to_owned()
    }
}

// A key with a dot or anything odd in it is quoted.
fn step(key: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_');
    if !key.is_empty() && key.chars().all(plain) { format!(".{key}") } else { format!("[{}]", quoted(key)) }
}

/// A user's text for a message: quoted, escaped and bounded.
pub(crate) fn quoted(text: &str) -> String {
    if text.chars().count() <= 80 {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(77).collect();
    format!("{:?}", head + "...")
}

// === impl Content ===

impl Content<'_> {
    fn len(&self) -> u32 {
        number(match self {
            Self::Sequence(items) => items.len(),
            Self::Mapping(entries) => entries.len(),
            Self::Scalar { .. } | Self::Alias(_) => 0,
        })
    }
}

#[cfg(test)]
mod tests;
