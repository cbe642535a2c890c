//! What the client does in one scenario, and its name on the command line.
//! `closed-64` 64 connections, each sending as soon as it has its answer · `open-2000` 2000 requests a second at
//! fixed times · `h2c-4x32` 4 cleartext HTTP/2 connections of 32 streams · `grpc-4x32` the same with unary gRPC calls ·
//! `denied-64` 64 connections whose requests are refused by policy · `tcp-64` 64 opaque TCP connections, each one
//! exchange after another · `connect-8` 8 at a time, each exchange on an opaque connection of its own · `idle-10000`
//! connections that lie idle after one request, `idletcp-10000` the same of opaque TCP.
//! A third part sets the answer's size (`closed-16-100k`), or with `up` the request body's (`closed-16-up100k`).

use std::{fmt, str::FromStr};

use anyhow::{Context as _, Error, Result, bail, ensure};

/// File descriptors that a proxy needs besides its clients' connections.
pub(crate) const DESCRIPTORS_BESIDES: u64 = 1000;

const BODY_BYTES_DEFAULT: usize = 100;

/// Enough that no connection waits at the rates measured, few enough that connections stay warm.
const OPEN_CONNECTIONS: usize = 16;

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Scenario {
    pub(crate) shape: Shape,
    /// Of the answer.
    pub(crate) body_bytes: usize,
    /// Of the request.
    pub(crate) upload_bytes: usize,
    name: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Shape {
    Closed { connections: usize },
    Open { rate: u32, connections: usize },
    Http2 { connections: usize, streams: usize },
    Grpc { connections: usize, streams: usize },
    Denied { connections: usize },
    Tcp { connections: usize },
    Connect { connections: usize },
    Idle { connections: usize },
    IdleTcp { connections: usize },
}

// === impl Shape ===

impl Shape {
    /// Whether it sends opaque bytes rather than HTTP.
    pub(crate) fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp { .. } | Self::Connect { .. } | Self::IdleTcp { .. })
    }

    /// Whether every request is to be refused by policy.
    pub(crate) fn is_denied(self) -> bool {
        matches!(self, Self::Denied { .. })
    }

    /// How many connections lie idle, where memory is what is measured.
    pub(crate) fn idle(self) -> Option<usize> {
        match self {
            Self::Idle { connections } | Self::IdleTcp { connections } => Some(connections),
            _ => None,
        }
    }
}

// === impl Scenario ===

impl Scenario {
    /// The path to ask for; the application answers with as many bytes as the last segment says. Of gRPC it is the
    /// method, and the message says how many.
    pub(crate) fn path(&self) -> String {
        match self.shape {
            Shape::Grpc { .. } => "/items.Catalog/Item".to_owned(),
            Shape::Denied { .. } => format!("/forbidden/{}", self.body_bytes),
            _ => format!("/items/{}", self.body_bytes),
        }
    }

    /// The same with as many idle connections as `descriptors` of a process allow, if it asks for more.
    pub(crate) fn within(&self, descriptors: u64) -> Option<Self> {
        // A proxy has one connection per idle HTTP client, and two where each client has one of its own behind it.
        let each = if self.shape.is_tcp() { 2 } else { 1 };
        let most = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_BESIDES) / each).ok()?;
        let (shape, kind) = match self.shape {
            Shape::Idle { connections } if connections > most => (Shape::Idle { connections: most }, "idle"),
            Shape::IdleTcp { connections } if connections > most => {
                (Shape::IdleTcp { connections: most }, "idletcp")
            }
            _ => return None,
        };
        Some(Self { shape, name: format!("{kind}-{most}"), ..self.clone() })
    }

    /// How many bytes of bodies one exchange carries.
    pub(crate) fn exchange_bytes(&self) -> usize {
        self.body_bytes + self.upload_bytes
    }
}

