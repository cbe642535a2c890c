//! HTTP/1.1 over a flat buffer, for the load generator and the application: just enough framing to be cheap, so that
//! the proxies between them dominate. Bodies are framed by Content-Length alone; a chunked answer of the application is
//! an error that says so, because a contender that re-frames would do other work than the rest.

use anyhow::{Context as _, Result, bail, ensure};

/// The answers read here come from proxies that add a dozen fields at most.
const HEADERS_MAX: usize = 48;
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Ends a chunked body without trailers.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A request's head as the application needs it.
pub(crate) struct Request {
    pub(crate) head_bytes: usize,
    pub(crate) body_bytes: usize,
    /// How large an answer the last path segment asks for: `/items/100` wants 100 bytes.
    pub(crate) answer_bytes: usize,
}

/// Reads one answer after another from chunks of a connection.
#[derive(Default)]
pub(crate) struct AnswerReader {
    /// Bytes of a head that did not come in one piece.
    head: Vec<u8>,
    answer: Option<Pending>,
}

struct Pending {
    answer: Answer,
    missing: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body_bytes: usize,
    /// The peer will close the connection after this answer.
    pub(crate) close: bool,
}

/// The request every client sends, as bytes.
pub(crate) fn get(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: weft-bench\r\naccept: */*\r\n\r\n")
        .into_bytes()
}

/// A request with a body, as bytes.
pub(crate) fn post(host: &str, path: &str, body_bytes: usize) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: weft-bench\r\ncontent-length: {body_bytes}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + body_bytes, b'x');
    request
}

/// A whole answer of `body_bytes`, as bytes.
pub(crate) fn answer(body_bytes: usize) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {body_bytes}\r\n\r\n")
            .into_bytes();
    answer.resize(answer.len() + body_bytes, b'x');
    answer
}

/// The size that the last segment of `path` asks for; 0 where it is no number.
pub(crate) fn answer_bytes(path: &str) -> usize {
    path.rsplit('/').next().and_then(|segment| segment.parse().ok()).unwrap_or(0)
}

/// Parses a request's head; `None` while it is incomplete.
pub(crate) fn parse_request(bytes: &[u8]) -> Result<Option<Request>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = request.parse(bytes).context("malformed request")? else {
        ensure!(bytes.len() <= HEAD_BYTES_MAX, "request head larger than {HEAD_BYTES_MAX} bytes");
        return Ok(None);
    };
    let answer_bytes = request.path.map_or(0, answer_bytes);
    let body_bytes = content_length(request.headers)?.unwrap_or(0);
    Ok(Some(Request { head_bytes, body_bytes, answer_bytes }))
}

fn content_length(headers: &[httparse::Header<'_>]) -> Result<Option<usize>> {
    let mut length = None;
    for header in headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).context("Content-Length is not text")?;
            length = Some(text.trim().parse().context("Content-Length is not a number")?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("chunked body where Content-Length was sent: this contender re-frames bodies");
        }
    }
    Ok(length)
}

fn is_chunked(headers: &[httparse::Header<'_>]) -> bool {
    headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("transfer-encoding") && header.value.eq_ignore_ascii_case(b"chunked")
    })
}

// === impl AnswerReader ===

impl AnswerReader {
    /// Takes what was read; an answer once it is whole. Requests are not pipelined, so bytes beyond it are an error.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Option<Answer>> {
        let Some(pending) = &mut self.answer else {
            return self.feed_head(bytes);
        };
        ensure!(bytes.len() <= pending.missing, "bytes beyond the end of the answer");
        pending.missing -= bytes.len();
        Ok(self.finish())
    }

    fn feed_head(&mut self, bytes: &[u8]) -> Result<Option<Answer>> {
        let head = if self.head.is_empty() {
            bytes
        } else {
            self.head.extend_from_slice(bytes);
            &self.head
        };
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head_bytes) = response.parse(head).context("malformed answer")? else {
            ensure!(head.len() <= HEAD_BYTES_MAX, "answer head larger than {HEAD_BYTES_MAX} bytes");
            if self.head.is_empty() {
                self.head.extend_from_slice(bytes);
            }
            return Ok(None);
        };
        if response.code == Some(403) && is_chunked(response.headers) {
            // A proxy's own answer: how it frames that is its affair. Parsed again until its end is there.
            ensure!(head.len() <= HEAD_BYTES_MAX, "a refusal larger than {HEAD_BYTES_MAX} bytes");
            if !head[head_bytes..].ends_with(LAST_CHUNK) {
                if self.head.is_empty() {
                    self.head.extend_from_slice(bytes);
                }
                return Ok(None);
            }
            self.head.clear();
            return Ok(Some(Answer { status: 403, body_bytes: 0, close: false }));
        }
        let body_bytes = content_length(response.headers)?.context("answer without Content-Length")?;
        let close = response.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case("connection") && header.value.eq_ignore_ascii_case(b"close")
        });
        let have = head.len() - head_bytes;
        ensure!(have <= body_bytes, "bytes beyond the end of the answer");
        let answer = Answer { status: response.code.unwrap_or(0), body_bytes, close };
        self.answer = Some(Pending { answer, missing: body_bytes - have });
        self.head.clear();
        Ok(self.finish())
    }

    fn finish(&mut self) -> Option<Answer> {
        let pending = self.answer.take_if(|pending| pending.missing == 0)?;
        Some(pending.answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_cut_at_any_byte_is_read_once() {
        let whole = answer(5);
        for cut in 1..whole.len() {
            let mut reader = AnswerReader::default();
            assert_eq!(reader.feed(&whole[..cut]).unwrap(), None, "cut at {cut}");
            let answer = reader.feed(&whole[cut..]).unwrap();
            assert_eq!(answer, Some(Answer { status: 200, body_bytes: 5, close: false }), "cut at {cut}");
        }
    }

    #[test]
    fn chunked_and_surplus_answers_are_errors() {
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        assert!(AnswerReader::default().feed(chunked).is_err());
        let mut surplus = answer(5);
        surplus.push(b'x');
        assert!(AnswerReader::default().feed(&surplus).is_err());
    }

    #[test]
    fn a_chunked_refusal_is_read_to_its_end() {
        let whole = b"HTTP/1.1 403 Forbidden\r\ntransfer-encoding: chunked\r\n\r\n5\r\nweft:\r\n0\r\n\r\n";
        for cut in 1..whole.len() {
            let mut reader = AnswerReader::default();
            assert_eq!(reader.feed(&whole[..cut]).unwrap(), None, "cut at {cut}");
            let answer = reader.feed(&whole[cut..]).unwrap().map(|answer| answer.status);
            assert_eq!(answer, Some(403), "cut at {cut}");
        }
    }

    #[test]
    fn the_path_says_how_large_the_answer_is() {
        let request = parse_request(&get("a", "/items/100")).unwrap().unwrap();
        assert_eq!((request.answer_bytes, request.body_bytes), (100, 0));
        assert!(parse_request(b"GET /items/100 HTTP/1.1\r\n").unwrap().is_none());
    }
}
