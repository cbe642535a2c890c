//! A probe is exactly what was declared, and nothing that only looks like it.

use super::*;

const CALLED: &str = "10.0.0.7:8080";

type Fields<'a> = &'a [(&'a str, &'a str)];

fn sent<'a>(fields: Fields<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
    fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))
}

fn is(check: &HttpCheck, authority: &str, path_and_query: &str, fields: Fields<'_>) -> bool {
    let (path, query) = match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    };
    check.is(Get { authority, path, query }, CALLED, sent(fields))
}

/// What the kubelet sends beside what is declared.
const KUBELET: Fields<'_> =
    &[("Host", CALLED), ("User-Agent", "kube-probe/1.33"), ("Accept", "*/*"), ("Connection", "close")];

#[test]
fn path_query_and_host_are_compared_whole() {
    let check = HttpCheck::new("/healthz?full=1", None, &[]).unwrap();
    assert!(is(&check, CALLED, "/healthz?full=1", KUBELET));
    for near in ["/healthz", "/healthz?", "/healthz?full=1&x=2", "/healthz/?full=1", "/Healthz?full=1"] {
        assert!(!is(&check, CALLED, near, KUBELET), "{near}");
    }
    assert!(!is(&check, "10.0.0.7", "/healthz?full=1", KUBELET));
    assert!(!is(&check, "evil.example", "/healthz?full=1", KUBELET));
    let named = HttpCheck::new("/", Some("health.example"), &[]).unwrap();
    assert!(is(&named, "Health.Example", "/", KUBELET));
    assert!(!is(&named, CALLED, "/", KUBELET));
}

#[test]
fn declared_fields_come_as_declared_and_no_others_do() {
    let check =
        HttpCheck::new("/", None, &[("X-Probe", "1"), ("X-Probe", "2"), ("X-Token", "secret")]).unwrap();
    let with = |more: Fields<'_>| {
        let fields: Vec<_> = KUBELET.iter().chain(more).copied().collect();
        is(&check, CALLED, "/", &fields)
    };
    assert!(with(&[("x-probe", "1"), ("x-token", "secret"), ("x-probe", "2")]));
    for wrong in [
        &[("x-probe", "1"), ("x-token", "secret")][..],
        &[("x-probe", "2"), ("x-probe", "1"), ("x-token", "secret")],
        &[("x-probe", "1"), ("x-probe", "2"), ("x-probe", "2"), ("x-token", "secret")],
        &[("x-probe", "1"), ("x-probe", "2"), ("x-token", "other")],
        &[("x-probe", "1"), ("x-probe", "2"), ("x-token", "secret"), ("x-http-method-override", "DELETE")],
        &[("x-probe", "1"), ("x-probe", "2"), ("x-token", "secret"), ("content-length", "4")],
        &[("x-probe", "1"), ("x-probe", "2"), ("x-token", "secret"), ("transfer-encoding", "chunked")],
        &[("x-probe", "1"), ("x-probe", "2"), ("x-token", "secret"), ("referer", "http://10.0.0.7:8080/")],
    ] {
        assert!(!with(wrong), "{wrong:?}");
    }
    let plain = HttpCheck::new("/", None, &[]).unwrap();
    assert!(!is(&plain, CALLED, "/", &[("Connection", "close, x-secret")]));
    assert!(!is(&plain, CALLED, "/", &[("Connection", "Upgrade"), ("Upgrade", "websocket")]));
    // Followed from a redirect the kubelet says whence it came.
    assert!(plain.has_fields(sent(&[("Referer", "http://10.0.0.7:8080/"), ("Accept", "*/*")]), true));
}

#[test]
fn fields_of_the_kubelet_that_are_declared_empty_are_not_sent() {
    let check = HttpCheck::new("/", None, &[("Accept", ""), ("User-Agent", "mine")]).unwrap();
    assert!(is(&check, CALLED, "/", &[("User-Agent", "mine")]));
    assert!(!is(&check, CALLED, "/", &[("User-Agent", "mine"), ("Accept", "*/*")]));
    assert!(!is(&check, CALLED, "/", &[("User-Agent", "kube-probe/1.33")]));
}

#[test]
fn what_the_proxy_would_not_see_so_cannot_be_declared() {
    let http = |path: &str| HttpCheck::new(path, None, &[]).unwrap_err();
    for path in ["", "healthz", "/a/../b", "//a", "/a%2Fb", "/%61", "/a#b", "/a b"] {
        assert_eq!(http(path), InvalidProbe::Path, "{path}");
    }
    assert_eq!(http("/a?b c"), InvalidProbe::Query);
    assert_eq!(http("/a?b#c"), InvalidProbe::Query);
    assert_eq!(http(&format!("/{}", "a".repeat(TEXT_BYTES_MAX))), InvalidProbe::TooLarge);
    let with = |name, value| HttpCheck::new("/", None, &[(name, value)]).unwrap_err();
    assert_eq!(with("a b", "c"), InvalidProbe::FieldName("a b".to_owned()));
    for name in ["Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "X-Weft-Reason", "Host"] {
        assert!(matches!(with(name, "1"), InvalidProbe::Framing(_)), "{name}");
    }
    for value in ["a\r\nb: c", " a", "a\u{e9}"] {
        assert!(matches!(with("x-a", value), InvalidProbe::FieldValue(_)), "{value:?}");
    }
    assert_eq!(HttpCheck::new("/", Some("a b"), &[]).unwrap_err(), InvalidProbe::Host);
    assert_eq!(GrpcCheck::new("a b").unwrap_err(), InvalidProbe::Service);
    assert_eq!(GrpcCheck::new(&"a".repeat(SERVICE_BYTES_MAX + 1)).unwrap_err(), InvalidProbe::Service);
}

#[test]
fn a_grpc_probe_is_one_sequence_of_bytes() {
    assert_eq!(GrpcCheck::new("").unwrap().body(), [0, 0, 0, 0, 0]);
    assert_eq!(GrpcCheck::new("ab").unwrap().body(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
    let long = GrpcCheck::new(&"a".repeat(200)).unwrap().body();
    assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    assert_eq!(long.len(), 5 + 203);
    let grpc = [("content-type", "application/grpc"), ("te", "trailers"), ("user-agent", "grpc-go")];
    assert!(GrpcCheck::has_fields(sent(&grpc)));
    assert!(!GrpcCheck::has_fields(sent(&grpc[1..])));
    for more in [("grpc-encoding", "gzip"), ("authorization", "x"), ("content-type", "application/grpc+json")]
    {
        let fields: Vec<_> = grpc.iter().copied().chain([more]).collect();
        assert!(!GrpcCheck::has_fields(sent(&fields)), "{more:?}");
    }
}
