//! Heads: parsed, written, taken to HTTP/2 and back, and the canonical form of paths. The request is what a browser's
//! back end sends, with a dozen fields.

use std::hint::black_box;

use anyhow::{Context as _, Result, anyhow};
use weft_model::path::canonical;
use weft_proxy::h1::parse::{request_head, response_head};
use weft_proxy::http::{Limits, RequestHead, ResponseHead};
use weft_proxy::measured;

use super::Case;

const REQUEST: &[u8] = b"GET /api/v1/items/4711?page=2&sort=price HTTP/1.1\r\n\
    Host: catalog.shop.svc.cluster.local\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: application/json, text/plain, */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    X-Request-Id: 6fa459ea-ee8a-3ca4-894e-db77e160355e\r\n\
    Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
    X-Forwarded-For: 203.0.113.7\r\n\
    X-Forwarded-Proto: https\r\n\
    Cache-Control: no-cache\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Content-Type: application/json; charset=utf-8\r\n\
    Content-Length: 1234\r\n\
    Date: Mon, 06 Jul 2026 10:00:00 GMT\r\n\
    Server: catalog\r\n\
    Cache-Control: max-age=60\r\n\
    Etag: \"33a64df551425fcc55e4d42a148795d9f25f89d4\"\r\n\
    Vary: Accept-Encoding\r\n\r\n";

/// Of the answer above.
const LENGTH: u64 = 1234;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("HTTP/1 request parsed, 11 fields", || {
            let limits = Limits::default();
            Ok(move |_: u64| {
                black_box(request_head(black_box(REQUEST), &limits)).ok();
            })
        }),
        Case::new("HTTP/1 answer parsed, 7 fields", || {
            let limits = Limits::default();
            Ok(move |_: u64| {
                black_box(response_head(black_box(RESPONSE), &limits)).ok();
            })
        }),
        Case::new("HTTP/1 request written", || {
            let (request, mut text) = (request()?, Vec::with_capacity(4096));
            Ok(move |_: u64| {
                text.clear();
                measured::encode_request(black_box(&request), Some(0), &mut text);
                black_box(&text);
            })
        }),
        Case::new("HTTP/1 answer written", || {
            let (response, mut text) = (response()?, Vec::with_capacity(4096));
            Ok(move |_: u64| {
                text.clear();
                measured::encode_response(black_box(&response), Some(LENGTH), &mut text);
                black_box(&text);
            })
        }),
        // With a copy, since the conversion takes what belongs to the hop out of the head; the copy follows by itself.
        Case::new("request copied and made HTTP/2's", || {
            let request = request()?;
            Ok(move |_: u64| {
                black_box(measured::request_to_h2(&mut black_box(&request).clone(), Some(0)));
            })
        }),
        Case::new("request copied alone", || {
            let request = request()?;
            Ok(move |_: u64| {
                black_box(black_box(&request).clone());
            })
        }),
        Case::new("HTTP/2's request copied and made ours", || {
            let parts = measured::request_to_h2(&mut request()?, Some(0)).context("no HTTP/2 request")?;
            let (parts, ()) = parts.into_parts();
            measured::request_from_h2(parts.clone()).context("the request does not come back")?;
            Ok(move |_: u64| {
                black_box(measured::request_from_h2(black_box(&parts).clone()));
            })
        }),
        Case::new("answer copied and made HTTP/2's", || {
            let response = response()?;
            Ok(move |_: u64| {
                black_box(measured::response_to_h2(&mut black_box(&response).clone(), Some(LENGTH)));
            })
        }),
        Case::new("HTTP/2's answer made ours", || {
            let (parts, ()) = measured::response_to_h2(&mut response()?, Some(LENGTH)).into_parts();
            measured::response_from_h2(&parts).context("the answer does not come back")?;
            Ok(move |_: u64| {
                black_box(measured::response_from_h2(black_box(&parts)));
            })
        }),
        Case::new("path canonical as it is", || {
            Ok(|_: u64| {
                black_box(canonical(black_box("/api/v1/items/4711"))).ok();
            })
        }),
        Case::new("path made canonical", || {
            Ok(|_: u64| {
                black_box(canonical(black_box("/api/./v1//items/%41%42/../4711"))).ok();
            })
        }),
    ]
}

fn request() -> Result<RequestHead> {
    let parsed = request_head(REQUEST, &Limits::default()).map_err(|reason| anyhow!("{reason:?}"))?;
    Ok(parsed.context("half a request")?.1)
}

fn response() -> Result<ResponseHead> {
    let parsed = response_head(RESPONSE, &Limits::default()).map_err(|reason| anyhow!("{reason:?}"))?;
    Ok(parsed.context("half an answer")?.1)
}
