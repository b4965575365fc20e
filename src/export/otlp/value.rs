//! Values of cumulative points, and the difference between two of them.

use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;

/// The value of a cumulative point.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A sum.
    Sum(f64),
    /// A histogram with explicit bounds.
    Histogram(Histogram),
    /// A base-2 exponential histogram.
    Exponential(Exponential),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Histogram {
    pub(super) count: u64,
    pub(super) sum: f64,
    pub(super) buckets: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Exponential {
    pub(super) count: u64,
    pub(super) sum: f64,
    pub(super) zero_count: u64,
    pub(super) scale: i32,
    pub(super) positive: Buckets,
    pub(super) negative: Buckets,
}

impl Value {
    /// A zero of the same shape.
    pub(super) fn zero(&self) -> Value {
        match self {
            Value::Sum(_) => Value::Sum(0.0),
            Value::Histogram(Histogram { buckets, .. }) => Value::Histogram(Histogram {
                count: 0,
                sum: 0.0,
                buckets: vec![0; buckets.len()],
            }),
            Value::Exponential(Exponential { scale, .. }) => Value::Exponential(Exponential {
                count: 0,
                sum: 0.0,
                zero_count: 0,
                scale: *scale,
                positive: Buckets::default(),
                negative: Buckets::default(),
            }),
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        match self {
            Value::Sum(value) => *value == 0.0,
            Value::Histogram(Histogram { count, .. })
            | Value::Exponential(Exponential { count, .. }) => *count == 0,
        }
    }

    /// The increase since `earlier`. If any part has decreased, there was a reset, and the whole
    /// value is new.
    /// <https://opentelemetry.io/docs/specs/otel/metrics/data-model/#resets-and-gaps>
    pub(super) fn since(&self, earlier: &Value) -> Value {
        self.minus(earlier).unwrap_or_else(|| self.clone())
    }

    fn minus(&self, earlier: &Value) -> Option<Value> {
        match (self, earlier) {
            (Value::Sum(now), Value::Sum(then)) => (now >= then).then(|| Value::Sum(now - then)),
            (Value::Histogram(now), Value::Histogram(then)) => {
                now.minus(then).map(Value::Histogram)
            }
            (Value::Exponential(now), Value::Exponential(then)) => {
                now.minus(then).map(Value::Exponential)
            }
            _ => None,
        }
    }

    /// The sum of both values. If their shapes differ, they cannot be added, and the later one is
    /// returned.
    pub(super) fn plus(self, later: Value) -> Value {
        match (self, later) {
            (Value::Sum(one), Value::Sum(other)) => Value::Sum(one + other),
            (Value::Histogram(one), Value::Histogram(other))
                if one.buckets.len() == other.buckets.len() =>
            {
                let buckets = one.buckets.iter().zip(&other.buckets);
                Value::Histogram(Histogram {
                    count: one.count.saturating_add(other.count),
                    sum: one.sum + other.sum,
                    buckets: buckets
                        .map(|(one, other)| one.saturating_add(*other))
                        .collect(),
                })
            }
            (Value::Exponential(one), Value::Exponential(other)) => {
                Value::Exponential(one.plus(other))
            }
            (_, later) => later,
        }
    }
}

impl Histogram {
    fn minus(&self, earlier: &Histogram) -> Option<Histogram> {
        if self.buckets.len() != earlier.buckets.len() {
            return None;
        }
        let buckets = self.buckets.iter().zip(&earlier.buckets);
        Some(Histogram {
            count: self.count.checked_sub(earlier.count)?,
            sum: self.sum - earlier.sum,
            buckets: buckets
                .map(|(now, then)| now.checked_sub(*then))
                .collect::<Option<_>>()?,
        })
    }
}

impl Exponential {
    /// The scale of a cumulative histogram only decreases: if it is finer than before, there was a
    /// reset.
    fn minus(&self, earlier: &Exponential) -> Option<Exponential> {
        let steps = u32::try_from(earlier.scale.checked_sub(self.scale)?).ok()?;
        Some(Exponential {
            count: self.count.checked_sub(earlier.count)?,
            sum: self.sum - earlier.sum,
            zero_count: self.zero_count.checked_sub(earlier.zero_count)?,
            scale: self.scale,
            positive: minus(&self.positive, &coarser(&earlier.positive, steps))?,
            negative: minus(&self.negative, &coarser(&earlier.negative, steps))?,
        })
    }

    fn plus(self, other: Exponential) -> Exponential {
        let scale = self.scale.min(other.scale);
        let at_scale = |buckets: &Buckets, of: i32| coarser(buckets, of.abs_diff(scale));
        Exponential {
            count: self.count.saturating_add(other.count),
            sum: self.sum + other.sum,
            zero_count: self.zero_count.saturating_add(other.zero_count),
            scale,
            positive: plus(
                &at_scale(&self.positive, self.scale),
                &at_scale(&other.positive, other.scale),
            ),
            negative: plus(
                &at_scale(&self.negative, self.scale),
                &at_scale(&other.negative, other.scale),
            ),
        }
    }
}

/// The same counts at a scale that is lower by `steps`. Each step merges pairs of buckets.
/// <https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponential-scale>
fn coarser(buckets: &Buckets, steps: u32) -> Buckets {
    let steps = steps.min(i32::BITS - 1);
    if steps == 0 || buckets.bucket_counts.is_empty() {
        return buckets.clone();
    }
    let offset = buckets.offset >> steps;
    let mut counts: Vec<u64> = Vec::new();
    for (index, count) in (buckets.offset..).zip(&buckets.bucket_counts) {
        let place = (index >> steps).abs_diff(offset) as usize;
        if place >= counts.len() {
            counts.resize(place.saturating_add(1), 0);
        }
        add(&mut counts, place, *count);
    }
    Buckets {
        offset,
        bucket_counts: counts,
    }
}

fn add(counts: &mut [u64], place: usize, count: u64) {
    if let Some(bucket) = counts.get_mut(place) {
        *bucket = bucket.saturating_add(count);
    }
}

/// The buckets with a count, with their indexes.
fn filled(buckets: &Buckets) -> impl DoubleEndedIterator<Item = (i32, u64)> {
    let counts = buckets.bucket_counts.iter().enumerate();
    counts
        .filter(|(_, count)| **count > 0)
        .map(|(place, count)| (buckets.offset.saturating_add(place as i32), *count))
}

fn minus(now: &Buckets, then: &Buckets) -> Option<Buckets> {
    let mut left = now.clone();
    for (index, count) in filled(then) {
        let place = usize::try_from(index.checked_sub(now.offset)?).ok()?;
        let bucket = left.bucket_counts.get_mut(place)?;
        *bucket = bucket.checked_sub(count)?;
    }
    Some(trimmed(&left))
}

fn plus(one: &Buckets, other: &Buckets) -> Buckets {
    let ends = |buckets| {
        let (first, _) = filled(buckets).next()?;
        let (last, _) = filled(buckets).next_back()?;
        Some((first, last))
    };
    let (first, last) = match (ends(one), ends(other)) {
        (Some(one), Some(other)) => (one.0.min(other.0), one.1.max(other.1)),
        (Some(ends), None) | (None, Some(ends)) => ends,
        (None, None) => return Buckets::default(),
    };
    let mut counts = vec![0; (last.abs_diff(first) as usize).saturating_add(1)];
    for (index, count) in filled(one).chain(filled(other)) {
        add(&mut counts, index.abs_diff(first) as usize, count);
    }
    Buckets {
        offset: first,
        bucket_counts: counts,
    }
}

/// The same buckets without the empty ones at both ends.
fn trimmed(buckets: &Buckets) -> Buckets {
    plus(buckets, &Buckets::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exponential(scale: i32, offset: i32, counts: &[u64]) -> Value {
        let count = counts.iter().sum();
        Value::Exponential(Exponential {
            count,
            sum: count as f64,
            zero_count: 0,
            scale,
            positive: Buckets {
                offset,
                bucket_counts: counts.to_vec(),
            },
            negative: Buckets::default(),
        })
    }

    fn histogram(buckets: &[u64]) -> Value {
        let count = buckets.iter().sum();
        Value::Histogram(Histogram {
            count,
            sum: count as f64,
            buckets: buckets.to_vec(),
        })
    }

    #[test]
    fn the_increase_is_the_difference_and_after_a_reset_the_whole_value() {
        assert_eq!(Value::Sum(5.0).since(&Value::Sum(3.0)), Value::Sum(2.0));
        assert_eq!(Value::Sum(2.0).since(&Value::Sum(3.0)), Value::Sum(2.0));
        let (then, now) = (histogram(&[1, 2, 0]), histogram(&[1, 4, 1]));
        assert_eq!(now.since(&then), histogram(&[0, 2, 1]));
        // The same total, but a lower count in one bucket.
        let reset = histogram(&[0, 5, 0]);
        assert_eq!(reset.since(&then), reset);
    }

    #[test]
    fn an_exponential_histogram_is_subtracted_at_the_coarser_scale() {
        // Two scales lower, four buckets become one: 4..8 and 8..12.
        let then = exponential(3, 5, &[1, 0, 0, 2, 1]);
        let now = exponential(1, 1, &[1, 5]);
        assert_eq!(now.since(&then), exponential(1, 2, &[2]));
        // Negative indexes are also rounded down.
        let then = exponential(1, -3, &[1, 1]);
        let now = exponential(0, -2, &[2, 4]);
        assert_eq!(now.since(&then), exponential(0, -2, &[1, 3]));
        // A finer scale than before is a reset.
        let reset = exponential(5, 0, &[1]);
        assert_eq!(reset.since(&now), reset);
    }

    #[test]
    fn increases_that_were_not_accepted_add_up() {
        assert_eq!(Value::Sum(2.0).plus(Value::Sum(3.0)), Value::Sum(5.0));
        let (one, other) = (histogram(&[1, 2]), histogram(&[0, 3]));
        assert_eq!(one.plus(other), histogram(&[1, 5]));
        let (fine, coarse) = (exponential(1, 4, &[1, 1, 1]), exponential(0, 0, &[7]));
        assert_eq!(fine.plus(coarse), exponential(0, 0, &[7, 0, 2, 1]));
        let nothing = exponential(0, 0, &[1]).zero();
        assert!(nothing.is_zero());
        assert_eq!(
            nothing.plus(exponential(0, 2, &[1])),
            exponential(0, 2, &[1])
        );
    }
}
