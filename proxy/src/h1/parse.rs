//! Heads and trailer sections, from bytes to our types: the grammar of RFC 9110 and RFC 9112.
//!
//! One pass from left to right; what is wrong is refused where it stands, nothing is repaired:
//! bare CR or LF, folded lines, space before the colon, control characters, doubled spaces, an
//! unknown version. Values may hold bytes from 0x80 on (obs-text). The functions do no I/O, so
//! that they can be fuzzed; given a part of a head, they ask for more.

use super::authority::{same_authority, valid_authority};
use crate::http::respond::is_internal;
use crate::http::{Field, Headers, Known, KnownSet, Limits, Method, RequestHead, ResponseHead, Scheme, Span};
use crate::http::{StatusCode, Version, is_token, is_token_byte, position, value_run};
use weft_model::reason::Reason;

/// Longer methods exist nowhere.
const METHOD_BYTES_MAX: usize = 32;

/// Trailers are a status and a digest, not a second head.
const TRAILER_BYTES_MAX: usize = 32 * 1024;

/// `HTTP/1.1` and the line end.
const VERSION_BYTES: usize = 10;

/// Where a scan stopped.
enum Stop {
    /// The input ends before it can be told.
    More,
    /// The grammar is broken.
    Malformed,
    /// A limit is reached.
    TooLarge,
}

/// A request line, as ranges of the input.
struct RequestLine {
    method: Method,
    target: Span,
    version: Version,
    end: usize,
}

/// A request head at the start of `input`: how many bytes it takes, and what it says. `None` asks
/// for more input.
pub fn request_head(input: &[u8], limits: &Limits) -> Result<Option<(usize, RequestHead)>, Reason> {
    // One empty line before a request is tolerated (RFC 9112, section 2.2).
    let skipped = match input {
        [b'\r', b'\n', ..] => 2,
        [] | [b'\r'] => return Ok(None),
        _ => 0,
    };
    let whole = &input[skipped..];
    let head = &whole[..whole.len().min(limits.head_bytes_max)];
    let cut = head.len() < whole.len() || head.len() == limits.head_bytes_max;
    let line = match request_line(head, limits)? {
        Some(line) => line,
        None if cut => return Err(Reason::HeaderTooLarge),
        None => return Ok(None),
    };
    let (end, headers) = match fields(head, line.end, limits) {
        Ok(parsed) => parsed,
        Err(Stop::More) if !cut => return Ok(None),
        Err(Stop::More | Stop::TooLarge) => return Err(Reason::HeaderTooLarge),
        Err(Stop::Malformed) => return Err(Reason::RequestMalformed),
    };
    Ok(Some((skipped + end, request(line, headers)?)))
}

/// Whether a head of which the first `before` bytes were parsed in vain should be parsed again: a
/// line more is here, or the limit is reached. A byte at a time must not cost a pass each.
pub(crate) fn worth_another_pass(input: &[u8], before: usize, limits: &Limits) -> bool {
    let Some(last) = before.checked_sub(1) else { return true };
    input.len() >= limits.head_bytes_max || input[last] == b'\r' || input[before..].contains(&b'\n')
}

fn request_line(input: &[u8], limits: &Limits) -> Result<Option<RequestLine>, Reason> {
    let method_end = match input.iter().take(METHOD_BYTES_MAX + 1).position(|byte| !is_token_byte(*byte)) {
        Some(end) => end,
        None if input.len() <= METHOD_BYTES_MAX => return Ok(None),
        None => return Err(Reason::RequestMalformed),
    };
    if method_end == 0 || input[method_end] != b' ' {
        return Err(Reason::RequestMalformed);
    }
    let start = method_end + 1;
    let length = target_run(&input[start..]);
    if length > limits.target_bytes_max {
        return Err(Reason::TargetTooLong);
    }
    let end = start + length;
    let rest = match input.get(end) {
        None => return Ok(None),
        Some(b' ') if length > 0 => &input[end + 1..],
        Some(_) => return Err(Reason::RequestMalformed),
    };
    let version = match version(rest) {
        Ok(version) => version,
        Err(Stop::More) => return Ok(None),
        Err(Stop::TooLarge) => return Err(Reason::VersionUnsupported),
        Err(Stop::Malformed) => return Err(Reason::RequestMalformed),
    };
    match rest.get(VERSION_BYTES - 2..VERSION_BYTES) {
        Some(b"\r\n") => {}
        None if rest.get(VERSION_BYTES - 2).is_none_or(|byte| *byte == b'\r') => return Ok(None),
        _ => return Err(Reason::RequestMalformed),
    }
    let method = Method::from_bytes(&input[..method_end]).map_err(|_| Reason::RequestMalformed)?;
    let target = Span { start: start as u32, length: length as u32 };
    Ok(Some(RequestLine { method, target, version, end: end + 1 + VERSION_BYTES }))
}

