//! The server's clock, as the `Date` header of its answers tells it.

use std::sync::Mutex;
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use reqwest::header::{DATE, HeaderMap};

use super::lock;

/// `Date` has whole seconds, and an answer takes some time to arrive: below this, the two
/// clocks are taken to agree, and this machine's finer one is used.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(2);

/// The server's clock. Windows and cursors follow it, not this machine's.
#[derive(Debug, Default)]
pub struct Clock {
    /// Server's time minus this machine's.
    offset: Mutex<SignedDuration>,
}

impl Clock {
    /// Now, in the server's time.
    pub fn now(&self) -> Timestamp {
        let local = Timestamp::now();
        local.checked_add(*lock(&self.offset)).unwrap_or(local)
    }

    /// How far the server's clock is ahead of this machine's.
    pub fn offset(&self) -> SignedDuration {
        *lock(&self.offset)
    }

    pub(super) fn observe(&self, headers: &HeaderMap) {
        if let Some(server) = headers
            .get(DATE)
            .and_then(|date| http_date(date.to_str().ok()?))
        {
            self.compare(server, Timestamp::now());
        }
    }

    fn compare(&self, server: Timestamp, local: Timestamp) {
        let offset = server.duration_since(local);
        let agree = offset.abs() <= TOLERANCE;
        *lock(&self.offset) = if agree { SignedDuration::ZERO } else { offset };
    }
}

/// An HTTP date as a timestamp.
pub(super) fn http_date(text: &str) -> Option<Timestamp> {
    let time: SystemTime = httpdate::parse_http_date(text.trim()).ok()?;
    Timestamp::try_from(time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_agree_within_two_seconds_are_one() {
        let (clock, local) = (Clock::default(), Timestamp::now());
        clock.compare(local + SignedDuration::from_millis(-1_400), local);
        assert_eq!(clock.offset(), SignedDuration::ZERO);
        clock.compare(local + SignedDuration::from_secs(3_600), local);
        assert_eq!(clock.offset(), SignedDuration::from_secs(3_600));
        clock.compare(local, local);
        assert_eq!(clock.offset(), SignedDuration::ZERO);
    }
}
