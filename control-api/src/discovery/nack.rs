//! What a proxy says when it refuses a response: a JSON array of `{"name": …, "reason": …}`, or plain
//! text, which then stands for all that the response held. These are a peer's bytes: bounded here, and
//! only names that were really sent are taken from them.

use serde::Deserialize;
use weft_model::wire::Kind;

/// The longest message that is read as JSON.
const MESSAGE_LENGTH_MAX: usize = 256 * 1024;

/// The longest reason that is kept, in characters.
const REASON_LENGTH_MAX: usize = 512;

/// A resource that a proxy refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// Its type.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Why, in the proxy's words.
    pub reason: String,
}

#[derive(Deserialize)]
struct Item {
    name: String,
    reason: String,
}

/// Reads a refusal of a response that held these names.
pub fn read(kind: Kind, message: &str, sent: &[String]) -> Vec<Refusal> {
    let bounded = |reason: &str| reason.chars().take(REASON_LENGTH_MAX).collect::<String>();
    let items: Option<Vec<Item>> =
        (message.len() <= MESSAGE_LENGTH_MAX).then(|| serde_json::from_str(message).ok()).flatten();
    let named: Vec<Refusal> = items
        .unwrap_or_default()
        .into_iter()
        .filter(|item| sent.contains(&item.name))
        .map(|item| Refusal { kind, reason: bounded(&item.reason), name: item.name })
        .collect();
    if !named.is_empty() {
        return named;
    }
    let all = |name: &String| Refusal { kind, name: name.clone(), reason: bounded(message) };
    sent.iter().map(all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_of_what_was_sent_and_bounded() {
        let sent = ["a".to_owned(), "b".to_owned()];
        let read = |message: &str| read(Kind::Route, message, &sent);
        let one = read(r#"[{"name":"a","reason":"no"},{"name":"never sent","reason":"x"}]"#);
        assert_eq!(one, [Refusal { kind: Kind::Route, name: "a".to_owned(), reason: "no".to_owned() }]);
        let names = |refusals: Vec<Refusal>| refusals.into_iter().map(|held| held.name).collect::<Vec<_>>();
        assert_eq!(names(read("I do not like this")), ["a", "b"]);
        assert_eq!(names(read("")), ["a", "b"]);
        assert_eq!(names(read(r#"[{"name":"never sent","reason":"x"}]"#)), ["a", "b"]);
        let long = read(&format!(r#"[{{"name":"a","reason":"{}"}}]"#, "é".repeat(100_000)));
        assert_eq!(long[0].reason.chars().count(), 512);
    }
}
