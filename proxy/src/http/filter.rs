//! Route filters: header edits, path and host rewrites, redirects, CORS (Gateway API HTTPRouteFilter).

use super::{Headers, Known, RequestHead, Response, StatusCode};
use weft_model::cors::Cors;
use weft_model::reason::Reason;
use weft_model::request::host_of;
use weft_model::route::{Filter, HeaderEdit, PathMatch, Redirect, Rewrite};

/// Applies what concerns the request. `Err`: a filter answers, or cannot be applied.
pub fn apply_to_request(
    head: &mut RequestHead,
    filters: &[Filter],
    matched: &PathMatch,
) -> Result<(), Box<Response>> {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(edit) => apply_edit(head.headers_mut(), edit),
            // A mirror is sent by who sends the request.
            Filter::ResponseHeaders(_) | Filter::Mirror(_) => {}
            Filter::Cors(cors) => {
                if let Some(response) = preflight(head, cors) {
                    return Err(Box::new(response));
                }
            }
            Filter::Redirect(redirect) => return Err(Box::new(redirected(head, redirect, matched))),
            Filter::Rewrite(rewrite) => {
                apply_rewrite(head, rewrite, matched).map_err(|reason| Box::new(Response::local(reason)))?;
            }
        }
    }
    Ok(())
}

/// Applies what concerns the answer. `origin`: of the page that made the request, if one did.
pub fn apply_to_response(headers: &mut Headers, filters: &[Filter], origin: Option<&str>) {
    for filter in filters {
        match filter {
            Filter::ResponseHeaders(edit) => apply_edit(headers, edit),
            Filter::Cors(cors) => {
                // The route's word alone counts: two Allow-Origin fields are none to a browser.
                headers.retain(|field| !is_cors(field.name));
                for (name, value) in cors.answer(origin) {
                    // Values are the origin, which is visible ASCII, and names.
                    let _ = headers.append(name, value.as_bytes());
                }
            }
            _ => {}
        }
    }
}

/// Whether a filter of these says who may read the answer.
pub fn has_cors(filters: &[Filter]) -> bool {
    filters.iter().any(|filter| matches!(filter, Filter::Cors(_)))
}

fn is_cors(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"access-control-";
    name.get(..PREFIX.len()).is_some_and(|head| head.eq_ignore_ascii_case(PREFIX))
}

/// The answer to a browser that asks before it sends a request (the Fetch standard, "CORS-preflight
/// request"). `None`: it does not ask.
fn preflight(head: &RequestHead, cors: &Cors) -> Option<Response> {
    if head.method != super::Method::OPTIONS {
        return None;
    }
    let text = |name: &str| head.headers().find(name).and_then(|value| std::str::from_utf8(value).ok());
    let (origin, method) = (text("origin")?, text("access-control-request-method")?);
    let mut response = Response::empty(StatusCode::NO_CONTENT);
    let headers = response.head.headers_mut();
    let set = headers.append_known(Known::XWeftReason, Reason::CorsPreflight.label().as_bytes());
    for (name, value) in cors.preflight(origin, method, text("access-control-request-headers")) {
        // What is echoed follows the grammar of values, for it came as one.
        let _ = headers.append(name, value.as_bytes());
    }
    set.is_ok().then_some(response)
}

fn apply_edit(headers: &mut Headers, edit: &HeaderEdit) {
    // Names and values were checked when the route was compiled; a block that is full stays as it is.
    for name in &edit.remove {
        headers.remove_name(name.as_str());
    }
    for (name, value) in &edit.set {
        let _ = headers.insert(name.as_str(), value.as_bytes());
    }
    for (name, value) in &edit.add {
        let _ = headers.append(name.as_str(), value.as_bytes());
    }
}

fn apply_rewrite(head: &mut RequestHead, rewrite: &Rewrite, matched: &PathMatch) -> Result<(), Reason> {
    if let Some(edit) = &rewrite.path {
        let target = with_query(edit.apply(head.path(), matched), head.query());
        head.set_path_and_query(&target).map_err(|_| Reason::Internal)?;
    }
    if let Some(hostname) = &rewrite.hostname {
        head.set_authority(hostname).map_err(|_| Reason::Internal)?;
    }
    Ok(())
}

