//! What the client does in one scenario, and its name on the command line.
//! `closed-64` 64 connections, each sending as soon as it has its answer · `open-2000` 2000 requests a second at
//! fixed times · `h2c-4x32` 4 cleartext HTTP/2 connections of 32 streams · a third part sets the answer's size: `closed-16-100k`.

use std::{fmt, str::FromStr};

use anyhow::{Context as _, Error, Result, bail, ensure};

const BODY_BYTES_DEFAULT: usize = 100;

/// Enough that no connection waits at the rates measured, few enough that connections stay warm.
const OPEN_CONNECTIONS: usize = 16;

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Scenario {
    pub(crate) shape: Shape,
    pub(crate) body_bytes: usize,
    name: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Shape {
    Closed { connections: usize },
    Open { rate: u32, connections: usize },
    Http2 { connections: usize, streams: usize },
}

// === impl Scenario ===

impl Scenario {
    /// The path to ask for; the application answers with as many bytes as the last segment says.
    pub(crate) fn path(&self) -> String {
        format!("/items/{}", self.body_bytes)
    }
}

impl FromStr for Scenario {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let usage = "expected closed-N, open-RATE or h2c-CxS, then optionally -BYTES (k and m allowed)";
        let mut parts = text.split('-');
        let kind = parts.next().unwrap_or_default();
        let amount = parts.next().context(usage)?;
        let shape = match kind {
            "closed" => Shape::Closed { connections: positive(amount)? },
            "open" => Shape::Open { rate: u32::try_from(positive(amount)?)?, connections: OPEN_CONNECTIONS },
            "h2c" => {
                let (connections, streams) = amount.split_once('x').context(usage)?;
                Shape::Http2 { connections: positive(connections)?, streams: positive(streams)? }
            }
            other => bail!("unknown scenario {other:?}: {usage}"),
        };
        let body_bytes = parts.next().map_or(Ok(BODY_BYTES_DEFAULT), bytes)?;
        ensure!(parts.next().is_none(), usage);
        Ok(Self { shape, body_bytes, name: text.to_owned() })
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
    fn a_wrong_name_is_refused() {
        for name in ["closed", "closed-0", "closed-x", "open-1-2-3", "h2c-4", "idle-3"] {
            assert!(name.parse::<Scenario>().is_err(), "{name}");
        }
    }
}
