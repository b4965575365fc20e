//! A limit of the rate of requests.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A bucket of tokens, which is refilled at a constant rate. Each request takes one.
pub(super) struct Rate {
    interval: Duration,
    burst: f64,
    tokens: Mutex<(f64, Instant)>,
}

impl Rate {
    /// A token each `interval`, at most `burst` of them.
    pub(super) fn new(interval: Duration, burst: u32) -> Self {
        let burst = f64::from(burst);
        Rate {
            interval,
            burst,
            tokens: Mutex::new((burst, Instant::now())),
        }
    }

    /// Takes a token, if there is one.
    pub(super) fn allows(&self, now: Instant) -> bool {
        let mut state = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, last) = *state;
        let refilled = now.duration_since(last).div_duration_f64(self.interval);
        let tokens = (tokens + refilled).min(self.burst);
        let is_allowed = tokens >= 1.0;
        *state = (if is_allowed { tokens - 1.0 } else { tokens }, now);
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_beyond_the_rate_are_refused() {
        let rate = Rate::new(Duration::from_secs(1), 2);
        let start = Instant::now();
        let allowed = |milliseconds| {
            let now = start + Duration::from_millis(milliseconds);
            (0..4).filter(|_| rate.allows(now)).count()
        };
        assert_eq!(allowed(0), 2);
        assert_eq!(allowed(1_500), 1);
        assert_eq!(allowed(3_600_000), 2);
    }
}
