//! The (run, terminal state) pairs that have been counted.
//!
//! Pairs are remembered for hours by the local monotonic clock, so that neither a change of the
//! server's clock nor a lagging replica can make a pair appear new. Pairs that ended in a period that
//! is still to be read are always remembered. The number of the others is bounded;
//! [`Counted::forgotten_until`] returns how far back the memory is complete.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::clock::after;

/// A pair is forgotten after it has not been seen for this long.
pub(super) const REMEMBER: Duration = Duration::from_secs(6 * 3600);

/// At most this many pairs are remembered, apart from those of a period that is still to be read.
const MOST: usize = 100_000;

/// From where on the lists of ended runs are still to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unread {
    /// What is being read now.
    pub(super) now: Timestamp,
    /// What will be read again, at the latest by the next comparison. What ended before may also be
    /// read now.
    pub(super) later: Timestamp,
}

#[cfg(test)]
impl Unread {
    /// What ended at `time` or later is being read.
    pub(super) const fn from(time: Timestamp) -> Self {
        Unread {
            now: time,
            later: time,
        }
    }
}

/// Pairs of run and terminal state, in the order of the runs, as a run may have several.
#[derive(Debug)]
pub(super) struct Counted {
    pairs: BTreeMap<(u128, u128), Entry>,
    forgotten_until: Timestamp,
    most: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// When the pair was last seen, as uptime; negative if that was before a restart.
    seen: f64,
    /// When the run ended.
    end: Timestamp,
}

/// A pair in a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    run: Uuid,
    state: Uuid,
    /// Seconds since it was last seen.
    age: u64,
    end: Timestamp,
}

impl Default for Counted {
    fn default() -> Self {
        Counted {
            pairs: BTreeMap::new(),
            forgotten_until: Timestamp::MIN,
            most: MOST,
        }
    }
}

impl Counted {
    /// Whether a pair has been counted. If so, it is noted as seen.
    pub(super) fn contains(&mut self, run: &str, state: &str, uptime: Duration) -> bool {
        let entry = self.pairs.get_mut(&(key(run), key(state)));
        entry
            .map(|entry| entry.seen = uptime.as_secs_f64())
            .is_some()
    }

    /// The terminal states of a run that have been counted.
    fn states(&self, run: &str) -> impl Iterator<Item = u128> {
        let run = key(run);
        let pairs = self.pairs.range((run, u128::MIN)..=(run, u128::MAX));
        pairs.map(|((_, state), _)| *state)
    }

    /// Whether any terminal state of a run has been counted.
    pub(super) fn contains_run(&self, run: &str) -> bool {
        self.states(run).next().is_some()
    }

    /// Whether these states include every terminal state of the run that has been counted.
    pub(super) fn are_among<'a>(&self, run: &str, states: impl Iterator<Item = &'a str>) -> bool {
        let states: HashSet<u128> = states.map(key).collect();
        self.states(run).all(|state| states.contains(&state))
    }

    /// Remembers a pair that ended at `end`; `false` if it is remembered already.
    pub(super) fn insert(
        &mut self,
        run: &str,
        state: &str,
        end: Timestamp,
        uptime: Duration,
    ) -> bool {
        if self.contains(run, state, uptime) {
            return false;
        }
        let seen = uptime.as_secs_f64();
        let entry = Entry { seen, end };
        self.pairs.insert((key(run), key(state)), entry);
        true
    }

    /// From now on, everything that ended before `time` is treated as counted.
    pub(super) fn forget_until(&mut self, time: Timestamp) {
        self.forgotten_until = self.forgotten_until.max(time);
    }

    /// Runs that ended before this time may have been counted although they are not remembered.
    pub(super) fn forgotten_until(&self) -> Timestamp {
        self.forgotten_until
    }

    /// Forgets pairs that have not been seen for long, except those that will be read again; and
    /// the oldest ones if there are too many, except those that are being read. An end in the
    /// future is treated as `now`.
    pub(super) fn prune(&mut self, uptime: Duration, now: Timestamp, unread: Unread) {
        let aged = uptime.as_secs_f64() - REMEMBER.as_secs_f64();
        let mut oldest = f64::NEG_INFINITY;
        if self.pairs.len() > self.most {
            let read = self.pairs.values().filter(|entry| entry.end < unread.now);
            let mut seen: Vec<f64> = read.map(|entry| entry.seen).collect();
            // Drop a quarter at once, rather than one pair for each new one.
            let kept = self.most.saturating_mul(3) / 4;
            let too_many = self.pairs.len().saturating_sub(kept);
            oldest = match too_many < seen.len() {
                true => {
                    let (_, nth, _) = seen.select_nth_unstable_by(too_many, f64::total_cmp);
                    *nth
                }
                false => f64::INFINITY,
            };
        }
        let forgotten_until = &mut self.forgotten_until;
        self.pairs.retain(|_, entry| {
            let too_old = entry.seen < aged && entry.end < unread.now.min(unread.later);
            let too_many = entry.seen < oldest && entry.end < unread.now;
            let keep = !too_old && !too_many;
            if !keep {
                // The server's times have microseconds, and the forgotten pair is not new itself.
                let end = after(entry.end.min(now), Duration::from_micros(1));
                *forgotten_until = end.max(*forgotten_until);
            }
            keep
        });
    }

    /// Notes that the pairs of a run are still needed.
    pub(super) fn touch(&mut self, run: &str, uptime: Duration) {
        let run = key(run);
        let pairs = self.pairs.range_mut((run, u128::MIN)..=(run, u128::MAX));
        for (_, entry) in pairs {
            entry.seen = uptime.as_secs_f64();
        }
    }

    /// The pairs, for a checkpoint.
    pub(super) fn rows(&self, uptime: Duration) -> Vec<Row> {
        let row = |(&(run, state), entry): (&(u128, u128), &Entry)| Row {
            run: Uuid::from_u128(run),
            state: Uuid::from_u128(state),
            age: (uptime.as_secs_f64() - entry.seen).max(0.0) as u64,
            end: entry.end,
        };
        self.pairs.iter().map(row).collect()
    }

    /// Restores the pairs of a checkpoint.
    pub(super) fn restore(rows: Vec<Row>, forgotten_until: Timestamp) -> Self {
        let pair = |row: Row| {
            let entry = Entry {
                seen: -(row.age as f64),
                end: row.end,
            };
            ((row.run.as_u128(), row.state.as_u128()), entry)
        };
        Counted {
            pairs: rows.into_iter().map(pair).collect(),
            forgotten_until,
            ..Counted::default()
        }
    }

    /// The number of pairs.
    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }
}

