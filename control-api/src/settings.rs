//! Flags and environment of `weft-control`. Each flag has a variable `WEFT_…`; the flag wins.
//! Parsing refuses what is out of range with one sentence; what depends on the machine (ports,
//! directories) is judged where it is used.

use crate::jwks::JwksSettings;
use clap::{Args, Command, FromArgMatches};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use weft_model::duration::parse_duration;
use weft_model::names::WorkloadUid;
use weft_runtime::logging::LogFilter;

/// Long enough that a day without a control API is survived, short enough that a stolen certificate
/// is of little use for long.
pub const DEFAULT_CERTIFICATE_LIFETIME: &str = "24h";

/// Below this a certificate could expire before its proxy has it in use.
const CERTIFICATE_LIFETIME_MIN: Duration = Duration::from_secs(2);

/// Above this nobody would notice that renewal does not work.
const CERTIFICATE_LIFETIME_MAX: Duration = Duration::from_secs(90 * 86_400);

/// The longest life of a bootstrap token.
const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(366 * 86_400);

/// What the program was called for.
#[derive(Clone, Debug)]
pub enum Invocation {
    /// To serve.
    Serve(Box<ServeSettings>),
    /// To print a bootstrap token by which one workload gets its first certificate.
    Token(TokenSettings),
}

/// Settings of the server.
#[derive(Args, Clone, Debug)]
pub struct ServeSettings {
    /// Directory of YAML files to serve; watched
    #[arg(long, env = "WEFT_POLICIES", value_name = "DIR")]
    pub policies: PathBuf,
    /// Directory for the certificate authority's key, the generation, and last good files
    #[arg(long, env = "WEFT_STATE", value_name = "DIR")]
    pub state: PathBuf,
    /// Where proxies connect (gRPC over TLS)
    #[arg(long, env = "WEFT_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:15010")]
    pub listen: SocketAddr,
    /// Where /metrics, /ready, /live, /status and /policies are served (plain HTTP; the last two to loopback only)
    #[arg(long, env = "WEFT_ADMIN_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:15014")]
    pub admin_listen: SocketAddr,
    /// How long issued certificates are valid (2s to 2160h)
    #[arg(long, env = "WEFT_CERTIFICATE_LIFETIME", value_name = "DURATION")]
    #[arg(default_value = DEFAULT_CERTIFICATE_LIFETIME, value_parser = certificate_lifetime)]
    pub certificate_lifetime: Duration,
    /// Where keys of token issuers may be fetched
    #[command(flatten)]
    pub jwks: JwksSettings,
    /// What is logged: off, error, warn, info, debug, trace, or target=level lists
    #[arg(long, env = "WEFT_LOG", value_name = "LEVEL", default_value = "info")]
    pub log: LogFilter,
}

/// Settings of `weft-control token`.
#[derive(Args, Clone, Debug)]
pub struct TokenSettings {
    /// The workload the token is for
    #[arg(long, env = "WEFT_WORKLOAD", value_name = "NAMESPACE/NAME")]
    pub workload: WorkloadUid,
    /// The server's state directory
    #[arg(long, env = "WEFT_STATE", value_name = "DIR")]
    pub state: PathBuf,
    /// How long the token is valid
    #[arg(long, env = "WEFT_LIFETIME", value_name = "DURATION")]
    #[arg(default_value = "1h", value_parser = token_lifetime)]
    pub lifetime: Duration,
}

impl Invocation {
    /// Reads the arguments and the environment; on bad ones clap says why and exits with code 2.
    pub fn parse() -> Self {
        Self::try_parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads these arguments and the environment.
    pub fn try_parse_from<T: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        // Not derived: a derived option of "all serving flags or none" takes WEFT_STATE in the
        // environment for one of them, and then asks `weft-control token` for the others.
        let token = TokenSettings::augment_args(Command::new("token"))
            .about("Print a bootstrap token by which one workload gets its first certificate");
        let command = ServeSettings::augment_args(Command::new("weft-control"))
            .version(env!("CARGO_PKG_VERSION"))
            .about("The control API of the Weft service mesh")
            .args_conflicts_with_subcommands(true)
            .subcommand_negates_reqs(true)
            .subcommand(token);
        let matches = command.try_get_matches_from(arguments)?;
        match matches.subcommand() {
            Some(("token", matches)) => TokenSettings::from_arg_matches(matches).map(Self::Token),
            _ => ServeSettings::from_arg_matches(&matches).map(|serve| Self::Serve(Box::new(serve))),
        }
    }
}

fn certificate_lifetime(text: &str) -> Result<Duration, String> {
    within(text, CERTIFICATE_LIFETIME_MIN, CERTIFICATE_LIFETIME_MAX)
}

fn token_lifetime(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_secs(1), TOKEN_LIFETIME_MAX)
}

pub(crate) fn within(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    let [least, most] = [least, most].map(weft_model::duration::format_duration);
    Err(format!("it must lie between {least} and {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Invocation, clap::Error> {
        Invocation::try_parse_from([&["weft-control"], arguments].concat())
    }

    #[test]
    fn serving_needs_policies_and_state_and_has_defaults_for_the_rest() {
        let parsed = parse(&["--policies", "/p", "--state", "/s"]).unwrap();
        let Invocation::Serve(serve) = parsed else { panic!("not to serve") };
        assert_eq!(serve.listen.to_string(), "127.0.0.1:15010");
        assert_eq!(serve.admin_listen.to_string(), "127.0.0.1:15014");
        assert_eq!(serve.certificate_lifetime, Duration::from_secs(86_400));
        let error = parse(&["--policies", "/p"]).unwrap_err();
        assert!(error.to_string().contains("--state"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn the_token_command_needs_no_policies() {
        let parsed = parse(&["token", "--workload", "shop/cart-1", "--state", "/s"]).unwrap();
        let Invocation::Token(token) = parsed else { panic!("not for a token") };
        assert_eq!(token.workload.as_str(), "shop/cart-1");
        assert_eq!(token.lifetime, Duration::from_secs(3600));
    }

    #[test]
    fn values_out_of_range_are_refused_in_one_sentence() {
        let base = ["--policies", "/p", "--state", "/s"];
        for (flag, value, said) in [
            ("--certificate-lifetime", "1s", "between 2s and 2160h"),
            ("--certificate-lifetime", "1d", "not a valid duration"),
            ("--listen", "15010", "invalid socket address"),
            ("--log", "loud", "loud"),
        ] {
            let error = parse(&[&base[..], &[flag, value]].concat()).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        assert!(parse(&["token", "--workload", "Cart", "--state", "/s"]).is_err());
    }
}
