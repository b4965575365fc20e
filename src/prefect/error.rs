//! Errors of requests, and what the user can do about them.

use std::borrow::Cow;
use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use reqwest::header::{LOCATION, RETRY_AFTER};
use reqwest::{Response, Url};

use super::body::{excerpt, start};
use super::retry_after;
use crate::cause::innermost;
use crate::clip::{LONGEST_MESSAGE, message};
use crate::proxy;
use crate::secrets::{Secrets, without_query};
use crate::tls;

/// Why a request to Prefect failed. The text contains the request and a hint.
#[derive(Debug, Clone)]
pub enum Error {
    /// No answer.
    Transport {
        /// Method and URL.
        request: String,
        /// `timeout`, `connect` or `transport`.
        kind: &'static str,
        /// The innermost cause.
        reason: String,
        /// What the user can do about it.
        hint: Option<Cow<'static, str>>,
    },
    /// An answer other than 200.
    Status {
        /// Method and URL.
        request: String,
        /// The status.
        status: u16,
        /// The start of the body, or the target of a redirect.
        detail: String,
        /// The wait in `Retry-After`.
        retry_after: Option<Duration>,
        /// Whether the server reports that it is in maintenance.
        maintenance: bool,
    },
    /// An answer that the API would not return.
    Body {
        /// Method and URL.
        request: String,
        /// What is wrong with it.
        reason: String,
        /// What the user can do about it.
        hint: Option<&'static str>,
    },
    /// An answer that exceeds the size limit.
    TooLarge {
        /// Method and URL.
        request: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The deadline of the cycle was reached.
    Deadline(Duration),
    /// A version of Prefect that is not supported.
    Unsupported {
        /// The version.
        version: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem())?;
        match self.hint() {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

const NAMES: tls::Names = tls::Names {
    address: "PREFECT_API_URL",
    trusted: "PREFECT_API_SSL_CERT_FILE",
    own: Some("PREFECT_API_CLIENT_CERTIFICATE"),
};

/// The hint for a request without an answer.
fn transport_hint(error: &reqwest::Error, cause: &str) -> Option<Cow<'static, str>> {
    let says = |text| {
        std::iter::successors(error.source(), |cause| (*cause).source())
            .any(|cause| cause.to_string().contains(text))
    };
    Some(Cow::Borrowed(match () {
        () if error.is_timeout() => "REQUEST_TIMEOUT_SECONDS sets the timeout",
        () if says("dns error") => "the host name of PREFECT_API_URL cannot be resolved",
        () if cause.contains("refused") => {
            "nothing listens there: is Prefect running, and is PREFECT_API_URL correct? In a container, localhost is the container itself"
        }
        () if error.is_connect() => "is Prefect running, and is PREFECT_API_URL correct?",
        () if says("connection closed") => {
            "if the server uses TLS, PREFECT_API_URL must start with https://"
        }
        () => return None,
    }))
}

fn status_hint(status: u16, detail: &str, maintenance: bool) -> Option<&'static str> {
    Some(match status {
        503 if maintenance => "Prefect is in maintenance",
        401 | 403 => "check PREFECT_API_KEY or PREFECT_API_AUTH_STRING",
        407 => {
            "the proxy requires credentials: add them to the URL in HTTP_PROXY, or add Prefect's host to NO_PROXY"
        }
        404 | 405 => "PREFECT_API_URL must be the URL of the API, for a server ending in /api",
        300..=399 => {
            "set PREFECT_API_URL to the target of the redirect; if that is a login page, configure the proxy in front of Prefect to let the agent through"
        }
        400 if detail.contains("HTTPS") => "PREFECT_API_URL must start with https://",
        _ => return None,
    })
}

impl Error {
    /// No answer to `request`, which was sent to `url`.
    pub(super) fn transport(request: &str, url: &Url, error: &reqwest::Error) -> Self {
        let kind = match () {
            () if error.is_timeout() => "timeout",
            () if error.is_connect() => "connect",
            () => "transport",
        };
        let tls = tls::problem(error, NAMES);
        let (reason, hint) = match tls {
            Some(problem) => (problem.cause, Some(Cow::Owned(problem.hint))),
            None => {
                let cause = innermost(error);
                // A proxy that cannot be reached says nothing about Prefect.
                match proxy::of(url).filter(|_| error.is_connect()) {
                    Some(proxy) => (
                        format!("cannot connect through the proxy {proxy}: {cause}"),
                        Some(Cow::Borrowed(proxy::HINT)),
                    ),
                    None => {
                        let hint = transport_hint(error, &cause);
                        (cause, hint)
                    }
                }
            }
        };
        Error::Transport {
            request: request.to_owned(),
            kind,
            reason,
            hint,
        }
    }

