use super::*;

fn option(key: &str, value: &str) -> wire::HeaderValueOption {
    let header = wire::HeaderValue { key: key.into(), value: value.into(), raw_value: Vec::new() };
    wire::HeaderValueOption { header: Some(header), ..Default::default() }
}

fn agreed(headers: Vec<wire::HeaderValueOption>, remove: &[&str]) -> wire::CheckResponse {
    let agreed = wire::OkHttpResponse {
        headers,
        headers_to_remove: remove.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    wire::CheckResponse { status: None, http_response: Some(HttpResponse::OkResponse(agreed)) }
}

#[test]
fn an_answer_that_says_nothing_or_more_than_is_understood_is_no_agreement() {
    assert!(matches!(understand(wire::CheckResponse::default()), Answer::Failed(_)));
    let yes = wire::CheckResponse { status: status(0), http_response: None };
    let mut message = yes.encode_to_vec();
    assert!(is_known(&message) && matches!(understand(yes), Answer::Agreed(_)));
    // Envoy's metadata, which is for its own filters; then a field of tomorrow.
    message.extend([(4 << 3) | 2, 1, 0]);
    assert!(is_known(&message));
    message.extend([(5 << 3) | 2, 0]);
    assert!(!is_known(&message));
    assert!(!is_known(&[(1 << 3) | 2, 9]));
}

#[test]
fn the_answers_fields_are_edited_as_the_authorizer_says() {
    let action = |append_action, name: &str| wire::HeaderValueOption { append_action, ..option(name, "new") };
    let appended =
        wire::HeaderValueOption { append: Some(wire::BoolValue { value: false }), ..option("x-set", "new") };
    let agreed = wire::OkHttpResponse {
        response_headers_to_add: vec![
            option("x-added", "new"),
            appended,
            action(1, "x-absent"),
            action(1, "x-there"),
            action(2, "x-over"),
            action(3, "x-nowhere"),
        ],
        ..Default::default()
    };
    let said = Some(HttpResponse::OkResponse(agreed));
    let Answer::Agreed(edits) = understand(wire::CheckResponse { status: status(0), http_response: said })
    else {
        panic!()
    };
    let mut headers = Headers::new();
    for name in ["x-added", "x-set", "x-there", "x-over"] {
        headers.append(name, b"old").unwrap();
    }
    edits.response.iter().for_each(|edit| edit.apply(&mut headers).unwrap());
    let left: Vec<_> =
        headers.iter().map(|field| format!("{}: {}", field.name_str(), field.value_str().unwrap())).collect();
    let wanted =
        ["x-added: old", "x-set: new", "x-there: old", "x-over: new", "x-added: new", "x-absent: new"];
    assert_eq!(left, wanted);
}

fn status(code: i32) -> Option<wire::Status> {
    Some(wire::Status { code, message: String::new() })
}

#[test]
fn an_agreement_edits_the_request_as_it_says() {
    let append =
        wire::HeaderValueOption { append: Some(wire::BoolValue { value: true }), ..option("x-list", "b") };
    let absent = wire::HeaderValueOption { append_action: 1, ..option("x-there", "no") };
    let present = wire::HeaderValueOption { append_action: 3, ..option("x-gone", "no") };
    let all = vec![option("x-user", "joe"), append, absent, present];
    let Answer::Agreed(edits) = understand(agreed(all, &["x-secret"])) else { panic!() };
    let mut headers = Headers::new();
    for (name, value) in [("X-User", "admin"), ("x-list", "a"), ("x-there", "yes"), ("x-secret", "s")] {
        headers.append(name, value.as_bytes()).unwrap();
    }
    edits.apply(&mut headers).unwrap();
    let left: Vec<_> =
        headers.iter().map(|field| format!("{}: {}", field.name_str(), field.value_str().unwrap())).collect();
    assert_eq!(left, ["X-User: joe", "x-list: a", "x-there: yes", "x-list: b"]);
}

#[test]
fn what_an_authorizer_sets_or_removes_has_no_other_spelling_beside_it() {
    let absent = wire::HeaderValueOption { append_action: 1, ..option("x-kept", "no") };
    let Answer::Agreed(edits) = understand(agreed(vec![option("x-user", "joe"), absent], &["x-secret"]))
    else {
        panic!()
    };
    let mut headers = Headers::new();
    for name in ["X_User", "x_user", "x_kept", "X_SECRET", "x-secret", "x-users"] {
        headers.append(name, b"admin").unwrap();
    }
    edits.apply(&mut headers).unwrap();
    let left: Vec<_> =
        headers.iter().map(|field| format!("{}: {}", field.name_str(), field.value_str().unwrap())).collect();
    assert_eq!(left, ["x-users: admin", "x-user: joe", "x-kept: no"]);
    assert_eq!(edits.names().collect::<Vec<_>>(), ["x-user", "x-secret"]);
}

#[test]
fn what_is_not_understood_is_no_agreement() {
    let failed = |response| matches!(understand(response), Answer::Unfit(_));
    for name in ["host", "Content-Length", "transfer-encoding", "connection", "x-weft-reason", "a b", ""] {
        assert!(failed(agreed(vec![option(name, "1")], &[])), "{name}");
        assert!(failed(agreed(Vec::new(), &[name])), "{name}");
    }
    assert!(failed(agreed(vec![option("x-a", "1\r\nx-b: 2")], &[])));
    assert!(failed(agreed(vec![wire::HeaderValueOption { append_action: 9, ..option("x-a", "1") }], &[])));
    assert!(failed(agreed(vec![option("x-a", "1"); EDITS_MAX + 1], &[])));
    let query = wire::OkHttpResponse { query_parameters_to_remove: vec!["a".into()], ..Default::default() };
    let query = wire::CheckResponse { status: None, http_response: Some(HttpResponse::OkResponse(query)) };
    assert!(failed(query));
    let denied = HttpResponse::DeniedResponse(wire::DeniedHttpResponse::default());
    // Half a no is a no, whatever its other half says.
    let half = wire::CheckResponse { status: status(0), http_response: Some(denied.clone()) };
    assert!(matches!(understand(half), Answer::Denied(_)));
    // Without a word, or with the other half's words, an error code is a denial.
    for said in [None, Some(denied), agreed(Vec::new(), &[]).http_response] {
        let response = wire::CheckResponse { status: status(7), http_response: said };
        assert!(matches!(understand(response), Answer::Denied(_)));
    }
}

#[test]
fn a_denial_is_passed_on_as_given() {
    let denied = wire::DeniedHttpResponse {
        status: Some(wire::HttpStatus { code: 302 }),
        headers: vec![option("location", "https://login.example/")],
        body: "log in".into(),
    };
    let response =
        wire::CheckResponse { status: status(16), http_response: Some(HttpResponse::DeniedResponse(denied)) };
    let Answer::Denied(response) = understand(response) else { panic!() };
    assert_eq!(response.head.status.as_u16(), 302);
    assert_eq!(response.head.headers().find("location"), Some(&b"https://login.example/"[..]));
    assert!(matches!(response.body, Body::Full(text) if text == "log in"));
}

#[test]
fn a_denial_of_a_status_without_a_body_has_none() {
    for code in [204, 304] {
        let denied = wire::DeniedHttpResponse {
            status: Some(wire::HttpStatus { code }),
            body: "HTTP/1.1 200 OK".into(),
            ..Default::default()
        };
        let said = Some(HttpResponse::DeniedResponse(denied));
        let Answer::Denied(response) =
            understand(wire::CheckResponse { status: status(7), http_response: said })
        else {
            panic!("a denial was opened")
        };
        assert_eq!(i32::from(response.head.status.as_u16()), code);
        assert!(matches!(response.body, Body::Empty), "{code}");
    }
}

#[test]
fn a_denial_that_cannot_be_passed_on_as_worded_is_still_one() {
    let worded = |code, headers| wire::DeniedHttpResponse {
        status: Some(wire::HttpStatus { code }),
        headers,
        ..Default::default()
    };
    let ill = [0, 99, 700, -1].map(|code| worded(code, Vec::new()));
    let split = vec![option("location", "/next\n"), option("content-length", "0")];
    for denied in
        ill.into_iter().chain([worded(302, split), worded(302, vec![option("x-a", "1"); EDITS_MAX + 1])])
    {
        let said = Some(HttpResponse::DeniedResponse(denied));
        let response = wire::CheckResponse { status: status(7), http_response: said };
        let Answer::Denied(response) = understand(response) else { panic!("a denial was opened") };
        assert_eq!(response.head.status.as_u16(), 403);
    }
}

#[test]
fn a_message_is_one_frame_and_nothing_else() {
    assert_eq!(unframe(&[0, 0, 0, 0, 2, 7, 8]), Some(&[7, 8][..]));
    assert_eq!(unframe(&[0, 0, 0, 0, 0]), Some(&[][..]));
    for bad in [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 1]] {
        assert_eq!(unframe(bad), None, "{bad:?}");
    }
}
