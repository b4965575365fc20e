//! Attributes of series: an order-independent hash, and their representation in a file.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, Hasher as _};
use std::time::SystemTime;

use foldhash::quality::RandomState;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{KeyValue, KeyValueList};
use prost::Message as _;
use serde_json::{Map, Value as Json};

use crate::metrics::Point;

/// Hashes attributes without copying them. The key is random, so that a collision cannot be
/// provoked; with 100,000 series, the probability of an accidental one is about 1 in 3 billion.
#[derive(Default)]
pub(super) struct Hasher(RandomState);

impl Hasher {
    /// The hash of a series of one metric.
    pub(super) fn key(&self, attributes: &[KeyValue]) -> u64 {
        let pairs = attributes.iter().map(|pair| {
            let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
            let scalar = match value {
                Some(Any::StringValue(text)) => Scalar::Text(text),
                Some(Any::BoolValue(value)) => Scalar::Bool(*value),
                Some(Any::IntValue(value)) => Scalar::Integer(*value),
                Some(Any::DoubleValue(value)) => Scalar::Bits(value.to_bits()),
                _ => return self.0.hash_one(pair.encode_to_vec()),
            };
            self.pair(&pair.key, &scalar)
        });
        sum(pairs)
    }

    /// The start times of those `points` that have one, by hash, in nanoseconds since 1970.
    pub(super) fn starts(&self, points: &[Point]) -> HashMap<u64, u64> {
        let with_start = points.iter().filter_map(|point| {
            let start = nanoseconds(point.start?);
            (start > 0).then(|| (self.observed(&point.attributes), start))
        });
        with_start.collect()
    }

    fn observed(&self, attributes: &[opentelemetry::KeyValue]) -> u64 {
        use opentelemetry::Value;
        let pairs = attributes.iter().map(|pair| {
            let scalar = match &pair.value {
                Value::String(text) => Scalar::Text(text.as_str()),
                Value::Bool(value) => Scalar::Bool(*value),
                Value::I64(value) => Scalar::Integer(*value),
                Value::F64(value) => Scalar::Bits(value.to_bits()),
                _ => return self.0.hash_one(KeyValue::from(pair).encode_to_vec()),
            };
            self.pair(pair.key.as_str(), &scalar)
        });
        sum(pairs)
    }

    fn pair(&self, key: &str, value: &Scalar<'_>) -> u64 {
        let mut hasher = self.0.build_hasher();
        key.hash(&mut hasher);
        value.hash(&mut hasher);
        hasher.finish()
    }
}

#[derive(Hash)]
enum Scalar<'a> {
    Text(&'a str),
    Bool(bool),
    Integer(i64),
    Bits(u64),
}

/// Addition makes the hash independent of the order of attributes.
fn sum(pairs: impl Iterator<Item = u64>) -> u64 {
    pairs.fold(0, u64::wrapping_add)
}

/// Encoded attributes as JSON; `None` for value types that JSON does not preserve.
pub(super) fn json(encoded: &[u8]) -> Option<Map<String, Json>> {
    let list = KeyValueList::decode(encoded).ok()?;
    let pairs = list.values.into_iter().map(|pair| {
        let value = match pair.value?.value? {
            Any::StringValue(text) => Json::String(text),
            Any::BoolValue(value) => Json::Bool(value),
            Any::IntValue(value) => Json::from(value),
            _ => return None,
        };
        Some((pair.key, value))
    });
    pairs.collect()
}

/// Nanoseconds since 1970.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let nanoseconds = since.map_or(0, |since| since.as_nanos());
    u64::try_from(nanoseconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_beyond_the_range_is_the_nearest_one() {
        // The year 9999.
        let last = SystemTime::from(jiff::Timestamp::MAX);
        assert_eq!(nanoseconds(last), u64::MAX);
        assert_eq!(
            nanoseconds(SystemTime::UNIX_EPOCH - Duration::from_secs(1)),
            0
        );
        assert_eq!(
            nanoseconds(SystemTime::UNIX_EPOCH + Duration::from_secs(1)),
            1_000_000_000
        );
    }
}