    /// An answer other than 200. `secrets` are masked, since a server may repeat them.
    pub(super) async fn status(request: &str, response: Response, secrets: &Secrets) -> Self {
        let header = |name| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let status = response.status().as_u16();
        // Both are defined only for these two.
        let throttled = matches!(status, 429 | 503);
        let retry_after = header(RETRY_AFTER.as_str())
            .filter(|_| throttled)
            .and_then(|text| retry_after::wait(text, header("date")));
        let maintenance = throttled
            && header("prefect-maintenance")
                .is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let redirect = header(LOCATION.as_str()).filter(|_| response.status().is_redirection());
        let redirect = redirect.map(|location| {
            // The query may contain a token, and the page that was requested.
            let target = secrets.hidden(without_query(location));
            format!("redirect to {}", message(&target, LONGEST_MESSAGE))
        });
        let detail = match redirect {
            Some(redirect) => redirect,
            None => excerpt(response, secrets).await,
        };
        Error::Status {
            request: request.to_owned(),
            status,
            detail,
            retry_after,
            maintenance,
        }
    }

    /// A body that cannot be decoded. `secrets` are masked, since a server may repeat them.
    pub(super) fn body(
        request: &str,
        body: &[u8],
        error: &serde_json::Error,
        secrets: &Secrets,
    ) -> Self {
        let start = start(body, 60, secrets);
        // It quotes the value.
        let said = secrets.hidden(&message(&error.to_string(), 16 * LONGEST_MESSAGE));
        let said = message(&said, LONGEST_MESSAGE);
        let mut hint = None;
        let reason = match error.classify() {
            _ if start.starts_with('<') => {
                hint = Some("does PREFECT_API_URL end in /api? Does a proxy require a login?");
                format!("a web page, not the API; it starts with {start:?}")
            }
            serde_json::error::Category::Data => said.into_owned(),
            _ => format!("it is not JSON ({said}); it starts with {start:?}"),
        };
        Error::Body {
            request: request.to_owned(),
            reason,
            hint,
        }
    }

    pub(super) fn unusable(request: &str, reason: &str) -> Self {
        Error::Body {
            request: request.to_owned(),
            reason: reason.to_owned(),
            hint: None,
        }
    }

    /// The problem, without the hint.
    pub fn problem(&self) -> String {
        match self {
            Error::Transport {
                request, reason, ..
            } => format!("{request}: {reason}"),
            Error::Status {
                request,
                status,
                detail,
                ..
            } => match detail.is_empty() {
                true => format!("{request}: status {status}"),
                false => format!("{request}: status {status}: {detail}"),
            },
            Error::Body {
                request, reason, ..
            } => format!("{request}: unexpected answer: {reason}"),
            Error::TooLarge { request, limit } => {
                format!("{request}: the answer is larger than {limit} bytes")
            }
            Error::Deadline(time) => format!("not done within {} s", time.as_secs()),
            Error::Unsupported { version } => format!("this is Prefect {version}"),
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Error::Transport { hint, .. } => hint.clone(),
            Error::Status {
                status,
                detail,
                maintenance,
                ..
            } => status_hint(*status, detail, *maintenance).map(Cow::Borrowed),
            Error::Body { hint, .. } => hint.map(Cow::Borrowed),
            Error::TooLarge { .. } => Some(Cow::Borrowed("lower PAGINATION_LIMIT")),
            Error::Deadline(_) => Some(Cow::Borrowed(
                "Prefect is too slow, or MAX_CONCURRENT_REQUESTS is too low",
            )),
            Error::Unsupported { .. } => Some(Cow::Borrowed(
                "the agent needs Prefect 3.0.4 or newer, or Prefect Cloud",
            )),
        }
    }

    /// `error.type` of the semantic conventions: the status, or a short word.
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

    /// Whether a retry can help.
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

    /// Whether the answer does not come from Prefect, so that no other answer from this URL would.
    pub fn is_not_prefect(&self) -> bool {
        match self {
            Error::Status { status, .. } => matches!(status, 300..=399 | 404 | 405),
            Error::Body { .. } => true,
            _ => false,
        }
    }

    /// Whether the API does not have what was requested.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Error::Status {
                status: 404 | 405,
                ..
            }
        )
    }

    /// Whether the API refuses the request itself (422), because it is too old to support a filter.
    pub fn is_refused(&self) -> bool {
        matches!(self, Error::Status { status: 422, .. })
    }

    /// Whether a smaller page may be answered.
    pub fn asks_for_less(&self) -> bool {
        self.is_timeout() || matches!(self, Error::TooLarge { .. })
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

    /// The maximum page size of the server, if it refused a larger one: 422 `Invalid limit: must be
    /// less than or equal to 200.`
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

    /// How long the server asks the agent to wait before the next request.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the server refuses the credentials, rather than what they may do.
    pub(super) fn refuses_credentials(&self) -> bool {
        matches!(self, Error::Status { status: 401, .. })
    }

    /// Prefect answers 403 `Missing CSRF token.` or `Invalid CSRF token …`.
    pub(super) fn asks_for_csrf(&self) -> bool {
        matches!(self, Error::Status { status: 403, detail, .. } if detail.contains("CSRF"))
    }
}
