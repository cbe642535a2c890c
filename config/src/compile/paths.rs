//! Paths in rules: one that is not in the form in which requests are judged and routed never matches.

use crate::document::quoted;
use crate::report::Report;
use crate::schema::authorization_policy::RulePath;
use weft_model::path::{Normalization, PathError};

/// Checks the paths that a rule names, by the mesh's level.
pub(crate) fn check(report: &Report<'_>, paths: &[RulePath], level: Normalization) {
    for path in paths {
        let text = quoted(&path.text);
        if !path.sample.starts_with('/') {
            let message = format!("the path {text} never matches: {}", PathError::Relative);
            report.error_hint(path.place, message, "start it with /");
            continue;
        }
        match level.canonical(&path.sample) {
            Ok(form) if *form == *path.sample => {}
            Ok(form) => {
                let hint = format!("requests are judged by {}", quoted(&form));
                report.error_hint(path.place, format!("the path {text} never matches"), hint);
            }
            // The beginning of a path may end within an escape.
            Err(PathError::Escape) if path.partial => {}
            Err(error) => report.error(path.place, format!("the path {text} never matches: {error}")),
        }
    }
}
