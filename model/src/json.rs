//! JSON from strangers: a strict reader for the headers, claims and keys of tokens.
//!
//! Exactly RFC 8259, and less: a member that comes twice is refused (two readers would take
//! different ones), as are lone surrogates, deep nesting and more values than anybody needs. Numbers
//! stay text until somebody says what they must be. Nothing here panics, and time and memory are
//! linear in the input.

/// The deepest nesting.
pub const DEPTH_MAX: usize = 64;
/// The most values of a document: far more than a token of the largest size has use for.
pub const VALUES_MAX: usize = 20_000;

/// A value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Flag(bool),
    /// A number, as it was written.
    Number(Box<str>),
    /// Text.
    Text(Box<str>),
    /// An array.
    List(Vec<Self>),
    /// An object.
    Object(Members),
}

/// The members of an object, each name once, sorted by name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Members(Vec<(Box<str>, Json)>);

/// Why a text is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum JsonError {
    /// It does not follow the grammar.
    #[error("it is not JSON (at byte {0})")]
    Grammar(usize),
    /// A member comes twice.
    #[error("the member {0:?} comes twice")]
    Duplicate(String),
    /// It is nested too deeply.
    #[error("it is nested more than {DEPTH_MAX} deep")]
    Depth,
    /// It has too many values.
    #[error("it has more than {VALUES_MAX} values")]
    Size,
    /// It is something else than an object.
    #[error("it is not an object")]
    NotAnObject,
}

// === impl Json ===

impl Json {
    /// Reads a text.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        let mut reader = Reader { text, at: 0, values: 0 };
        let value = reader.value(0)?;
        reader.space();
        if reader.at == text.len() { Ok(value) } else { Err(reader.wrong()) }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The members, if it is an object.
    pub fn as_object(&self) -> Option<&Members> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }
}

// === impl Members ===

impl Members {
    /// Reads a text that must be an object.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        match Json::parse(text)? {
            Json::Object(members) => Ok(members),
            _ => Err(JsonError::NotAnObject),
        }
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&Json> {
        let found = self.0.binary_search_by(|(held, _)| (**held).cmp(name)).ok()?;
        Some(&self.0[found].1)
    }

    /// The text of a name, if it is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_text()
    }

    /// Whether the name is there.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All members by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    values: usize,
}

impl Reader<'_> {
    fn wrong(&self) -> JsonError {
        JsonError::Grammar(self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, JsonError> {
        if !self.text[self.at..].starts_with(word.as_bytes()) {
            return Err(self.wrong());
        }
        self.at += word.len();
        Ok(value)
    }

    fn value(&mut self, depth: usize) -> Result<Json, JsonError> {
        if depth > DEPTH_MAX {
            return Err(JsonError::Depth);
        }
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(JsonError::Size);
        }
        self.space();
        match self.peek() {
            Some(b'n') => self.word("null", Json::Null),
            Some(b't') => self.word("true", Json::Flag(true)),
            Some(b'f') => self.word("false", Json::Flag(false)),
            Some(b'"') => Ok(Json::Text(self.string()?)),
            Some(b'[') => self.list(depth),
            Some(b'{') => self.object(depth),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.wrong()),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json, JsonError> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Json::List(items));
                }
                _ => return Err(self.wrong()),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, JsonError> {
        self.at += 1;
        let mut members: Vec<(Box<str>, Json)> = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object(Members(members)));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.wrong());
            }
            let name = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.wrong());
            }
            self.at += 1;
            members.push((name, self.value(depth + 1)?));
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    break;
                }
                _ => return Err(self.wrong()),
            }
        }
        members.sort_by(|(one, _), (other, _)| one.cmp(other));
        match members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(JsonError::Duplicate(pair[0].0.chars().take(64).collect())),
            None => Ok(Json::Object(Members(members))),
        }
    }

    fn number(&mut self) -> Result<Json, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.wrong()),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = std::str::from_utf8(&self.text[start..self.at]).map_err(|_| self.wrong())?;
        Ok(Json::Number(text.into()))
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.wrong()) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<Box<str>, JsonError> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let start = self.at;
            while self.peek().is_some_and(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
                self.at += 1;
            }
            let plain = std::str::from_utf8(&self.text[start..self.at]).map_err(|_| self.wrong())?;
            text.push_str(plain);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text.into());
                }
                Some(b'\\') => {
                    self.at += 1;
                    text.push(self.escape()?);
                }
                // A control character, or the end.
                _ => return Err(self.wrong()),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let escaped = self.peek().ok_or_else(|| self.wrong())?;
        self.at += 1;
        Ok(match escaped {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.unit()?;
                let code = match unit {
                    0xd800..=0xdbff => {
                        if !self.text[self.at..].starts_with(b"\\u") {
                            return Err(self.wrong());
                        }
                        self.at += 2;
                        let low = self.unit()?;
                        if !(0xdc00..=0xdfff).contains(&low) {
                            return Err(self.wrong());
                        }
                        0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
                    }
                    unit => unit,
                };
                char::from_u32(code).ok_or_else(|| self.wrong())?
            }
            _ => return Err(self.wrong()),
        })
    }

    fn unit(&mut self) -> Result<u32, JsonError> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            unit = unit * 16 + digit.ok_or_else(|| self.wrong())?;
            self.at += 1;
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_meant() {
        let text = br#" {"a":[1,-0.5e+3,true,null],"b":{"c":"\u00e4\ud83d\ude00\n\"\/"},"":{}} "#;
        let members = Members::parse(text).unwrap();
        let list = [Json::Number("1".into()), Json::Number("-0.5e+3".into()), Json::Flag(true), Json::Null];
        assert_eq!(members.get("a"), Some(&Json::List(list.into())));
        assert_eq!(members.get("b").unwrap().as_object().unwrap().text("c"), Some("ä😀\n\"/"));
        assert!(members.has("") && !members.has("c"));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for bad in [
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "{'a':1}",
            "01",
            "1.",
            ".5",
            "1e",
            "+1",
            "-",
            "NaN",
            "nul",
            "truex",
            "[1] 2",
            "\"\u{1}\"",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "\"",
            "\"\\",
            "\"\\u12",
            "\u{feff}{}",
            "[1 2]",
            "{\"a\" 1}",
            "// c\n1",
            "\"a\nb\"",
        ] {
            assert!(matches!(Json::parse(bad.as_bytes()), Err(JsonError::Grammar(_))), "{bad:?}");
        }
        assert!(matches!(Json::parse(b"\"\xff\""), Err(JsonError::Grammar(_))));
        assert_eq!(Json::parse(br#"{"a":1,"b":2,"a":1}"#), Err(JsonError::Duplicate("a".to_owned())));
        // The same name, once escaped.
        assert_eq!(Json::parse(br#"{"a":1,"\u0061":1}"#), Err(JsonError::Duplicate("a".to_owned())));
        assert_eq!(Members::parse(b"[]"), Err(JsonError::NotAnObject));
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Json::parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert_eq!(Json::parse(nested(DEPTH_MAX + 1).as_bytes()), Err(JsonError::Depth));
        assert_eq!(Json::parse("[".repeat(1_000_000).as_bytes()), Err(JsonError::Depth));
        let wide = format!("[{}1]", "1,".repeat(VALUES_MAX));
        assert_eq!(Json::parse(wide.as_bytes()), Err(JsonError::Size));
    }
}
