//! A scrape of a proxy, read as far as the demo needs it.

use super::http;
use anyhow::bail;
use std::net::SocketAddr;

/// The lines of one scrape.
#[derive(Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// Scrapes `/metrics`.
    pub(crate) async fn scrape(address: SocketAddr) -> anyhow::Result<Self> {
        Self::read(http::fetch(address, "/metrics").await?)
    }

    /// Reads the answer to a scrape.
    pub(crate) fn read(response: http::Response) -> anyhow::Result<Self> {
        if response.status != 200 {
            bail!("/metrics answered {}", response.status);
        }
        Ok(Self(response.body))
    }

    /// The lines of one metric that contain all of `parts`.
    pub(crate) fn lines<'a>(&'a self, name: &'a str, parts: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
        self.0.lines().filter(move |line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && parts.iter().all(|part| line.contains(part))
        })
    }

    /// Their sum.
    pub(crate) fn sum(&self, name: &str, parts: &[&str]) -> f64 {
        let value = |line: &str| line.rsplit(' ').next().and_then(|word| word.parse::<f64>().ok());
        self.lines(name, parts).filter_map(value).sum()
    }

    /// How many series there are.
    pub(crate) fn series(&self) -> usize {
        self.0.lines().filter(|line| !line.starts_with('#')).count()
    }
}
