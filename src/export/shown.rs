//! Keeps track of which state of the counters each exporter has delivered.
//!
//! A counter series is held at its baseline until the baseline has been delivered; otherwise
//! `increase()` would miss its first events. A state is delivered when a push of it is accepted, or
//! when it is scraped. An exporter that is not in use, because the collector is down or nothing
//! scrapes `/metrics`, must not hold up the others, so only exporters in use count.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The latest state that one exporter has delivered.
#[derive(Debug, Clone, Default)]
pub struct Shown(Arc<Mutex<Option<Last>>>);

#[derive(Debug, Clone, Copy)]
struct Last {
    number: u64,
    at: Instant,
}

impl Shown {
    /// Notes that state `number` has been delivered.
    pub fn note(&self, number: u64) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = last.map_or(number, |last| last.number.max(number));
        *last = Some(Last {
            number,
            at: Instant::now(),
        });
    }

    /// How long ago a state was last delivered.
    pub(super) fn since(&self) -> Option<Duration> {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.map(|last| last.at.elapsed())
    }

    /// The latest state delivered, if that was within `window`.
    fn in_use(&self, window: Duration) -> Option<u64> {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|last| last.at.elapsed() <= window)
            .map(|last| last.number)
    }
}

/// The latest state that every exporter in use has delivered; 0 if none is in use. Without any
/// exporter, there is nothing to wait for: [`u64::MAX`].
pub fn by_all<'a>(outlets: impl IntoIterator<Item = &'a Shown>, window: Duration) -> u64 {
    let mut outlets = outlets.into_iter().peekable();
    if outlets.peek().is_none() {
        return u64::MAX;
    }
    let in_use = outlets.filter_map(|outlet| outlet.in_use(window));
    in_use.min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(3600);

    #[test]
    fn every_exporter_in_use_must_have_delivered_a_state() {
        let (push, page) = (Shown::default(), Shown::default());
        assert_eq!(by_all([&push, &page], WINDOW), 0);
        push.note(3);
        assert_eq!(by_all([&push, &page], WINDOW), 3);
        page.note(2);
        assert_eq!(by_all([&push, &page], WINDOW), 2);
        page.note(4);
        page.note(1);
        assert_eq!(by_all([&push, &page], WINDOW), 3);
    }

    #[test]
    fn an_exporter_that_is_not_in_use_does_not_hold_up_the_others() {
        let (push, page) = (Shown::default(), Shown::default());
        page.note(1);
        std::thread::sleep(Duration::from_millis(2));
        push.note(7);
        let at_page = page.0.lock().unwrap().unwrap().at;
        let window = at_page.elapsed() - Duration::from_millis(1);
        assert_eq!(by_all([&push, &page], window), 7);
        assert_eq!(by_all(&[], WINDOW), u64::MAX);
    }
}
