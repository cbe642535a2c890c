//! Prometheus text, read back.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

/// One series' value.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Metrics {
    /// Reads the text format. Lines that are no samples are refused loudly.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self { samples: lines.map(sample).collect() }
    }

    /// The samples of one metric whose labels include `labels`.
    pub fn find<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|held| held == value))
        })
    }

    /// Their sum.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).map(|sample| sample.value).sum()
    }

    /// The names of all metrics.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.samples.iter().map(|sample| sample.name.as_str()).collect();
        names.dedup();
        names
    }
}

fn sample(line: &str) -> Sample {
    let refused = || format!("not a sample: {line:?}");
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{}", refused()));
    let value = value.parse().unwrap_or_else(|_| panic!("{}", refused()));
    let (name, labels) = match head.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("{}", refused()))),
        None => (head, ""),
    };
    let mut found = BTreeMap::new();
    let mut rest = labels;
    while let Some((label, after)) = rest.split_once("=\"") {
        let mut text = String::new();
        let mut characters = after.char_indices();
        let mut end = None;
        while let Some((index, character)) = characters.next() {
            match character {
                '"' => {
                    end = Some(index);
                    break;
                }
                '\\' => text.extend(characters.next().map(|(_, next)| if next == 'n' { '\n' } else { next })),
                other => text.push(other),
            }
        }
        let end = end.unwrap_or_else(|| panic!("{}", refused()));
        found.insert(label.trim_start_matches(',').to_owned(), text);
        rest = &after[end + 1..];
    }
    Sample { name: name.to_owned(), labels: found, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_with_escapes() {
        let metrics = Metrics::parse("# HELP a b\na{x=\"1\",y=\"q\\\"z\"} 2\na{x=\"1\"} 3\nb 1.5\n");
        assert_eq!(metrics.sum("a", &[("x", "1")]), 5.0);
        assert_eq!(metrics.sum("a", &[("y", "q\"z")]), 2.0);
        assert_eq!(metrics.sum("b", &[]), 1.5);
    }
}
