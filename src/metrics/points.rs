//! The points of a family while it is being read: duplicates merge, never repeat.

use std::collections::HashMap;
use std::sync::Arc;

use opentelemetry::{Key, KeyValue, StringValue, Value};

use super::{Family, Options};

/// One series and its value.
#[derive(Debug, Clone)]
pub struct Point {
    /// The value.
    pub value: f64,
    /// The attributes, in the order of the family's declaration.
    pub attributes: Vec<KeyValue>,
}

/// Collects the points of one family.
pub struct Points {
    keys: Vec<Option<Key>>,
    index: HashMap<Vec<Arc<str>>, usize>,
    points: Vec<Point>,
}

impl Points {
    pub(super) fn new(family: &Family, options: &Options) -> Self {
        let key =
            |name: &&'static str| (!options.leaves_out(name)).then(|| Key::from_static_str(name));
        Points {
            keys: family.attributes.iter().map(key).collect(),
            index: HashMap::new(),
            points: Vec::new(),
        }
    }

    /// Sets the value of a series: of two objects with equal attributes, the last one counts.
    pub fn set<const N: usize>(&mut self, values: [Arc<str>; N], value: f64) {
        self.point(values).value = value;
    }

    /// Adds to the value of a series.
    pub fn add<const N: usize>(&mut self, values: [Arc<str>; N], value: f64) {
        self.point(values).value += value;
    }

    fn point<const N: usize>(&mut self, values: [Arc<str>; N]) -> &mut Point {
        debug_assert_eq!(
            N,
            self.keys.len(),
            "as many values as attributes are declared"
        );
        let kept = values
            .into_iter()
            .zip(&self.keys)
            .filter(|(_, key)| key.is_some());
        let values: Vec<_> = kept.map(|(value, _)| value).collect();
        let next = self.points.len();
        let index = *self.index.entry(values).or_insert_with_key(|values| {
            let keys = self.keys.iter().flatten().cloned();
            let pairs = keys.zip(values.iter().cloned());
            let attributes = pairs
                .map(|(key, value)| KeyValue::new(key, Value::String(StringValue::from(value))))
                .collect();
            self.points.push(Point {
                value: 0.0,
                attributes,
            });
            next
        });
        &mut self.points[index]
    }

    pub(super) fn into_vec(self) -> Vec<Point> {
        self.points
    }
}

/// A time as a value: seconds since 1970, with fractions.
pub(super) fn unix_seconds(time: jiff::Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

/// The two kinds of slots of something with a concurrency limit: none where it has none.
pub(super) fn slots(limit: Option<u64>, active: Option<u64>) -> Vec<(Arc<str>, f64)> {
    limit.map_or_else(Vec::new, |limit| {
        let active = active.unwrap_or_default();
        vec![
            (Arc::from("limit"), limit as f64),
            (Arc::from("active"), active as f64),
        ]
    })
}
