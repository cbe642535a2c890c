//! SPIFFE IDs: what is accepted has one spelling, and its parts make it up again.

use weft_model::spiffe::SpiffeId;

/// Says whether it was one.
pub(crate) fn check(text: &str) -> bool {
    let Ok(id) = text.parse::<SpiffeId>() else { return false };
    assert_eq!(id.as_str(), text);
    assert_eq!(id.to_string(), text);
    let (domain, namespace, account) = (id.trust_domain(), id.namespace(), id.service_account());
    assert_eq!(text, format!("spiffe://{domain}/ns/{namespace}/sa/{account}"));
    let parsed = |part: &str| !part.is_empty() && !part.contains('/');
    assert!(parsed(domain) && parsed(namespace) && parsed(account));
    let made = SpiffeId::new(
        &domain.parse().expect("the trust domain of an ID must parse"),
        &namespace.parse().expect("the namespace of an ID must parse"),
        &account.parse().expect("the service account of an ID must parse"),
    );
    assert_eq!(made, id);
    true
}