/// `HTTP/1.1` or `HTTP/1.0` at the start of the text; `TooLarge` stands for another version.
fn version(text: &[u8]) -> Result<Version, Stop> {
    const TEMPLATE: &[u8; 8] = b"HTTP/1.1";
    let Some((text, _)) = text.split_first_chunk::<8>() else {
        // Garbage is refused as soon as it shows.
        let known = TEMPLATE.iter().zip(text).enumerate();
        let fits = known.into_iter().all(|(index, (wanted, found))| match index {
            5 | 7 => found.is_ascii_digit(),
            _ => wanted == found,
        });
        return Err(if fits { Stop::More } else { Stop::Malformed });
    };
    match text {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Stop::TooLarge)
        }
        _ => Err(Stop::Malformed),
    }
}

/// Judges the target together with Host and makes the head.
fn request(line: RequestLine, headers: Headers) -> Result<RequestHead, Reason> {
    let host = host(&headers, line.version)?;
    let text = headers.text.as_slice();
    let (scheme, authority, path) = match line.target.of(text) {
        _ if line.method == Method::CONNECT => connect_target(text, line.target, host)?,
        [b'/', ..] => (Scheme::Http, host, line.target),
        b"*" if line.method == Method::OPTIONS => (Scheme::Http, host, line.target),
        _ => absolute_target(text, line.target, host)?,
    };
    // An absolute target may have no path: it is then `/`, or `*` for OPTIONS (RFC 9112, 3.2.4).
    let whole = match path.of(text) {
        [] if line.method == Method::OPTIONS => Some("*".to_owned()),
        query @ ([] | [b'?', ..]) if line.method != Method::CONNECT => {
            Some(format!("/{}", String::from_utf8_lossy(query)))
        }
        _ => None,
    };
    let mut head = RequestHead::from_parts(line.method, line.version, scheme, headers, authority, path);
    if let Some(whole) = whole {
        head.set_path_and_query(&whole).map_err(|_| Reason::RequestMalformed)?;
    }
    Ok(head)
}

/// The target of a CONNECT: host and port, no path.
fn connect_target(text: &[u8], target: Span, host: Span) -> Result<(Scheme, Span, Span), Reason> {
    let (named, host) = (target.of(text), host.of(text));
    let port = named.iter().rposition(|byte| *byte == b':').filter(|_| !named.ends_with(b"]"));
    let Some(port) = port.filter(|_| valid_authority(named)) else { return Err(Reason::RequestMalformed) };
    // Clients write the Host of a CONNECT with or without the port.
    let same =
        host.is_empty() || host.eq_ignore_ascii_case(named) || host.eq_ignore_ascii_case(&named[..port]);
    if same { Ok((Scheme::Http, target, Span::default())) } else { Err(Reason::AuthorityMismatch) }
}

/// A target with scheme and authority, which Host must not contradict.
fn absolute_target(text: &[u8], target: Span, host: Span) -> Result<(Scheme, Span, Span), Reason> {
    let whole = target.of(text);
    let (scheme, prefix) = absolute(whole).ok_or(Reason::RequestMalformed)?;
    let rest = &whole[prefix..];
    let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let named = Span { start: target.start + prefix as u32, length: length as u32 };
    if !valid_authority(named.of(text)) {
        return Err(Reason::HostInvalid);
    }
    if host.length > 0 && !same_authority(named.of(text), host.of(text), scheme) {
        return Err(Reason::AuthorityMismatch);
    }
    let authority = if host.length > 0 { host } else { named };
    Ok((scheme, authority, Span { start: named.end(), length: (rest.len() - length) as u32 }))
}

/// The value of Host: exactly one, and valid. HTTP/1.0 may do without.
fn host(headers: &Headers, version: Version) -> Result<Span, Reason> {
    let mut hosts = headers.fields.iter().filter(|field| field.known == Known::Host);
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if valid_authority(host.value.of(&headers.text)) => Ok(host.value),
        (None, _) if version == Version::Http10 => Ok(Span::default()),
        _ => Err(Reason::HostInvalid),
    }
}

