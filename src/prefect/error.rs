//! What can go wrong with a request, and what a person can do about it.

use std::borrow::Cow;
use std::time::Duration;

use reqwest::Response;
use reqwest::header::{LOCATION, RETRY_AFTER};

use super::body::{excerpt, printable};
use super::http_date;

/// Why a request to Prefect failed. Its text names the request and what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No answer.
    #[error("{request}: {reason}{}", transport_hint(kind))]
    Transport {
        /// Method and URL.
        request: String,
        /// `timeout`, `connect` or `transport`.
        kind: &'static str,
        /// The HTTP client's error.
        reason: String,
    },
    /// An answer other than 200.
    #[error("{request}: status {status}{}{detail}{}", if detail.is_empty() { "" } else { ": " }, status_hint(*status, *maintenance))]
    Status {
        /// Method and URL.
        request: String,
        /// The status.
        status: u16,
        /// The start of the body, or where a redirect leads.
        detail: String,
        /// The wait in `Retry-After`.
        retry_after: Option<Duration>,
        /// Whether the server reports that it is in maintenance.
        maintenance: bool,
    },
    /// An answer that is not what the API gives.
    #[error("{request}: unexpected answer: {reason}")]
    Body {
        /// Method and URL.
        request: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An answer beyond the bound.
    #[error("{request}: the answer has more than {limit} bytes; lower PAGINATION_LIMIT")]
    TooLarge {
        /// Method and URL.
        request: String,
        /// The bound in bytes.
        limit: usize,
    },
    /// The cycle's time was over.
    #[error("not done within {} s; Prefect is too slow, or MAX_CONCURRENT_REQUESTS too low", .0.as_secs())]
    Deadline(Duration),
    /// A version of Prefect that lacks what is needed.
    #[error("this is Prefect {version}; the agent needs Prefect 3.0.4 or newer, or Prefect Cloud")]
    Unsupported {
        /// The version.
        version: String,
    },
}

fn transport_hint(kind: &str) -> &'static str {
    match kind {
        "connect" => " (is Prefect running, and PREFECT_API_URL right?)",
        "timeout" => " (REQUEST_TIMEOUT_SECONDS sets the time-out)",
        _ => "",
    }
}

fn status_hint(status: u16, maintenance: bool) -> &'static str {
    match status {
        503 if maintenance => " (Prefect is in maintenance)",
        401 | 403 => " (check PREFECT_API_KEY or PREFECT_API_AUTH_STRING)",
        404 | 405 => " (PREFECT_API_URL must name the API, for a server ending in /api)",
        300..=399 => " (set PREFECT_API_URL to where the redirect leads)",
        _ => "",
    }
}

impl Error {
    pub(super) fn transport(request: &str, error: &reqwest::Error) -> Self {
        let kind = match () {
            () if error.is_timeout() => "timeout",
            () if error.is_connect() => "connect",
            () => "transport",
        };
        // The innermost cause is the most specific one; reqwest's own text repeats the URL.
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Error::Transport {
            request: request.to_owned(),
            kind,
            reason: cause.to_string(),
        }
    }

    pub(super) async fn status(request: &str, response: Response) -> Self {
        let header = |name| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let status = response.status().as_u16();
        // Both are defined for these two only.
        let throttled = matches!(status, 429 | 503);
        let retry_after = header(RETRY_AFTER.as_str())
            .filter(|_| throttled)
            .and_then(|text| seconds_or_date(text, header("date")));
        let maintenance = throttled
            && header("prefect-maintenance")
                .is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let redirect = header(LOCATION.as_str()).filter(|_| response.status().is_redirection());
        let redirect = redirect.map(|location| format!("redirect to {location}"));
        let detail = match redirect {
            Some(redirect) => redirect,
            None => excerpt(response).await,
        };
        Error::Status {
            request: request.to_owned(),
            status,
            detail,
            retry_after,
            maintenance,
        }
    }

