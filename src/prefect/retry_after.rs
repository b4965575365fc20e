//! `Retry-After`: how long a server asks the agent to wait.

use std::time::{Duration, SystemTime};

/// The longest wait that a server can ask for: after that, one request finds out whether it is
/// still needed.
pub(super) const LONGEST: Duration = Duration::from_secs(5 * 60);

/// `Retry-After` is a number of seconds, or a date, which is relative to the server's `Date` (RFC
/// 9110, 10.2.3).
pub(super) fn wait(text: &str, date: Option<&str>) -> Option<Duration> {
    let text = text.trim();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let wait = if is_number {
        // A larger number is as good as any that is too large.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let now = date.and_then(|date| httpdate::parse_http_date(date.trim()).ok());
        let until = httpdate::parse_http_date(text).ok()?;
        let wait = until.duration_since(now.unwrap_or_else(SystemTime::now));
        wait.unwrap_or(Duration::ZERO)
    };
    Some(wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let date = Some("Sat, 21 Nov 2026 10:00:00 GMT");
        let wait = |text| super::wait(text, date);
        assert_eq!(wait("2"), Some(Duration::from_secs(2)));
        assert_eq!(
            wait("Sat, 21 Nov 2026 10:00:30 GMT"),
            Some(Duration::from_secs(30))
        );
        assert_eq!(wait("Sat, 21 Nov 2026 09:00:00 GMT"), Some(Duration::ZERO));
        for garbage in ["soon", "-1", "", " ", "1e9", "+5", "2.5", "0x10", "\u{663}"] {
            assert_eq!(wait(garbage), None, "{garbage:?}");
        }
    }

    #[test]
    fn no_server_silences_the_agent_for_longer_than_five_minutes() {
        let wait = |text| super::wait(text, None);
        for text in [
            "301",
            "1000000000",
            "4294967296",
            "99999999999999999999999999",
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
        ] {
            let wait = wait(text).unwrap();
            assert!(wait <= LONGEST, "{text}: {wait:?}");
        }
        let now = std::time::SystemTime::now();
        let in_an_hour = httpdate::fmt_http_date(now + Duration::from_secs(3_600));
        for text in ["300", "301", &in_an_hour] {
            assert_eq!(wait(text), Some(LONGEST), "{text}");
        }
        assert_eq!(wait("299"), Some(Duration::from_secs(299)));
    }
}
