//! What changed between two snapshots, counted by kind: for the log line of a change, and for people
//! who wonder whether an edit did what they meant.

use super::Snapshot;
use std::fmt;
use weft_model::wire::Kind;

/// The changes of one kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KindDiff {
    /// The kind.
    pub kind: Kind,
    /// Resources that were not there before.
    pub added: usize,
    /// Resources with another content.
    pub changed: usize,
    /// Resources that are no more.
    pub removed: usize,
}

/// The changes of all kinds but the Generation, those without change left out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Diff(pub Vec<KindDiff>);

impl Diff {
    /// From one snapshot to the next.
    pub fn between(before: Option<&Snapshot>, after: &Snapshot) -> Self {
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Generation);
        let of_kind = |kind: Kind| {
            let (mut added, mut changed, mut kept) = (0, 0, 0);
            for (name, encoded) in after.of_kind(kind) {
                match before.and_then(|before| before.get(kind, name.as_str())) {
                    None => added += 1,
                    Some(held) => {
                        kept += 1;
                        changed += usize::from(held.version != encoded.version);
                    }
                }
            }
            let held = before.map_or(0, |before| before.of_kind(kind).len());
            KindDiff { kind, added, changed, removed: held - kept }
        };
        Self(kinds.map(of_kind).filter(|diff| diff.added + diff.changed + diff.removed > 0).collect())
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (position, diff) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            let kind = crate::metrics::kind_label(diff.kind);
            write!(f, "{separator}{kind} +{} ~{} -{}", diff.added, diff.changed, diff.removed)?;
        }
        Ok(())
    }
}