    pub(super) fn body(request: &str, body: &[u8], error: &serde_json::Error) -> Self {
        let start = printable(&body[..body.len().min(60)]);
        let reason = match error.classify() {
            _ if start.starts_with('<') => format!(
                "a web page, not the API; it starts with {start:?} (does PREFECT_API_URL end in /api? does a proxy ask to log in?)"
            ),
            serde_json::error::Category::Data => format!("{error}"),
            _ => format!("not JSON ({error}); it starts with {start:?}"),
        };
        Error::Body {
            request: request.to_owned(),
            reason,
        }
    }

    pub(super) fn unusable(request: &str, reason: &str) -> Self {
        Error::Body {
            request: request.to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// `error.type` of the OpenTelemetry conventions: the status, or a short word.
    pub fn kind(&self) -> Cow<'static, str> {
        match self {
            Error::Transport { kind, .. } => Cow::Borrowed(kind),
            Error::Status { status, .. } => Cow::Owned(status.to_string()),
            Error::Body { .. } => Cow::Borrowed("unexpected_body"),
            Error::TooLarge { .. } => Cow::Borrowed("body_too_large"),
            Error::Deadline(_) => Cow::Borrowed("deadline"),
            Error::Unsupported { .. } => Cow::Borrowed("unsupported_version"),
        }
    }

    /// Whether trying again can help.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Transport { .. } => true,
            Error::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            Error::Body { .. }
            | Error::TooLarge { .. }
            | Error::Deadline(_)
            | Error::Unsupported { .. } => false,
        }
    }

    /// Whether any other request would fail in the same way: there is no answer, or every request
    /// is refused.
    pub fn concerns_whole_server(&self) -> bool {
        match self {
            Error::Transport { .. } | Error::Deadline(_) => true,
            Error::Status { status, .. } => matches!(status, 401 | 429 | 503 | 300..=399),
            Error::Unsupported { .. } => true,
            Error::Body { .. } | Error::TooLarge { .. } => false,
        }
    }

    /// Whether the answer is not one that Prefect gives: nothing else at this URL will be.
    pub fn is_not_prefect(&self) -> bool {
        match self {
            Error::Status { status, .. } => matches!(status, 300..=399 | 404 | 405),
            Error::Body { .. } => true,
            _ => false,
        }
    }

    /// Whether the API does not have what was asked for.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Error::Status {
                status: 404 | 405,
                ..
            }
        )
    }

    /// Whether the API refuses the question itself (422): it is too old to know a filter.
    pub fn is_refused(&self) -> bool {
        matches!(self, Error::Status { status: 422, .. })
    }

    /// Whether the server did not answer in time.
    pub fn is_timeout(&self) -> bool {
        match self {
            Error::Transport { kind, .. } => *kind == "timeout",
            Error::Deadline(_) => true,
            Error::Status { status, .. } => matches!(status, 408 | 504),
            _ => false,
        }
    }

    /// The largest page that the server allows, where it refused a larger one: 422 `Invalid
    /// limit: must be less than or equal to 200.`
    pub fn page_limit(&self) -> Option<usize> {
        let Error::Status {
            status: 422,
            detail,
            ..
        } = self
        else {
            return None;
        };
        let (_, limit) = detail.split_once("less than or equal to ")?;
        let digits = limit.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok().filter(|limit| *limit > 0)
    }

    /// How long the server asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Prefect answers 403 `Missing CSRF token.` or `Invalid CSRF token …`.
    pub(super) fn asks_for_csrf(&self) -> bool {
        matches!(self, Error::Status { status: 403, detail, .. } if detail.contains("CSRF"))
    }
}

/// `Retry-After` is a number of seconds or a date, which the server's own `Date` is the base
/// of (RFC 9110, 10.2.3).
fn seconds_or_date(text: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let base = date
        .and_then(http_date)
        .unwrap_or_else(jiff::Timestamp::now);
    let wait = http_date(text)?.duration_since(base);
    Some(Duration::try_from(wait).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let date = Some("Sat, 21 Nov 2026 10:00:00 GMT");
        let wait = |text| seconds_or_date(text, date);
        assert_eq!(wait("2"), Some(Duration::from_secs(2)));
        assert_eq!(
            wait("Sat, 21 Nov 2026 10:00:30 GMT"),
            Some(Duration::from_secs(30))
        );
        assert_eq!(wait("Sat, 21 Nov 2026 09:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
        assert_eq!(wait("-1"), None);
    }
}
