//! Lingering zeros: a series of a gauge that is meant to be summed stays at zero for a while before
//! it ends.
//!
//! For some minutes, receivers keep the last value of a series that is no longer sent, and include
//! it in every sum. So a series stays at zero for ten minutes after its last count.

use std::time::Duration;

use foldhash::HashMap;
use opentelemetry::KeyValue;

use super::{Family, Point};

/// How long a series stays at zero: longer than receivers keep its last value, which is five
/// minutes by default in Prometheus and in the collector's Prometheus exporter.
/// <https://prometheus.io/docs/prometheus/latest/querying/basics/#staleness>
pub(super) const LINGER: Duration = Duration::from_secs(600);

/// For each lingering family, the series that had a count within the last ten minutes. It is kept
/// from one reading of the catalogue to the next.
#[derive(Debug, Default)]
pub struct Lingering(HashMap<&'static str, Remembered>);

/// The series of one family.
#[derive(Debug, Default)]
struct Remembered {
    /// When each last had a count, as uptime.
    counted: HashMap<Vec<KeyValue>, Duration>,
    /// When the family was last read, as uptime.
    shown: Duration,
}

impl Lingering {
    /// Adds zeros to `points`, the points of `family` at `uptime`, for series that no longer have a
    /// count, the most recent ones first, up to `limit` series in total.
    pub(super) fn add_zeros(
        &mut self,
        family: &Family,
        points: &mut Vec<Point>,
        limit: usize,
        uptime: Duration,
    ) {
        let Remembered { counted, shown } = self.0.entry(family.name).or_default();
        for point in points.iter() {
            match counted.get_mut(&point.attributes) {
                Some(last) => *last = uptime,
                None => _ = counted.insert(point.attributes.clone(), uptime),
            }
        }
        // Every series gets at least one zero, even if the interval is longer than `LINGER`.
        counted.retain(|_, last| *last >= *shown || uptime.saturating_sub(*last) < LINGER);
        *shown = uptime;
        let room = limit.saturating_sub(points.len());
        let mut gone: Vec<_> = counted.iter().filter(|(_, last)| **last < uptime).collect();
        gone.sort_by_key(|(_, last)| std::cmp::Reverse(**last));
        points.extend(gone.into_iter().take(room).map(|(series, _)| Point {
            value: 0.0,
            attributes: series.clone(),
            start: None,
        }));
    }

    /// `family` is withheld at `uptime`: it has no points, and its last ones are forgotten after
    /// ten minutes.
    pub(super) fn withhold(&mut self, family: &Family, uptime: Duration) {
        if let Some(remembered) = self.0.get_mut(family.name) {
            let series = &mut remembered.counted;
            series.retain(|_, last| uptime.saturating_sub(*last) < LINGER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue;
    use super::*;

    /// The names and values, sorted, that are shown at `minutes` if the series `counted` have a
    /// count.
    fn shown(
        lingering: &mut Lingering,
        minutes: u64,
        limit: usize,
        counted: &[&'static str],
    ) -> Vec<(String, f64)> {
        let mut points = Vec::from_iter(counted.iter().map(|name| Point {
            value: 2.0,
            attributes: vec![KeyValue::new("flow_name", *name)],
            start: None,
        }));
        let uptime = Duration::from_secs(60 * minutes);
        lingering.add_zeros(family(), &mut points, limit, uptime);
        let mut shown: Vec<_> = points
            .iter()
            .map(|point| (point.attributes[0].value.to_string(), point.value))
            .collect();
        shown.sort_by(|one, other| one.0.cmp(&other.0));
        shown
    }

    fn family() -> &'static Family {
        catalogue().find(|family| family.lingers).unwrap()
    }

    fn zero(name: &str) -> (String, f64) {
        (name.to_owned(), 0.0)
    }

    fn live(name: &str) -> (String, f64) {
        (name.to_owned(), 2.0)
    }

    #[test]
    fn a_series_without_a_count_is_zero_for_ten_minutes_and_then_ends() {
        let mut lingering = Lingering::default();
        let all = &mut lingering;
        assert_eq!(shown(all, 1, 9, &["a", "b"]), [live("a"), live("b")]);
        assert_eq!(shown(all, 2, 9, &["b"]), [zero("a"), live("b")]);
        assert_eq!(shown(all, 10, 9, &["b"]), [zero("a"), live("b")]);
        assert_eq!(shown(all, 11, 9, &["b"]), [live("b")]);
        assert_eq!(shown(all, 12, 9, &["a"]), [live("a"), zero("b")]);
        assert_eq!(shown(all, 13, 9, &["a", "b"]), [live("a"), live("b")]);
        assert_eq!(shown(all, 14, 9, &[]), [zero("a"), zero("b")]);
        assert_eq!(shown(all, 24, 9, &[]), []);
        let remembered = |all: &Lingering| all.0.values().map(|of| of.counted.len()).sum::<usize>();
        assert_eq!(remembered(all), 0);
    }

    #[test]
    fn a_series_gets_one_zero_even_if_the_interval_is_longer() {
        let mut lingering = Lingering::default();
        let all = &mut lingering;
        assert_eq!(shown(all, 30, 9, &["a"]), [live("a")]);
        assert_eq!(shown(all, 60, 9, &[]), [zero("a")]);
        assert_eq!(shown(all, 90, 9, &[]), []);
    }

    #[test]
    fn zeros_make_room_for_series_with_a_count_at_the_limit() {
        let mut lingering = Lingering::default();
        let all = &mut lingering;
        shown(all, 1, 3, &["a"]);
        shown(all, 2, 3, &["b", "c"]);
        assert_eq!(
            shown(all, 3, 3, &["d", "e", "f"]),
            [live("d"), live("e"), live("f")]
        );
        let most_recent = shown(all, 4, 3, &["d", "e"]);
        assert_eq!(most_recent, [live("d"), live("e"), zero("f")]);
    }

    #[test]
    fn a_family_that_was_withheld_for_ten_minutes_has_no_zeros() {
        let mut lingering = Lingering::default();
        let all = &mut lingering;
        shown(all, 1, 9, &["a"]);
        all.withhold(family(), Duration::from_secs(300));
        assert_eq!(shown(all, 6, 9, &[]), [zero("a")]);
        all.withhold(family(), Duration::from_secs(660));
        assert_eq!(shown(all, 12, 9, &[]), []);
    }
}
