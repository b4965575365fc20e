//! Two clocks: the local one, passed in as a [`Moment`], and the server's, which is estimated.
//!
//! Windows and cursors follow the server's time. A single answer can be wrong by any amount (from a
//! proxy, a replica or a cache), so the estimate is the median of the latest answers, or the local
//! clock if enough of them agree with it.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A moment by the local clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Time since the process started, which is monotonic.
    pub uptime: Duration,
    /// The wall clock.
    pub wall: Timestamp,
}

/// `Date` has whole seconds, and an answer takes some time to arrive. Below this difference, the
/// clocks are considered equal, and the local clock, which has fractions of a second, is used.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(2);

/// The number of answers that the estimate is made from: a jump is accepted once most of them
/// agree.
const MEDIAN_OF: usize = 15;

/// The number of answers that the earliest plausible time is taken from.
const REMEMBERED: usize = 64;

/// An answer that differs by more is ignored.
const PLAUSIBLE: SignedDuration = SignedDuration::from_hours(2);

/// After this many answers without a usable `Date`, the local clock is used.
const UNDATED: u32 = 3;

/// The server's clock.
#[derive(Debug, Default)]
pub struct ServerClock {
    /// The server's time minus the uptime, the latest last.
    offsets: VecDeque<SignedDuration>,
    undated: u32,
}

impl ServerClock {
    /// Takes the `Date` of a successful answer into account, or notes that it has none.
    pub fn observe(&mut self, moment: Moment, date: Option<Timestamp>) {
        let Some(date) = date else {
            self.undated = self.undated.saturating_add(1);
            return;
        };
        self.offsets.push_back(offset(date, moment));
        if self.offsets.len() > REMEMBERED {
            self.offsets.pop_front();
        }
    }

    /// The server's time; `None` until it is known.
    pub fn now(&self, moment: Moment) -> Option<Timestamp> {
        let estimate = self.estimate(moment)?;
        Some(at(estimate, moment))
    }

    /// The earliest time that the server's clock may show, according to the latest plausible
    /// answers.
    pub fn earliest(&self, moment: Moment) -> Option<Timestamp> {
        let estimate = self.estimate(moment)?;
        let plausible = |offset: &SignedDuration| apart(*offset, estimate) <= PLAUSIBLE;
        let all = self.offsets.iter().copied().filter(plausible);
        let earliest = all.min().unwrap_or(estimate);
        // `Date` is truncated to whole seconds, so it is up to one second early.
        let agrees = apart(earliest, estimate) <= TOLERANCE;
        Some(at(if agrees { estimate } else { earliest }, moment))
    }

    fn estimate(&self, moment: Moment) -> Option<SignedDuration> {
        let own = offset(moment.wall, moment);
        let agrees = |offset: &SignedDuration| apart(*offset, own) <= TOLERANCE;
        let latest = self.offsets.iter().rev().take(MEDIAN_OF);
        let mut latest: Vec<_> = latest.copied().collect();
        if latest.len() < 3 {
            // Too few answers to recognize a wrong one, unless one agrees with the local clock.
            let trusted = latest.iter().any(agrees);
            let no_dates = latest.is_empty() && self.undated >= UNDATED;
            return (trusted || no_dates).then_some(own);
        }
        // If two servers have different clocks, the one that agrees with the local clock wins.
        let agreeing = latest.iter().filter(|offset| agrees(offset)).count();
        if agreeing >= latest.len().div_ceil(3) {
            return Some(own);
        }
        latest.sort_unstable();
        latest.get(latest.len() / 2).copied()
    }
}

fn apart(one: SignedDuration, other: SignedDuration) -> SignedDuration {
    one.saturating_sub(other).abs()
}

fn offset(time: Timestamp, moment: Moment) -> SignedDuration {
    let uptime = SignedDuration::try_from(moment.uptime).unwrap_or(SignedDuration::MAX);
    time.as_duration().saturating_sub(uptime)
}

fn at(offset: SignedDuration, moment: Moment) -> Timestamp {
    let uptime = SignedDuration::try_from(moment.uptime).unwrap_or(SignedDuration::MAX);
    Timestamp::from_duration(offset.saturating_add(uptime)).unwrap_or(moment.wall)
}

/// The time `duration` before `time`.
pub fn before(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_sub(duration).unwrap_or(Timestamp::MIN)
}

/// The time `duration` after `time`.
pub fn after(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn moment(seconds: u64) -> Moment {
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        Moment {
            uptime: Duration::from_secs(seconds),
            wall: after(start, Duration::from_secs(seconds)),
        }
    }

    /// How far the estimate is ahead of the wall clock after answers that are this far ahead.
    fn ahead(answers: &[SignedDuration]) -> Option<SignedDuration> {
        let mut clock = ServerClock::default();
        for ahead in answers {
            clock.observe(moment(5), Some(moment(5).wall + *ahead));
        }
        let now = clock.now(moment(60))?;
        Some(now.duration_since(moment(60).wall))
    }

    #[test]
    fn clocks_that_agree_within_two_seconds_are_considered_equal() {
        let zero = Some(SignedDuration::ZERO);
        assert_eq!(ahead(&[SignedDuration::from_millis(-1_400)]), zero);
        assert_eq!(ahead(&[HOUR; 3]), Some(HOUR));
    }

    #[test]
    fn one_wrong_answer_is_ignored_even_if_it_is_the_first() {
        let zero = SignedDuration::ZERO;
        assert_eq!(ahead(&[HOUR]), None);
        assert_eq!(ahead(&[HOUR, zero]), Some(zero));
        assert_eq!(ahead(&[-HOUR, zero]), Some(zero));
        assert_eq!(ahead(&[HOUR, zero, zero]), Some(zero));
        assert_eq!(ahead(&[&[zero; 9][..], &[HOUR]].concat()), Some(zero));
    }

    #[test]
    fn a_jump_is_accepted_once_most_answers_agree() {
        let jump = [&[SignedDuration::ZERO; 64][..], &[-HOUR; 10]].concat();
        assert_eq!(ahead(&jump), Some(SignedDuration::ZERO));
        let jump = [&jump[..], &[-HOUR]].concat();
        assert_eq!(ahead(&jump), Some(-HOUR));
    }

    #[test]
    fn of_two_servers_the_one_that_agrees_with_the_local_clock_wins() {
        let alternating = [HOUR, HOUR, SignedDuration::ZERO].repeat(9);
        assert_eq!(ahead(&alternating), Some(SignedDuration::ZERO));
    }

    #[test]
    fn the_earliest_time_includes_a_jump_back_from_its_first_answer() {
        let mut clock = ServerClock::default();
        for ahead in [SignedDuration::ZERO, SignedDuration::ZERO, -HOUR] {
            clock.observe(moment(5), Some(moment(5).wall + ahead));
        }
        let earliest = clock.earliest(moment(9)).unwrap();
        assert_eq!(earliest, moment(9).wall - HOUR);
    }

    #[test]
    fn without_any_date_the_local_clock_is_used() {
        let mut clock = ServerClock::default();
        for _ in 0..UNDATED {
            assert_eq!(clock.now(moment(1)), None);
            clock.observe(moment(1), None);
        }
        assert_eq!(clock.now(moment(9)), Some(moment(9).wall));
    }
}
