//! Tokens and key sets: what is accepted has one spelling, and reading it again says the same.

use weft_model::json::{Json, Members};
use weft_model::jwks::KeySet;
use weft_model::token::{Algorithm, Claims, Token};

/// Says whether it was a token.
pub(crate) fn check(text: &str) -> bool {
    let bytes = text.as_bytes();
    if let Ok(value) = Json::parse(bytes) {
        // A text of JSON stays one between blanks, and is never two.
        assert_eq!(Json::parse(format!(" {text}\n").as_bytes()).as_ref(), Ok(&value));
        assert!(Json::parse(format!("[{text}").as_bytes()).is_err());
    }
    if let Ok(members) = Members::parse(bytes) {
        let names: Vec<_> = members.iter().map(|(name, _)| name).collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "each name once");
        if let Ok(claims) = Claims::new(members) {
            let _ = claims.check_time(0, 60);
        }
    }
    if let Ok(set) = KeySet::parse(bytes) {
        for key in &set.keys {
            let fitting = Algorithm::ALL.iter().filter(|(_, algorithm)| key.material.fits(*algorithm));
            assert!(matches!(fitting.count(), 1 | 6), "a key is of one type");
        }
    }
    let Ok(token) = Token::parse(text) else { return false };
    // Three parts of base64url and nothing else, so that a cache may go by the text.
    assert_eq!(text.split('.').count(), 3);
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    assert!(text.bytes().all(letters));
    assert!(text.strip_prefix(token.signed).is_some_and(|rest| rest.starts_with('.')));
    assert!(token.signed.ends_with(token.payload));
    assert!(!matches!(token.algorithm.name(), "" | "none"));
    true
}