impl FromStr for Scenario {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let usage = "expected closed-N, open-RATE, h2c-CxS, grpc-CxS, denied-N, tcp-N, connect-N, idle-N or idletcp-N, \
                     then optionally -BYTES or -upBYTES (k and m allowed)";
        let mut parts = text.split('-');
        let kind = parts.next().unwrap_or_default();
        let amount = parts.next().context(usage)?;
        let shape = match kind {
            "closed" => Shape::Closed { connections: positive(amount)? },
            "open" => Shape::Open { rate: u32::try_from(positive(amount)?)?, connections: OPEN_CONNECTIONS },
            "h2c" | "grpc" => {
                let (connections, streams) = amount.split_once('x').context(usage)?;
                let (connections, streams) = (positive(connections)?, positive(streams)?);
                if kind == "grpc" {
                    Shape::Grpc { connections, streams }
                } else {
                    Shape::Http2 { connections, streams }
                }
            }
            "denied" => Shape::Denied { connections: positive(amount)? },
            "tcp" => Shape::Tcp { connections: positive(amount)? },
            "connect" => Shape::Connect { connections: positive(amount)? },
            "idle" => Shape::Idle { connections: positive(amount)? },
            "idletcp" => Shape::IdleTcp { connections: positive(amount)? },
            other => bail!("unknown scenario {other:?}: {usage}"),
        };
        let (body_bytes, upload_bytes) = match parts.next() {
            None => (BODY_BYTES_DEFAULT, 0),
            Some(size) => match size.strip_prefix("up") {
                None => (bytes(size)?, 0),
                Some(upload) if matches!(shape, Shape::Closed { .. } | Shape::Tcp { .. }) => {
                    (BODY_BYTES_DEFAULT, bytes(upload)?)
                }
                Some(_) => bail!("only closed and tcp send bodies: {usage}"),
            },
        };
        ensure!(parts.next().is_none(), usage);
        Ok(Self { shape, body_bytes, upload_bytes, name: text.to_owned() })
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

fn positive(text: &str) -> Result<usize> {
    let number = text.parse().with_context(|| format!("{text:?} is not a number"))?;
    ensure!((1..=100_000).contains(&number), "{number} is not between 1 and 100000");
    Ok(number)
}

fn bytes(text: &str) -> Result<usize> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1000),
        Some(b'm') => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    };
    Ok(positive(digits)? * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_the_client_does() {
        let scenario: Scenario = "closed-16-100k".parse().unwrap();
        assert_eq!((scenario.shape, scenario.body_bytes), (Shape::Closed { connections: 16 }, 100_000));
        assert_eq!(scenario.path(), "/items/100000");
        let scenario: Scenario = "h2c-4x32".parse().unwrap();
        assert_eq!(
            (scenario.shape, scenario.body_bytes),
            (Shape::Http2 { connections: 4, streams: 32 }, 100)
        );
    }

    #[test]
    fn the_third_part_is_the_answers_size_or_with_up_the_requests() {
        let scenario: Scenario = "tcp-4-1m".parse().unwrap();
        assert_eq!((scenario.shape, scenario.body_bytes), (Shape::Tcp { connections: 4 }, 1_000_000));
        let scenario: Scenario = "closed-16-up10k".parse().unwrap();
        assert_eq!(
            (scenario.body_bytes, scenario.upload_bytes, scenario.exchange_bytes()),
            (100, 10_000, 10_100)
        );
        let scenario: Scenario = "idletcp-10000".parse().unwrap();
        assert_eq!((scenario.shape.idle(), scenario.shape.is_tcp()), (Some(10_000), true));
    }

    #[test]
    fn idle_connections_are_as_many_as_the_descriptors_allow() {
        let idle = |name: &str| name.parse::<Scenario>().unwrap().within(20_000).map(|less| less.to_string());
        assert_eq!(idle("idle-10000"), None);
        assert_eq!(idle("idle-50000"), Some("idle-19000".to_owned()));
        assert_eq!(idle("idletcp-10000"), Some("idletcp-9500".to_owned()));
        assert_eq!(idle("closed-50000"), None, "only idle connections are many");
    }

    #[test]
    fn calls_and_refusals_ask_for_other_paths() {
        let scenario: Scenario = "grpc-4x32".parse().unwrap();
        assert_eq!(scenario.shape, Shape::Grpc { connections: 4, streams: 32 });
        assert_eq!(scenario.path(), "/items.Catalog/Item");
        let scenario: Scenario = "denied-16".parse().unwrap();
        assert!(scenario.shape.is_denied() && scenario.path().starts_with("/forbidden/"));
    }

    #[test]
    fn a_wrong_name_is_refused() {
        for name in [
            "grpc-4",
            "denied",
            "closed",
            "closed-0",
            "closed-x",
            "open-1-2-3",
            "h2c-4",
            "idle",
            "tcp-x",
            "open-5-up1k",
        ] {
            assert!(name.parse::<Scenario>().is_err(), "{name}");
        }
    }
}
