//! What a scalar that stands without quotes means: YAML 1.2's core schema, and a word of warning
//! where YAML 1.1, which `kubectl` reads, means something else.

/// What a plain scalar is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Meaning {
    Null,
    Flag(bool),
    Number,
    Text,
}

/// The meaning of a scalar without quotes.
pub(crate) fn meaning(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
        "true" | "True" | "TRUE" => Meaning::Flag(true),
        "false" | "False" | "FALSE" => Meaning::Flag(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | ".nan" | ".NaN" | ".NAN" => Meaning::Number,
        _ if is_number(text) => Meaning::Number,
        _ => Meaning::Text,
    }
}

fn is_number(text: &str) -> bool {
    if let Some(digits) = text.strip_prefix("0x") {
        return !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return !digits.is_empty() && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    }
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let numeric = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-');
    // `f64` reads all decimal forms of the core schema, and words, which the first test excludes.
    body.bytes().all(numeric) && body.bytes().any(|byte| byte.is_ascii_digit()) && body.parse::<f64>().is_ok()
}

/// Whether YAML 1.1 takes this text for a boolean or a number.
pub(crate) fn differs_in_yaml_1_1(text: &str) -> bool {
    const WORDS: [&str; 6] = ["y", "n", "yes", "no", "on", "off"];
    if text.len() <= 3 {
        return WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.starts_with(|char: char| char.is_ascii_digit())
        && digits.contains('_')
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_yaml_1_2_says() {
        for text in ["1", "-1", "1.20", "1e3", "0777", "0x1F", ".5", "+2"] {
            assert_eq!(meaning(text), Meaning::Number, "{text}");
        }
        for text in
            ["1.2.3", "10.0.0.1", "on", "1_000", "-", ".", "e", "0x", "v1", "80-90", "nan", "infinity"]
        {
            assert_eq!(meaning(text), Meaning::Text, "{text}");
        }
        assert_eq!(meaning("~"), Meaning::Null);
        assert_eq!(meaning("False"), Meaning::Flag(false));
        assert!(differs_in_yaml_1_1("On") && differs_in_yaml_1_1("1_000"));
        assert!(!differs_in_yaml_1_1("one") && !differs_in_yaml_1_1("a_1"));
    }
}