fn redirected(head: &RequestHead, redirect: &Redirect, matched: &PathMatch) -> Response {
    let scheme = redirect.scheme.as_deref().unwrap_or(head.scheme.as_str());
    let host = redirect.hostname.as_deref().unwrap_or(host_of(head.authority()));
    let path = match &redirect.path {
        Some(edit) => edit.apply(head.path(), matched),
        None => head.path().to_owned(),
    };
    // The port: what the filter says; else, with a scheme said, that scheme's own; else the request's.
    let port = match (redirect.port, redirect.scheme.as_deref()) {
        (Some(port), _) => Some(port),
        (None, Some(_)) => None,
        (None, None) => head
            .authority()
            .strip_prefix(host_of(head.authority()))
            .and_then(|rest| rest.strip_prefix(':').and_then(|port| port.parse().ok())),
    };
    let port = match (scheme, port) {
        ("http", Some(80)) | ("https", Some(443)) | (_, None) => String::new(),
        (_, Some(port)) => format!(":{port}"),
    };
    let location = with_query(format!("{scheme}://{host}{port}{path}"), head.query());
    let mut response = Response::empty(redirect.status);
    let headers = response.head.headers_mut();
    let set = headers
        .append_known(Known::Location, location.as_bytes())
        .and_then(|()| headers.append_known(Known::XWeftReason, Reason::RouteRedirect.label().as_bytes()));
    if set.is_err() {
        return Response::empty(StatusCode::INTERNAL_SERVER_ERROR);
    }
    response
}

fn with_query(mut path: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::super::{Method, Version};
    use super::*;
    use weft_model::route::PathEdit;

    fn head(authority: &str, target: &str) -> RequestHead {
        RequestHead::new(Method::GET, Version::Http11, authority, target, Headers::new()).unwrap()
    }

    fn location(redirect: &Redirect, authority: &str, target: &str) -> String {
        let mut head = head(authority, target);
        let filters = [Filter::Redirect(redirect.clone())];
        let response = apply_to_request(&mut head, &filters, &PathMatch::prefix("/a")).unwrap_err();
        assert_eq!(response.head.status, redirect.status);
        String::from_utf8(response.head.headers().get(Known::Location).unwrap().to_vec()).unwrap()
    }

    fn redirect() -> Redirect {
        Redirect { scheme: None, hostname: None, port: None, path: None, status: StatusCode::FOUND }
    }

    #[test]
    fn redirects_keep_what_they_do_not_change() {
        assert_eq!(location(&redirect(), "cart:8080", "/a/b?x=1"), "http://cart:8080/a/b?x=1");
        let https = Redirect { scheme: Some("https".into()), ..redirect() };
        assert_eq!(location(&https, "cart:8080", "/a"), "https://cart/a");
        let port = Redirect { port: Some(8443), ..https };
        assert_eq!(location(&port, "cart:8080", "/a"), "https://cart:8443/a");
        let path = Redirect { path: Some(PathEdit::Prefix("/z".into())), ..redirect() };
        assert_eq!(location(&path, "cart", "/a/b"), "http://cart/z/b");
    }

    #[test]
    fn rewrites_change_path_and_host_and_keep_the_query() {
        let mut head = head("cart", "/a/b?x=1");
        let rewrite = Rewrite { hostname: Some("other".into()), path: Some(PathEdit::Prefix("/z".into())) };
        apply_to_request(&mut head, &[Filter::Rewrite(rewrite)], &PathMatch::prefix("/a")).unwrap();
        assert_eq!(head.path_and_query(), "/z/b?x=1");
        assert_eq!(head.authority(), "other");
    }

    #[test]
    fn header_edits_remove_then_set_then_add() {
        let mut head = head("cart", "/");
        for (name, value) in [("x-a", "1"), ("X-B", "1"), ("x-c", "1")] {
            head.headers_mut().append(name, value.as_bytes()).unwrap();
        }
        let edit = HeaderEdit {
            remove: vec!["x-a".parse().unwrap()],
            set: vec![("x-b".parse().unwrap(), "2".parse().unwrap())],
            add: vec![("x-c".parse().unwrap(), "2".parse().unwrap())],
        };
        apply_to_request(&mut head, &[Filter::RequestHeaders(edit)], &PathMatch::prefix("/")).unwrap();
        let values = |name: &str| head.headers().find_all(name).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert!(values("x-a").is_empty());
        assert_eq!(values("x-b"), [b"2"]);
        assert_eq!(values("x-c"), [b"1", b"2"]);
    }
}
