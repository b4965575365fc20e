//! A failure that lasts.

use jiff::Timestamp;

/// What has failed since the last success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When it first failed.
    pub since: Timestamp,
    /// Why it last failed.
    pub reason: String,
}

impl Failure {
    /// Notes a failure in `last`, the one since the last success. Returns the reason noted before.
    pub fn note(last: &mut Option<Failure>, reason: String) -> Option<String> {
        match last {
            Some(failure) => Some(std::mem::replace(&mut failure.reason, reason)),
            None => {
                let since = Timestamp::now();
                *last = Some(Failure { since, reason });
                None
            }
        }
    }
}