/// Ids are UUIDs; any other text is hashed to one.
fn key(id: &str) -> u128 {
    let uuid = Uuid::parse_str(id);
    uuid.unwrap_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_OID, id.as_bytes()))
        .as_u128()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn up(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn just_after(time: Timestamp) -> Timestamp {
        after(time, Duration::from_micros(1))
    }

    /// Everything has been read.
    const END: Unread = Unread::from(Timestamp::MAX);

    #[test]
    fn a_pair_is_remembered_for_hours_after_it_was_last_seen() {
        let mut counted = Counted::default();
        assert!(counted.insert("r", "s", at(0), up(0)));
        assert!(!counted.insert("r", "s", at(0), up(0)));
        counted.prune(up(5 * 3600), at(5 * 3600), END);
        assert!(counted.contains("r", "s", up(5 * 3600)));
        counted.prune(up(10 * 3600), at(10 * 3600), END);
        assert!(counted.contains("r", "s", up(10 * 3600)));
        counted.prune(up(17 * 3600), at(17 * 3600), END);
        assert!(!counted.contains("r", "s", up(17 * 3600)));
        assert_eq!(counted.forgotten_until(), just_after(at(0)));
    }

    #[test]
    fn memory_is_bounded_and_knows_how_far_back_it_is_complete() {
        let mut counted = Counted {
            most: 100,
            ..Counted::default()
        };
        for number in 0..10_000 {
            counted.insert(&format!("r{number}"), "s", at(number), up(number as u64));
            counted.prune(up(number as u64), at(number), END);
            assert!(counted.len() <= 100);
        }
        assert!(counted.forgotten_until() >= at(9_800), "{counted:?}");
    }

    #[test]
    fn pairs_of_a_period_that_is_still_to_be_read_are_remembered() {
        let mut counted = Counted {
            most: 100,
            ..Counted::default()
        };
        for number in 0..1_000 {
            counted.insert(&format!("r{number}"), "s", at(number), up(0));
        }
        counted.prune(up(0), at(1_000), Unread::from(at(200)));
        assert_eq!(counted.len(), 800);
        assert_eq!(counted.forgotten_until(), just_after(at(199)));
        // Only the next comparison will read the rest again, and there are too many.
        let unread = Unread {
            now: at(600),
            later: at(200),
        };
        counted.prune(up(0), at(1_000), unread);
        assert_eq!(counted.len(), 400);
        counted.most = 1_000;
        let unread = Unread {
            now: at(999),
            later: at(900),
        };
        counted.prune(up(7 * 3600), at(7 * 3600), unread);
        assert_eq!(counted.len(), 100);
        assert_eq!(counted.forgotten_until(), just_after(at(899)));
    }

    #[test]
    fn an_end_in_the_future_does_not_hide_runs_that_end_before_it() {
        let mut counted = Counted::default();
        counted.insert("r", "s", at(1_000_000), up(0));
        counted.prune(up(7 * 3600), at(7 * 3600), END);
        assert_eq!(counted.forgotten_until(), just_after(at(7 * 3600)));
    }

    #[test]
    fn a_restart_keeps_pairs_and_their_age() {
        let mut counted = Counted::default();
        counted.insert("r", "s", at(0), up(100));
        let rows = counted.rows(up(100 + 5 * 3600));
        let mut counted = Counted::restore(rows, Timestamp::MIN);
        counted.prune(up(2 * 3600), at(7 * 3600), END);
        assert!(!counted.contains("r", "s", up(2 * 3600)));
    }
}
