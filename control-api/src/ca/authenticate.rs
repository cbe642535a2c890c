//! Who asks for a certificate: the bearer of a token, or the holder of a certificate that is about to
//! be renewed. Either proves one identity; the workload asked for must be one that it may be.

use super::token::{TokenError, TokenKey};
use crate::tls::PeerCertificate;
use std::time::SystemTime;
use weft_model::names::WorkloadUid;
use weft_model::workload::Workload;

/// How a caller proved who it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Proof {
    /// By a bootstrap token.
    Token,
    /// By a certificate of this authority.
    Certificate,
}

/// Why a caller is not who it wants a certificate for.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum AuthenticationError {
    /// It brought nothing.
    #[error("neither a token nor a client certificate was presented")]
    Nothing,
    /// Its token proves nothing.
    #[error("{0}")]
    Token(TokenError),
    /// Its token is another workload's.
    #[error("the token is for workload {token}, not for {asked}")]
    TokenOfAnother {
        /// Whom the token names.
        token: WorkloadUid,
        /// Who was asked for.
        asked: WorkloadUid,
    },
    /// Its certificate is another identity's or workload's.
    #[error("the client certificate is that of {presented}, and workload {asked} is {expected}")]
    CertificateOfAnother {
        /// Who the caller is.
        presented: String,
        /// Who was asked for.
        asked: WorkloadUid,
        /// The identity of that one.
        expected: String,
    },
}

impl Proof {
    /// Its name in logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Certificate => "certificate",
        }
    }
}

/// Judges what a caller brought. With a token and a certificate, either will do: a proxy that renews
/// may have a token that expired long ago, and one that starts anew a certificate of an earlier life.
pub fn authenticate(
    workload: &Workload,
    token: &str,
    certificate: Option<&PeerCertificate>,
    key: &TokenKey,
    now: SystemTime,
) -> Result<Proof, AuthenticationError> {
    let by_certificate = certificate.map(|presented| by_certificate(workload, presented));
    if let Some(Ok(())) = by_certificate {
        return Ok(Proof::Certificate);
    }
    if !token.is_empty() {
        return by_token(workload, token, key, now).map(|()| Proof::Token);
    }
    match by_certificate {
        Some(Err(error)) => Err(error),
        _ => Err(AuthenticationError::Nothing),
    }
}

fn by_token(
    workload: &Workload,
    token: &str,
    key: &TokenKey,
    now: SystemTime,
) -> Result<(), AuthenticationError> {
    let named = key.verify(token, now).map_err(AuthenticationError::Token)?;
    if named != workload.uid {
        return Err(AuthenticationError::TokenOfAnother { token: named, asked: workload.uid.clone() });
    }
    Ok(())
}

fn by_certificate(workload: &Workload, presented: &PeerCertificate) -> Result<(), AuthenticationError> {
    if presented.may_be(workload) {
        return Ok(());
    }
    Err(AuthenticationError::CertificateOfAnother {
        presented: presented.to_string(),
        asked: workload.uid.clone(),
        expected: workload.identity().to_string(),
    })
}
