//! An error with all its causes, as one line for logs.

use rustls::CertificateError;
use std::error::Error;
use std::fmt::Write;
use std::io;

/// Causes past this many say nothing new.
const CAUSES_MAX: usize = 8;

/// Joins an error and its causes by `: `, leaving out a cause that its parent already said.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    let mut cause = error.source();
    for _ in 0..CAUSES_MAX {
        let Some(held) = cause else { break };
        let said = held.to_string();
        if !last.contains(&said) {
            let _ = write!(text, ": {said}");
        }
        last = said;
        cause = held.source();
    }
    text
}

/// Why a TLS handshake failed. rustls prints what a verifier said as a dump of its innards.
pub fn tls_failure(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => other.0.to_string(),
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "the other side's certificate does not lead to a trusted root".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<Box<Self>>);

    #[test]
    fn causes_follow_and_nothing_is_said_twice() {
        let last = Said("no such file", None);
        let middle = Said("no such file", Some(Box::new(last)));
        let error = Said("the token cannot be read", Some(Box::new(middle)));
        assert_eq!(chain(&error), "the token cannot be read: no such file");
    }
}