/// The scheme of an absolute target and where its authority begins.
fn absolute(target: &[u8]) -> Option<(Scheme, usize)> {
    let starts =
        |prefix: &[u8]| target.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if starts(b"http://") {
        Some((Scheme::Http, 7))
    } else if starts(b"https://") {
        Some((Scheme::Https, 8))
    } else {
        None
    }
}

/// A response head at the start of `input`: how many bytes it takes, and what it says. `None`
/// asks for more input.
pub fn response_head(input: &[u8], limits: &Limits) -> Result<Option<(usize, ResponseHead)>, Reason> {
    let head = &input[..input.len().min(limits.head_bytes_max)];
    let cut = head.len() == limits.head_bytes_max;
    let parsed = status_line(head).and_then(|(status, version, phrase, start)| {
        let (end, headers) = fields(head, start, limits)?;
        Ok((end, ResponseHead::from_parts(status, version, headers, phrase)))
    });
    match parsed {
        Ok(parsed) => Ok(Some(parsed)),
        Err(Stop::More) if !cut => Ok(None),
        Err(Stop::More | Stop::TooLarge) => Err(Reason::ResponseHeaderTooLarge),
        Err(Stop::Malformed) => Err(Reason::ResponseMalformed),
    }
}

fn status_line(input: &[u8]) -> Result<(StatusCode, Version, Span, usize), Stop> {
    let version =
        version(input).map_err(|stop| if matches!(stop, Stop::More) { stop } else { Stop::Malformed })?;
    match input.get(8) {
        None => return Err(Stop::More),
        Some(b' ') => {}
        Some(_) => return Err(Stop::Malformed),
    }
    let Some(digits) = input.get(9..12) else { return Err(Stop::More) };
    if !digits.iter().all(u8::is_ascii_digit) || !(b'1'..=b'5').contains(&digits[0]) {
        return Err(Stop::Malformed);
    }
    let status = StatusCode::from_bytes(digits).map_err(|_| Stop::Malformed)?;
    // The space before an empty phrase is often left out.
    let start = match input.get(12) {
        None => return Err(Stop::More),
        Some(b' ') => 13,
        Some(b'\r') => 12,
        Some(_) => return Err(Stop::Malformed),
    };
    let end = value_end(input, start)?;
    let phrase = Span { start: start as u32, length: (end - start) as u32 };
    Ok((status, version, phrase, end + 2))
}

/// A trailer section at the start of `input`, its last empty line included.
pub fn trailers(input: &[u8], limits: &Limits) -> Result<Option<(usize, Headers)>, Reason> {
    let max = limits.head_bytes_max.min(TRAILER_BYTES_MAX);
    let section = &input[..input.len().min(max)];
    match fields(section, 0, limits) {
        Ok((_, headers))
            if headers.contains_any(TRAILERS_FORBIDDEN)
                || headers.iter().any(|field| is_internal(field.name)) =>
        {
            Err(Reason::BodyMalformed)
        }
        Ok(parsed) => Ok(Some(parsed)),
        Err(Stop::More) if section.len() < max => Ok(None),
        Err(_) => Err(Reason::BodyMalformed),
    }
}

/// Fields that frame, route or authenticate a message come too late in a trailer, and whoever
/// merges them into the head would be misled (RFC 9110, section 6.5.1).
pub(crate) const TRAILERS_FORBIDDEN: KnownSet = KnownSet::EMPTY
    .with(Known::Host)
    .with(Known::Connection)
    .with(Known::ContentLength)
    .with(Known::TransferEncoding)
    .with(Known::Te)
    .with(Known::Trailer)
    .with(Known::Upgrade)
    .with(Known::Expect)
    .with(Known::KeepAlive)
    .with(Known::ProxyConnection)
    .with(Known::ProxyAuthenticate)
    .with(Known::ProxyAuthorization)
    .with(Known::Http2Settings)
    .with(Known::ContentType)
    .with(Known::ContentEncoding)
    .with(Known::ContentRange)
    .with(Known::Authorization)
    .with(Known::Cookie)
    .with(Known::SetCookie)
    .with(Known::Location)
    .with(Known::CacheControl)
    .with(Known::MaxForwards)
    .with(Known::WwwAuthenticate)
    .with(Known::Forwarded)
    .with(Known::XForwardedFor)
    .with(Known::XForwardedProto)
    .with(Known::XForwardedHost)
    .with(Known::XForwardedClientCert)
    .with(Known::XWeftReason)
    .with(Known::XWeftUndelivered)
    .with(Known::XWeftAttempt)
    .with(Known::XWeftDeadline)
    .with(Known::XWeftRetry);

