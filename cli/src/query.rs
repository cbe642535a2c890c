//! A request as it is asked for on the command line; `explain` and `who-can` share it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use weft_config::case::{Ask, Authorizer, Caller, Destination, Who};
use weft_model::json::Members;
use weft_model::names::{ServiceName, WorkloadUid};
use weft_model::token::Claims;

#[derive(clap::Args, Debug)]
pub(crate) struct Request {
    /// What is called: NAMESPACE/SERVICE[:PORT], or workload/NAMESPACE/NAME[:PORT] by its own address
    #[arg(long, value_name = "SERVICE", value_parser = destination)]
    pub(crate) to: Destination,
    /// The method
    #[arg(long, default_value = "GET", value_parser = method)]
    method: String,
    /// The path with its query, as it stands in the request
    #[arg(long, default_value = "/", value_parser = path)]
    path: String,
    /// The host, where it is another than the Service's name
    #[arg(long)]
    host: Option<String>,
    /// A header field; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = field)]
    headers: Vec<(String, String)>,
    /// Opaque bytes instead of a request
    #[arg(long, conflicts_with_all = ["method", "path", "host", "headers"])]
    tcp: bool,
    /// The server that the opaque bytes' own TLS names
    #[arg(long, value_name = "HOST", requires = "tcp")]
    server_name: Option<String>,
    /// What an external authorizer answers, where one is asked
    #[arg(long, value_parser = authorizer)]
    pub(crate) authorizer: Option<Authorizer>,
}

impl Request {
    /// What is asked.
    pub(crate) fn ask(&self) -> Ask {
        if self.tcp {
            return Ask::Tcp { server_name: self.server_name.clone() };
        }
        Ask::Http {
            method: self.method.clone(),
            path: self.path.clone(),
            host: self.host.clone(),
            headers: self.headers.clone(),
        }
    }
}

#[derive(clap::Args, Debug)]
pub(crate) struct From {
    /// Who calls: a workload NAMESPACE/NAME, or a principal TRUST-DOMAIN/ns/NAMESPACE/sa/NAME
    #[arg(long, value_parser = who, required_unless_present = "plaintext")]
    from: Option<Who>,
    /// The client's address, where it is another than the workload's
    #[arg(long)]
    ip: Option<IpAddr>,
    /// A claim of the token that the request carries; a name that is repeated is a list
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, String)>,
    /// The client has no proxy: it proves nothing
    #[arg(long)]
    plaintext: bool,
}

impl From {
    /// Who calls.
    pub(crate) fn caller(&self) -> Result<Caller, String> {
        let who = self.from.clone().unwrap_or(Who::Unknown);
        if self.plaintext && matches!(who, Who::Identity(_)) {
            return Err("a plaintext client proves no principal: name a workload, or nobody".to_owned());
        }
        Ok(Caller { who, ip: self.ip, claims: self.token()?, plaintext: self.plaintext })
    }
}

impl From {
    // The claims as a token carries them.
    fn token(&self) -> Result<Option<Claims>, String> {
        if self.claims.is_empty() {
            return Ok(None);
        }
        let mut members: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, value) in &self.claims {
            members.entry(name).or_default().push(value);
        }
        let one_or_all = |values: Vec<&str>| match values[..] {
            [only] => serde_json::json!(only),
            _ => serde_json::json!(values),
        };
        let members: serde_json::Map<_, _> =
            members.into_iter().map(|(name, values)| (name.to_owned(), one_or_all(values))).collect();
        let text = serde_json::Value::Object(members).to_string();
        let members = Members::parse(text.as_bytes()).map_err(|error| error.to_string())?;
        let claims = Claims::new(members).map_err(|error| error.to_string())?;
        if claims.issuer().is_none() {
            return Err("a token has an issuer: say --claim iss=…".to_owned());
        }
        Ok(Some(claims))
    }
}

fn authorizer(text: &str) -> Result<Authorizer, String> {
    let found = Authorizer::WORDS.iter().find(|(word, _)| *word == text);
    found.map(|(_, said)| *said).ok_or_else(|| "write allow, deny or fail".to_owned())
}

fn claim(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn who(text: &str) -> Result<Who, String> {
    if text.matches('/').count() > 1 {
        let identity = format!("spiffe://{}", text.strip_prefix("spiffe://").unwrap_or(text));
        return identity.parse().map(Who::Identity).map_err(|error| format!("{error}"));
    }
    if !text.contains('/') {
        return Err("write NAMESPACE/NAME".to_owned());
    }
    text.parse::<WorkloadUid>().map(Who::Workload).map_err(|error| error.to_string())
}

fn destination(text: &str) -> Result<Destination, String> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => {
            let port = port.parse().ok().filter(|port| *port != 0);
            (name, Some(port.ok_or("the port is no port's number")?))
        }
        None => (text, None),
    };
    if let Some(uid) = name.strip_prefix("workload/") {
        return match uid.parse::<WorkloadUid>() {
            Ok(uid) => Ok(Destination::Workload(uid, port)),
            Err(error) => Err(error.to_string()),
        };
    }
    match name.parse::<ServiceName>() {
        Ok(service) => Ok(Destination::Service(service, port)),
        Err(error) => Err(error.to_string()),
    }
}

fn method(text: &str) -> Result<String, String> {
    let method = weft_proxy::http::Method::from_bytes(text.as_bytes());
    method.map(|method| method.to_string()).map_err(|_| "this is not a method".to_owned())
}

fn path(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'#');
    if plain && (text.starts_with('/') || text == "*") {
        return Ok(text.to_owned());
    }
    Err("write the path as it stands in a request: `/…`, escaped".to_owned())
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE")?;
    let name = name.trim().to_ascii_lowercase();
    if !weft_proxy::http::is_token(name.as_bytes()) {
        return Err(format!("{name:?} is not a field's name"));
    }
    Ok((name, value.trim().to_owned()))
}
