//! How values are written: texts within a length, times to the millisecond.

use std::time::Duration;

use jiff::{Timestamp, Unit};

/// Maximum number of characters in names and errors, which come from Prefect or from a receiver.
const NAME: usize = 120;
const ERROR: usize = 600;

/// A name from Prefect, truncated.
pub(super) fn name(text: impl AsRef<str>) -> String {
    cut(text.as_ref(), NAME)
}

/// An error, truncated.
pub(super) fn error(text: &str) -> String {
    cut(text, ERROR)
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A duration in seconds, to the millisecond.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

/// A time to the millisecond.
pub(super) fn millis(time: Timestamp) -> Timestamp {
    time.round(Unit::Millisecond).unwrap_or(time)
}