/// Field lines from `start` to the empty line, which must be there.
fn fields(input: &[u8], start: usize, limits: &Limits) -> Result<(usize, Headers), Stop> {
    let mut fields = Vec::with_capacity(16);
    let mut present = KnownSet::EMPTY;
    let mut at = start;
    loop {
        match input.get(at) {
            None => return Err(Stop::More),
            Some(b'\r') => {
                return match input.get(at + 1) {
                    None => Err(Stop::More),
                    // The arena gets the head as it stands, with room for a few fields of ours.
                    Some(b'\n') => {
                        let mut text = Vec::with_capacity(at + 192);
                        text.extend_from_slice(&input[..at]);
                        Ok((at + 2, Headers::from_parts(text, fields, present)))
                    }
                    Some(_) => Err(Stop::Malformed),
                };
            }
            Some(_) => {}
        }
        if fields.len() == limits.fields_max {
            return Err(Stop::TooLarge);
        }
        let (field, next) = field(input, at)?;
        present.insert(field.known);
        fields.push(field);
        at = next;
    }
}

fn field(input: &[u8], start: usize) -> Result<(Field, usize), Stop> {
    let line = &input[start..];
    let Some(name_length) = position(line, b':') else {
        return Err(if line.iter().all(|byte| is_token_byte(*byte)) { Stop::More } else { Stop::Malformed });
    };
    let name = &line[..name_length];
    let known = Known::of(name);
    // What is known is a token.
    if known == Known::Other && !is_token(name) {
        return Err(Stop::Malformed);
    }
    let name_end = start + name_length;
    let mut value_start = name_end + 1;
    while let Some(b' ' | b'\t') = input.get(value_start) {
        value_start += 1;
    }
    let end = value_end(input, value_start)?;
    let mut value_last = end;
    while value_last > value_start && matches!(input[value_last - 1], b' ' | b'\t') {
        value_last -= 1;
    }
    let field = Field {
        name_start: start as u32,
        name_length: u16::try_from(name_length).map_err(|_| Stop::TooLarge)?,
        known,
        verbatim: value_last == end && value_start == name_end + 2 && input[name_end + 1] == b' ',
        value: Span { start: value_start as u32, length: (value_last - value_start) as u32 },
    };
    Ok((field, end + 2))
}

/// Where the value that starts at `start` ends: before its CRLF.
fn value_end(input: &[u8], start: usize) -> Result<usize, Stop> {
    let mut at = start;
    loop {
        at += value_run(&input[at..]);
        match input.get(at) {
            None => return Err(Stop::More),
            Some(b'\t') => at += 1,
            Some(b'\r') => {
                return match input.get(at + 1) {
                    None => Err(Stop::More),
                    Some(b'\n') => Ok(at),
                    Some(_) => Err(Stop::Malformed),
                };
            }
            Some(_) => return Err(Stop::Malformed),
        }
    }
}

/// Whether the text is a path with its query, or the `*` of OPTIONS, for who has it on its own.
pub(crate) fn valid_target(target: &[u8], method: &Method) -> bool {
    let form = target.starts_with(b"/") || (target == b"*" && *method == Method::OPTIONS);
    form && target_run(target) == target.len()
}

/// How many bytes at the start may stand in a request target.
fn target_run(bytes: &[u8]) -> usize {
    let path = bytes.iter().position(|byte| TARGET[*byte as usize] & IN_PATH == 0).unwrap_or(bytes.len());
    if bytes.get(path) != Some(&b'?') {
        return path;
    }
    let query = &bytes[path..];
    path + query.iter().position(|byte| TARGET[*byte as usize] & IN_QUERY == 0).unwrap_or(query.len())
}

const IN_PATH: u8 = 1;
const IN_QUERY: u8 = 2;

/// RFC 3986, section 3.3 and 3.4. Browsers and Node send some bytes in queries as they are that
/// should be encoded (the URL standard's query set); no rule reads the query by its grammar, so
/// there they pass, while a path has one spelling.
static TARGET: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = match byte as u8 {
            b'"' | b'<' | b'>' | b'#' => 0,
            b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'?' => IN_QUERY,
            _ => IN_PATH | IN_QUERY,
        };
        byte += 1;
    }
    table
};
