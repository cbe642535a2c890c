//! Claims about header blocks and heads.

use super::*;

fn sample() -> Headers {
    let mut headers = Headers::new();
    for (name, value) in [
        ("Host", "a"),
        ("X-One", "1"),
        ("x-two", "2"),
        ("X-ONE", "3"),
        ("Connection", "close, x-two, authorization"),
    ] {
        headers.append(name, value.as_bytes()).unwrap();
    }
    headers
}

fn listed(headers: &Headers) -> Vec<String> {
    headers.iter().map(|field| format!("{}={}", field.name_str(), field.value.escape_ascii())).collect()
}

#[test]
fn order_case_and_duplicates_are_kept() {
    let headers = sample();
    assert_eq!(listed(&headers)[1..4], ["X-One=1", "x-two=2", "X-ONE=3"]);
    assert_eq!(headers.find_all("x-one").collect::<Vec<_>>(), [b"1", b"3"]);
    assert_eq!(headers.get_str(Known::Host), Some("a"));
    assert_eq!(headers.get(Known::Te), None);
}

#[test]
fn insert_keeps_the_first_place_and_removes_the_others() {
    let mut headers = sample();
    headers.insert("x-oNe", b"9").unwrap();
    assert_eq!(listed(&headers)[..3], ["Host=a", "X-One=9", "x-two=2"]);
    assert_eq!(headers.len(), 4);
    headers.insert_known(Known::Date, b"now").unwrap();
    headers.insert_known(Known::Date, b"later").unwrap();
    assert_eq!(headers.get_all(Known::Date).collect::<Vec<_>>(), [b"later"]);
}

#[test]
fn removal_is_by_any_case() {
    let mut headers = sample();
    assert!(headers.remove_name("X-one"));
    assert!(!headers.remove_name("x-one"));
    assert!(headers.remove(Known::Host));
    assert!(!headers.contains(Known::Host));
    assert_eq!(listed(&headers)[0], "x-two=2");
}

#[test]
fn names_and_values_outside_the_grammar_are_refused() {
    let mut headers = Headers::new();
    assert_eq!(headers.append("a b", b""), Err(HeaderError::Name));
    assert_eq!(headers.append("", b""), Err(HeaderError::Name));
    assert_eq!(headers.append("a", b"x\r\ny: z"), Err(HeaderError::Value));
    assert_eq!(headers.append("a", b"\0"), Err(HeaderError::Value));
    assert_eq!(headers.append("a", b" \tx\xff "), Ok(()));
    assert_eq!(headers.find("A"), Some(&b"x\xff"[..]));
    assert_eq!(headers.insert("a", b"\n"), Err(HeaderError::Value));
    assert_eq!(headers.append("big", &vec![b'x'; 2 << 20]), Err(HeaderError::TooLarge));
}

#[test]
fn hop_by_hop_fields_and_nominated_ones_go_but_never_authorization() {
    let mut headers = sample();
    headers.append("Authorization", b"secret").unwrap();
    headers.append("TE", b"gzip, Trailers").unwrap();
    headers.append("Upgrade", b"websocket").unwrap();
    headers.append("Transfer-Encoding", b"chunked").unwrap();
    let mut upgraded = headers.clone();
    headers.remove_hop_by_hop(false);
    assert_eq!(listed(&headers), ["Host=a", "X-One=1", "X-ONE=3", "Authorization=secret", "TE=trailers"]);
    upgraded.remove_hop_by_hop(true);
    assert!(upgraded.contains(Known::Upgrade) && upgraded.has_element(Known::Connection, "upgrade"));
}

#[test]
fn setting_the_authority_sets_the_host_in_its_place() {
    let mut head = RequestHead::new(Method::GET, Version::Http11, "b:80", "/x?y=?z", sample()).unwrap();
    assert_eq!((head.authority(), head.path(), head.query()), ("b:80", "/x", Some("y=?z")));
    assert_eq!(listed(head.headers())[0], "Host=b:80");
    head.set_authority("c").unwrap();
    head.set_path_and_query("/").unwrap();
    assert_eq!((head.authority(), head.path_and_query(), head.query()), ("c", "/", None));
    assert_eq!(head.headers().get_str(Known::Host), Some("c"));
    assert!(head.set_path_and_query("/a b").is_err());
    assert!(head.set_authority("a\r\nb").is_err());
}

#[test]
fn every_reason_makes_a_local_answer() {
    for reason in Reason::ALL {
        let response = Response::local(*reason);
        assert_eq!(response.head.status.as_u16(), reason.status());
        assert_eq!(response.head.headers().get_str(Known::XWeftReason), Some(reason.label()));
        assert!(response.body.exact_length().unwrap() > 6);
    }
}

#[test]
fn a_rewrite_that_has_no_room_is_answered_and_not_forwarded_half_done() {
    let mut headers = Headers::new();
    // As much text as a block takes; a parser stops long before.
    while headers.append("x-fill", &[b'x'; 16 * 1024]).is_ok() {}
    while headers.append("x-fill", b"").is_ok() {}
    let mut head = RequestHead::new(Method::GET, Version::Http11, "", "", headers).unwrap();
    let path = Some(weft_model::route::PathEdit::Full("/elsewhere".into()));
    let rewrite = weft_model::route::Rewrite { hostname: None, path };
    let matched = weft_model::route::PathMatch::prefix("/");
    let filters = [weft_model::route::Filter::Rewrite(rewrite)];
    let answer = filter::apply_to_request(&mut head, &filters, &matched).unwrap_err();
    let told = answer.head.headers().get_str(Known::XWeftReason).and_then(Reason::from_label);
    assert_eq!(told, Some(Reason::Internal));
}
