//! One request for a certificate: a new key, a signing request, the call, and what came back judged.
//!
//! The token is read anew each time and sent only over a connection whose other end has proven to be
//! the control API. What comes back is used only if it fits the key, leads to the roots that came
//! with it and is an SVID; the signing request carries no name, since the authority decides that.

use super::rotation::Proof;
use crate::control::dial::{self, DialError};
use crate::settings::ControlSettings;
use crate::tls::own::OwnCertificateError;
use crate::tls::verify::{Side, Trust, TrustError, Verifier, VerifyError};
use crate::tls::{OwnCertificate, Tls};
use prost::Message;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::Code;
use weft_model::names::WorkloadUid;
use weft_model::proto::v1::certificate_authority_client::CertificateAuthorityClient;
use weft_model::proto::v1::{CertifyRequest, CertifyResponse};
use weft_model::trust::TrustBundle;

/// How long the authority may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest token that is read. Kubernetes' are about a kilobyte.
const TOKEN_BYTES_MAX: u64 = 64 << 10;
/// The largest answer: a chain and a handful of roots.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A certificate with all that belongs to it.
pub struct Issued {
    /// The chain with its key.
    pub own: OwnCertificate,
    /// The roots of its trust domain.
    pub roots: TrustBundle,
    /// When it was obtained, by the local clock.
    pub obtained: SystemTime,
    /// How far the authority's clock is ahead of ours, in seconds; unknown for a kept one.
    pub skew: Option<f64>,
    key: Vec<u8>,
    answer: CertifyResponse,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// No token file is configured.
    #[error("there is no certificate and no token to ask for one with; set control.token")]
    NoToken,
    /// The token file cannot be read.
    #[error("the token file {path} (control.token) cannot be read")]
    Token {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The token file is empty, or not text.
    #[error("the token file {path} (control.token) does not hold a token: {why}")]
    TokenContent {
        /// Which.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// The control API cannot be reached or verified.
    #[error("no connection to the certificate authority")]
    Dial(#[source] DialError),
    /// The authority said no.
    #[error("the certificate authority refuses {proof}: {message}")]
    Refused {
        /// What was shown.
        proof: &'static str,
        /// What it said.
        message: String,
    },
    /// The call failed otherwise.
    #[error("the certificate authority does not answer: {0}")]
    Call(String),
    /// No key, or no signing request.
    #[error("a key cannot be made")]
    Key(#[source] rcgen::Error),
    /// The answer makes no certificate.
    #[error("the certificate authority's answer cannot be used")]
    Own(#[source] OwnCertificateError),
    /// Its roots are none.
    #[error("the certificate authority's roots cannot be used")]
    Roots(#[source] TrustError),
    /// It does not lead to its own roots, or is of another trust domain.
    #[error("the certificate authority's answer does not fit together: {0}")]
    Answer(String),
    /// It leads nowhere.
    #[error("the certificate does not lead to the roots that came with it")]
    Chain(#[source] VerifyError),
}

impl CertifyError {
    /// A word for metrics, of a closed list.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoToken | Self::Token { .. } | Self::TokenContent { .. } => "token_unreadable",
            Self::Dial(_) => "unreachable",
            Self::Refused { .. } => "refused",
            Self::Call(_) => "call_failed",
            Self::Key(_) => "key",
            Self::Own(_) | Self::Roots(_) | Self::Answer(_) | Self::Chain(_) => "answer_invalid",
        }
    }
}

/// Asks for a certificate.
pub async fn certify(
    settings: &ControlSettings,
    workload: &WorkloadUid,
    tls: &Tls,
    proof: Proof,
) -> Result<Issued, CertifyError> {
    let (token, own) = match proof {
        Proof::Token => (read_token(settings.token.as_deref())?, None),
        Proof::Certificate => (String::new(), tls.certificate()),
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CertifyError::Key)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    let csr = parameters.serialize_request(&key).map_err(CertifyError::Key)?;

    let channel = dial::dial(settings, own).await.map_err(CertifyError::Dial)?;
    let origin = http::Uri::from_static(dial::ORIGIN);
    let mut authority =
        CertificateAuthorityClient::with_origin(channel, origin).max_decoding_message_size(ANSWER_BYTES_MAX);
    let request = CertifyRequest { csr: csr.der().to_vec(), workload: workload.to_string(), token };
    let asked = SystemTime::now();
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, authority.certify(request))
        .await
        .map_err(|_| CertifyError::Call(format!("no answer within {ANSWER_TIMEOUT:?}")))?
        .map_err(|status| refusal(&status, proof))?
        .into_inner();
    let obtained = SystemTime::now();
    let skew = skew(&answer, asked, obtained);
    let theirs = answer.time_unix_ms;
    let judged_at = if theirs == 0 { obtained } else { UNIX_EPOCH + Duration::from_millis(theirs) };
    Issued::new(key.serialize_der(), answer, obtained, Some(skew), judged_at)
}

fn refusal(status: &tonic::Status, proof: Proof) -> CertifyError {
    let message: String = status.message().chars().take(512).collect();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::NotFound | Code::InvalidArgument => {
            let proof = match proof {
                Proof::Token => "the token of control.token",
                Proof::Certificate => "the certificate in use",
            };
            CertifyError::Refused { proof, message }
        }
        code => CertifyError::Call(format!("{code:?}: {message}")),
    }
}

/// Their clock less ours, taking their reading as made halfway between question and answer.
fn skew(answer: &CertifyResponse, asked: SystemTime, answered: SystemTime) -> f64 {
    if answer.time_unix_ms == 0 {
        return 0.0;
    }
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    answer.time_unix_ms as f64 / 1000.0 - f64::midpoint(since(asked), since(answered))
}

fn read_token(path: Option<&Path>) -> Result<String, CertifyError> {
    let path = path.ok_or(CertifyError::NoToken)?;
    let failed = |source| CertifyError::Token { path: path.to_owned(), source };
    let content = |why| CertifyError::TokenContent { path: path.to_owned(), why };
    let facts = std::fs::metadata(path).map_err(failed)?;
    if facts.len() > TOKEN_BYTES_MAX {
        return Err(content("it is too large"));
    }
    if facts.mode() & 0o007 != 0 {
        // Kubernetes' projected tokens are so by default, so it is said and not refused.
        tracing::debug!(path = %path.display(), "everybody on this machine can read the token file");
    }
    let token = std::fs::read_to_string(path).map_err(failed)?;
    let token = token.trim();
    if token.is_empty() {
        return Err(content("it is empty"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(content("it is not one line of printable text"));
    }
    Ok(token.to_owned())
}

// === impl Issued ===

impl Issued {
    /// Judges key and answer together, as of `judged_at`: the authority's clock, since whether ours
    /// agrees is another question, with another answer.
    fn new(
        key: Vec<u8>,
        answer: CertifyResponse,
        obtained: SystemTime,
        skew: Option<f64>,
        judged_at: SystemTime,
    ) -> Result<Self, CertifyError> {
        let trust_domain = answer
            .trust_domain
            .parse()
            .map_err(|error| CertifyError::Answer(format!("its trust domain: {error}")))?;
        let roots = TrustBundle { trust_domain, roots: answer.roots.clone() };
        if roots.roots.is_empty() {
            return Err(CertifyError::Answer("it has no root".to_owned()));
        }
        let trust = Trust::new([&roots]).map_err(CertifyError::Roots)?;
        let chain: Vec<_> = answer.chain.iter().cloned().map(CertificateDer::from).collect();
        let own = OwnCertificate::new(chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone())))
            .map_err(CertifyError::Own)?;
        let verifier = Verifier::new(trust, None, &crate::tls::provider());
        for side in [Side::Client, Side::Server] {
            verifier.check(own.chain(), side, judged_at).map_err(CertifyError::Chain)?;
        }
        Ok(Self { own, roots, obtained, skew, key, answer })
    }

    /// As it is kept over a restart.
    pub fn encode(&self) -> Vec<u8> {
        let obtained = self.obtained.duration_since(UNIX_EPOCH).unwrap_or_default();
        let obtained = u64::try_from(obtained.as_millis()).unwrap_or(u64::MAX);
        let key_length = u32::try_from(self.key.len()).expect("a P-256 key must be short");
        let mut kept = Vec::new();
        kept.extend(obtained.to_be_bytes());
        kept.extend(key_length.to_be_bytes());
        kept.extend(&self.key);
        kept.extend(self.answer.encode_to_vec());
        kept
    }

    /// From what was kept; judged again, as of now.
    pub fn decode(kept: &[u8]) -> Result<Self, CertifyError> {
        let short = || CertifyError::Answer("the kept certificate is cut short".to_owned());
        let (obtained, rest) = kept.split_first_chunk().ok_or_else(short)?;
        let (key_length, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let key_length = usize::try_from(u32::from_be_bytes(*key_length)).map_err(|_| short())?;
        let (key, answer) = rest.split_at_checked(key_length).ok_or_else(short)?;
        let answer =
            CertifyResponse::decode(answer).map_err(|error| CertifyError::Answer(error.to_string()))?;
        let obtained = UNIX_EPOCH + Duration::from_millis(u64::from_be_bytes(*obtained));
        Self::new(key.to_vec(), answer, obtained, None, SystemTime::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, Wanted, now};

    fn answer(authority: &Authority, wanted: &Wanted) -> (Vec<u8>, CertifyResponse) {
        let made = authority.make(wanted);
        let chain = made.chain.iter().map(|der| der.as_ref().to_vec()).collect();
        let bundle = authority.bundle();
        let trust_domain = bundle.trust_domain.to_string();
        (made.key, CertifyResponse { chain, trust_domain, roots: bundle.roots, time_unix_ms: 0 })
    }

    fn judged(key: Vec<u8>, answer: CertifyResponse) -> Result<Issued, &'static str> {
        Issued::new(key, answer, now(), None, now()).map_err(|error| error.label())
    }

    #[test]
    fn what_is_kept_is_what_was_issued() {
        let authority = Authority::new("cluster.local");
        let (key, answer) = answer(&authority, &Wanted { uid: Some("shop/cart-1"), ..Wanted::default() });
        let issued = judged(key, answer).ok().unwrap();
        let kept = issued.encode();
        let again = Issued::decode(&kept).ok().unwrap();
        assert_eq!(again.own.serial(), issued.own.serial());
        assert_eq!(again.own.uid().unwrap().as_str(), "shop/cart-1");
        assert_eq!(again.roots, issued.roots);
        assert_eq!(again.obtained, issued.obtained);
        for end in 0..kept.len() {
            assert!(Issued::decode(&kept[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_together_is_refused() {
        let authority = Authority::new("cluster.local");
        let good = || answer(&authority, &Wanted::default());
        assert!(judged(good().0, good().1).is_err(), "another's key");
        let refused = |change: &dyn Fn(&mut CertifyResponse)| {
            let (key, mut answer) = good();
            change(&mut answer);
            judged(key, answer).err()
        };
        assert_eq!(refused(&|_| {}), None);
        assert_eq!(refused(&|answer| answer.chain.clear()), Some("answer_invalid"));
        assert_eq!(refused(&|answer| answer.roots.clear()), Some("answer_invalid"));
        assert_eq!(refused(&|answer| answer.roots = vec![b"x".to_vec()]), Some("answer_invalid"));
        assert_eq!(refused(&|answer| answer.trust_domain = "A B".to_owned()), Some("answer_invalid"));
        assert_eq!(refused(&|answer| answer.trust_domain = "other.test".to_owned()), Some("answer_invalid"));
        let other = Authority::new("cluster.local").bundle().roots;
        assert_eq!(refused(&|answer| answer.roots.clone_from(&other)), Some("answer_invalid"));
    }

    #[test]
    fn a_token_is_one_line_of_text() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let read = || read_token(Some(&path)).map_err(|error| error.to_string());
        assert!(read().unwrap_err().contains("(control.token) cannot be read"));
        for (content, why) in
            [("", "it is empty"), ("  \n", "it is empty"), ("a b", "one line"), ("a\nb", "one line")]
        {
            std::fs::write(&path, content).unwrap();
            let message = read().unwrap_err();
            assert!(message.contains(why), "{message}");
        }
        std::fs::write(&path, "abc.def\n").unwrap();
        assert_eq!(read().as_deref(), Ok("abc.def"));
        assert!(matches!(read_token(None), Err(CertifyError::NoToken)));
    }

    #[test]
    fn skew_is_their_clock_less_ours() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let answer = CertifyResponse { time_unix_ms: 130_000, ..CertifyResponse::default() };
        assert!((skew(&answer, at(99), at(101)) - 30.0).abs() < 0.001);
        assert!((skew(&answer, at(159), at(161)) + 30.0).abs() < 0.001);
    }
}
