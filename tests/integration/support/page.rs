//! The text of `/metrics`, parsed.

use std::collections::BTreeMap;

/// Labels, sorted.
pub(crate) type Labels = BTreeMap<String, String>;

/// Series and their values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    pub(crate) series: BTreeMap<(String, Labels), f64>,
}

impl Page {
    /// Reads the text format; a duplicate sample or a broken line fails the test.
    pub(crate) fn parse(text: &str) -> Self {
        let mut page = Page::default();
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}').unwrap())),
                None => (series, Labels::new()),
            };
            let value = value.parse().unwrap();
            let before = page.series.insert((name.to_owned(), labels), value);
            assert!(before.is_none(), "duplicate sample: {line}");
        }
        page
    }

    /// The series of one family.
    pub(crate) fn family(&self, name: &str) -> BTreeMap<Labels, f64> {
        let of_name = self.series.iter().filter(|((series, _), _)| series == name);
        of_name
            .map(|((_, labels), value)| (labels.clone(), *value))
            .collect()
    }

    /// The value of the only series of `name` that has these labels.
    pub(crate) fn value(&self, name: &str, having: &[(&str, &str)]) -> Option<f64> {
        let family = self.family(name);
        let mut fits = family.iter().filter(|(labels, _)| {
            having
                .iter()
                .all(|(key, value)| labels.get(*key).is_some_and(|found| found == value))
        });
        let value = fits.next().map(|(_, value)| *value);
        assert!(
            fits.next().is_none(),
            "more than one series of {name} has {having:?}"
        );
        value
    }
}

fn parse_labels(text: &str) -> Labels {
    let mut labels = Labels::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap();
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap() {
                (index, '"') => break index,
                (_, '\\') => match chars.next().unwrap().1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        rest = after[end + 1..].trim_start_matches(',');
    }
    labels
}
