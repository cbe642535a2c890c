//! Diagnostics as SARIF 2.1.0, which code hosts show beside the lines.

use serde_json::{Value, json};
use weft_config::{Diagnostic, Severity};

/// One run with all diagnostics. `root`: what file names are relative to.
pub(super) fn document(diagnostics: &[Diagnostic], root: &str) -> Value {
    let results: Vec<Value> = diagnostics.iter().map(|diagnostic| result(diagnostic, root)).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "weft check",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": [
                    { "id": "error", "shortDescription": { "text": "The document is refused." } },
                    { "id": "warning", "shortDescription": { "text": "It holds, but probably not as meant." } },
                ],
            } },
            // Columns are characters, not UTF-16 units.
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(diagnostic: &Diagnostic, root: &str) -> Value {
    let Diagnostic { severity, file, line, column, path, message, hint } = diagnostic;
    let level = match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let text = match hint {
        Some(hint) => format!("{message} ({hint})"),
        None => message.clone(),
    };
    let mut location = json!({
        "physicalLocation": {
            "artifactLocation": { "uri": uri(root, file) },
            "region": { "startLine": line.max(&1), "startColumn": column.max(&1) },
        },
    });
    if !path.is_empty() {
        location["logicalLocations"] = json!([{ "fullyQualifiedName": path }]);
    }
    json!({ "ruleId": level, "level": level, "message": { "text": text }, "locations": [location] })
}

// A relative reference of RFC 3986: what is not unreserved is escaped, byte by byte.
fn uri(root: &str, file: &str) -> String {
    let root = root.trim_start_matches("./").trim_end_matches('/');
    let joined = if matches!(root, "" | ".") { file.to_owned() } else { format!("{root}/{file}") };
    let mut uri = String::with_capacity(joined.len());
    for byte in joined.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_diagnostic_is_a_result_with_its_place() {
        let diagnostic = Diagnostic {
            severity: Severity::Warning,
            file: "a b.yaml".to_owned(),
            line: 7,
            column: 3,
            path: "spec.rules[0]".to_owned(),
            message: "it is odd".to_owned(),
            hint: Some("make it even".to_owned()),
        };
        let document = document(&[diagnostic], "./policies/");
        assert_eq!(document["version"], "2.1.0");
        let result = &document["runs"][0]["results"][0];
        assert_eq!(result["level"], "warning");
        assert_eq!(result["message"]["text"], "it is odd (make it even)");
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "policies/a%20b.yaml");
        assert_eq!(place["region"], json!({ "startLine": 7, "startColumn": 3 }));
        let rules = document["runs"][0]["tool"]["driver"]["rules"].as_array().unwrap();
        assert!(rules.iter().any(|rule| rule["id"] == result["ruleId"]));
    }
}
