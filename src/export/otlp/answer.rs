//! The answers of a receiver, and how to react to them.
//!
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp-response>

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message as _;
use serde_json::Value as Json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::cause::innermost;
use crate::clip::{LONGEST_MESSAGE, one_line};
use crate::secrets::without_query;
use crate::settings::Protocol;
use crate::tls;

/// The maximum size of an answer, as the specification recommends. A longer one is cut off.
/// <https://opentelemetry.io/docs/specs/otlp/#otlphttp-response>
pub(super) const LARGEST_ANSWER: usize = 4 * 1024 * 1024;

/// The longest wait that a receiver can ask for.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// A receiver's answer to a message that it accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The number of points that it rejected. They must not be sent again.
    pub(super) rejected: u64,
    /// The reason for rejecting them, or a warning.
    pub(super) message: String,
    /// The `Server` header of the answer, if it has one.
    pub(super) server: Option<String>,
}

/// Why a message was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) cause: String,
    /// The setting to check, for the user.
    pub(super) hint: Option<Cow<'static, str>>,
    /// What the agent does about it.
    pub(super) then: Then,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Send it again, with exponential backoff.
    Retry,
    /// Send it again after this time.
    RetryAfter(Duration),
    /// Do not send it again; other messages may be accepted.
    Next,
    /// End the push: other messages would fail as well.
    Stop,
}

impl From<ExportMetricsServiceResponse> for Accepted {
    fn from(response: ExportMetricsServiceResponse) -> Self {
        let partial = response.partial_success.unwrap_or_default();
        Accepted {
            rejected: u64::try_from(partial.rejected_data_points).unwrap_or_default(),
            message: start(partial.error_message.as_bytes()),
            server: None,
        }
    }
}

/// Reads the body of a 2xx answer. An empty body, which Prometheus sends, is a success whatever the
/// content type.
pub(super) fn accepted(content_type: &str, body: &[u8]) -> Result<Accepted, Failure> {
    if body.is_empty() {
        return Ok(Accepted::default());
    }
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let decoded = match media_type.to_ascii_lowercase().as_str() {
        "application/x-protobuf" | "application/protobuf" | "" => {
            ExportMetricsServiceResponse::decode(body)
                .ok()
                .map(Accepted::from)
        }
        // Some receivers answer in the other encoding of the protocol.
        "application/json" => from_json(body),
        _ => None,
    };
    // What is left of an answer that was cut off may be valid by chance.
    let is_whole = body.len() < LARGEST_ANSWER;
    decoded.filter(|_| is_whole).ok_or_else(|| {
        let start = start(body);
        let wrong = match is_whole {
            true => format!("is not OTLP but {media_type:?}"),
            false => "takes 4 MiB or more".to_owned(),
        };
        Failure {
            cause: format!("the answer {wrong}, possibly a login page or another service: {start}"),
            hint: Some(Cow::Borrowed(
                "check OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_HEADERS",
            )),
            then: Then::Stop,
        }
    })
}

fn from_json(body: &[u8]) -> Option<Accepted> {
    let Json::Object(answer) = serde_json::from_slice(body).ok()? else {
        return None;
    };
    let Some(partial) = answer.get("partialSuccess") else {
        return answer.is_empty().then(Accepted::default);
    };
    let rejected = partial.get("rejectedDataPoints").and_then(|number| {
        // In JSON, a 64-bit integer of protobuf is a string.
        let text = number.as_str().and_then(|text| text.parse().ok());
        number.as_u64().or(text)
    });
    let message = partial.get("errorMessage").and_then(Json::as_str);
    Some(Accepted {
        rejected: rejected.unwrap_or_default(),
        message: start(message.unwrap_or_default().as_bytes()),
        server: None,
    })
}

/// An HTTP answer with a status other than 2xx.
pub(super) struct Refusal<'a> {
    pub(super) status: u16,
    pub(super) retry_after: Option<&'a str>,
    /// The target of a redirect.
    pub(super) location: Option<&'a str>,
    pub(super) server: Option<&'a str>,
    pub(super) content_type: &'a str,
    pub(super) body: &'a [u8],
}

/// The failure for an HTTP status other than 2xx.
pub(super) fn refused(refusal: &Refusal<'_>) -> Failure {
    let (status, body) = (refusal.status, refusal.body);
    let detail = match refusal.content_type.starts_with("application/x-protobuf") {
        true => tonic_types::Status::decode(body)
            .map_or_else(|_| String::new(), |status| start(status.message.as_bytes())),
        false => start(body),
    };
    let detail = match refusal.location {
        Some(location) => format!("redirect to {}", start(without_query(location).as_bytes())),
        None => detail,
    };
    let hint = match status {
        _ if refusal.location.is_some() => {
            Some("set OTEL_EXPORTER_OTLP_ENDPOINT to the URL that receives OTLP")
        }
        401 | 403 => Some("check OTEL_EXPORTER_OTLP_HEADERS"),
        404 | 405
            if refusal
                .server
                .is_some_and(|server| server.contains("uvicorn")) =>
        {
            Some(
                "this may be Prefect itself: set OTEL_EXPORTER_OTLP_ENDPOINT to the address of a collector, by default on port 4318",
            )
        }
        404 | 405 => Some(
            "check OTEL_EXPORTER_OTLP_ENDPOINT: a collector receives metrics at the path /v1/metrics",
        ),
        413 => Some("set OTLP_MAX_MESSAGE_BYTES to the receiver's limit"),
        _ => None,
    };
    let by = refusal
        .server
        .map(|server| format!(" of {}", start(server.as_bytes())));
    let then = match status {
        429 | 502 | 503 | 504 => match refusal.retry_after.and_then(wait) {
            Some(wait) => Then::RetryAfter(wait),
            None => Then::Retry,
        },
        400 | 413 | 422 => Then::Next,
        _ => Then::Stop,
    };
    Failure {
        cause: format!("HTTP {status}{}: {detail}", by.unwrap_or_default()),
        hint: hint.map(Cow::Borrowed),
        then,
    }
}

/// `Retry-After`: a number of seconds, or a date (RFC 9110, 10.2.3).
fn wait(text: &str) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<u32>() {
        Ok(seconds) => Duration::from_secs(seconds.into()),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

/// Whether a message may be sent again after an answer with this code.
/// <https://opentelemetry.io/docs/specs/otlp/#failures>
pub(super) fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// The failure for a gRPC status.
/// <https://opentelemetry.io/docs/specs/otlp/#failures>
pub(super) fn status(status: &Status, port: Option<u16>) -> Failure {
    if let Some(source) = status.source() {
        if let Some(failure) = tls_failure(source) {
            return failure;
        }
        let cause = match status.code() {
            // The server closed the stream and gave a reason.
            code if code != Code::Unavailable && code != Code::Unknown => {
                start(status.message().as_bytes())
            }
            _ => innermost(source),
        };
        return no_answer(&cause, Protocol::Grpc, port);
    }
    let asked = status.get_details_retry_info();
    let asked = asked.and_then(|info| info.retry_delay);
    let then = match (status.code(), asked) {
        (Code::ResourceExhausted | Code::Unavailable, Some(wait)) => {
            Then::RetryAfter(wait.min(LONGEST_WAIT))
        }
        (code, _) if is_transient(code) => Then::Retry,
        (Code::InvalidArgument | Code::ResourceExhausted, _) => Then::Next,
        _ => Then::Stop,
    };
    let hint = match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => Some("check OTEL_EXPORTER_OTLP_HEADERS"),
        Code::Unimplemented | Code::Unknown | Code::Internal => Some(
            "check OTEL_EXPORTER_OTLP_ENDPOINT: the default port of a collector for gRPC is 4317",
        ),
        Code::ResourceExhausted => {
            Some("if messages are too large, set OTLP_MAX_MESSAGE_BYTES to the receiver's limit")
        }
        _ => None,
    };
    // The `Debug` format of a code is its name in the specification.
    let (code, message) = (status.code(), start(status.message().as_bytes()));
    Failure {
        cause: format!("gRPC {code:?}: {message}"),
        hint: hint.map(Cow::Borrowed),
        then,
    }
}

const NAMES: tls::Names = tls::Names {
    address: "OTEL_EXPORTER_OTLP_ENDPOINT",
    trusted: "OTEL_EXPORTER_OTLP_CERTIFICATE",
    own: Some("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
};

/// The failure for a request without an answer.
pub(super) fn transport(
    error: &(dyn Error + 'static),
    protocol: Protocol,
    port: Option<u16>,
) -> Failure {
    tls_failure(error).unwrap_or_else(|| no_answer(&innermost(error), protocol, port))
}

fn tls_failure(error: &(dyn Error + 'static)) -> Option<Failure> {
    let problem = tls::problem(error, NAMES)?;
    Some(Failure {
        cause: problem.cause,
        hint: Some(Cow::Owned(problem.hint)),
        then: Then::Stop,
    })
}

fn no_answer(cause: &str, protocol: Protocol, port: Option<u16>) -> Failure {
    let lower = cause.to_ascii_lowercase();
    let says = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    let mixed_up = says(&[
        "http version",
        "unexpected message",
        "frame",
        "protocol error",
        "http2 error",
        "not negotiated",
        "h2",
    ]);
    // A server of the other protocol may close the connection without a reason.
    let is_closed = says(&["canceled", "broken pipe", "reset", "closed", "not ready"]);
    let hint = match protocol {
        Protocol::HttpProtobuf if mixed_up || port == Some(4317) => {
            "this looks like a gRPC port: use the collector's HTTP port (4318 by default), or set OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
        }
        Protocol::Grpc if mixed_up || port == Some(4318) => {
            "this looks like an HTTP port: use the collector's gRPC port (4317 by default), or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
        }
        Protocol::HttpProtobuf if is_closed => {
            "the receiver closed the connection: use the collector's HTTP port (4318 by default), or, if this is a gRPC port, set OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
        }
        Protocol::Grpc if is_closed => {
            "the receiver closed the connection: use the collector's gRPC port (4317 by default), or, if this is an HTTP port, set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
        }
        _ if says(&["refused"]) => {
            "nothing listens there: is the collector running, and is OTEL_EXPORTER_OTLP_ENDPOINT correct? In a container, localhost is the container itself"
        }
        _ if says(&["lookup", "resolve"]) => {
            "the host name of OTEL_EXPORTER_OTLP_ENDPOINT cannot be resolved"
        }
        _ => "check OTEL_EXPORTER_OTLP_ENDPOINT",
    };
    Failure {
        cause: format!("no answer: {cause}"),
        hint: Some(Cow::Borrowed(hint)),
        then: Then::Retry,
    }
}

/// The start of `text`, on one line.
fn start(text: &[u8]) -> String {
    one_line(text.get(..LONGEST_MESSAGE).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsPartialSuccess;

    use super::*;

    #[test]
    fn an_answer_that_is_not_otlp_is_a_failure() {
        for (content_type, body) in [
            ("text/html; charset=utf-8", "<html>Log in</html>"),
            ("application/x-protobuf", "<html>Log in</html>"),
            ("application/json", "{\"error\": \"who are you?\"}"),
            ("text/plain", "OK"),
        ] {
            let failure = accepted(content_type, body.as_bytes()).unwrap_err();
            let text = failure.to_string();
            assert!(text.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{text}");
            assert_eq!(failure.then, Then::Stop);
        }
        for content_type in ["", "text/plain", "application/x-protobuf"] {
            assert_eq!(accepted(content_type, b""), Ok(Accepted::default()));
        }
        assert_eq!(accepted("application/json", b"{}"), Ok(Accepted::default()));
    }

    #[test]
    fn rejected_points_are_read_in_both_encodings() {
        let partial = Accepted {
            rejected: 7,
            message: "too old".to_owned(),
            server: None,
        };
        let response = ExportMetricsServiceResponse {
            partial_success: Some(ExportMetricsPartialSuccess {
                rejected_data_points: 7,
                error_message: "too old".to_owned(),
            }),
        };
        let body = response.encode_to_vec();
        assert_eq!(
            accepted("application/x-protobuf", &body),
            Ok(partial.clone())
        );
        let body = br#"{"partialSuccess":{"rejectedDataPoints":"7","errorMessage":"too old"}}"#;
        assert_eq!(accepted("application/json", body), Ok(partial));
    }

    #[test]
    fn a_receivers_text_becomes_one_short_line() {
        let response = ExportMetricsServiceResponse {
            partial_success: Some(ExportMetricsPartialSuccess {
                rejected_data_points: -7,
                error_message: format!("\u{1b}[31mtoo\nold{}", "!".repeat(3_000_000)),
            }),
        };
        let accepted = Accepted::from(response);
        assert_eq!(accepted.rejected, 0);
        assert!(accepted.message.len() <= 300);
        assert!(accepted.message.starts_with("[31mtoo old!"), "{accepted:?}");
    }

    #[test]
    fn a_refusal_becomes_one_short_line_in_every_encoding() {
        let text = format!("\u{1b}[31mtoo\nold{}", "!".repeat(3_000_000));
        let status = tonic_types::Status {
            code: 3,
            message: text.clone(),
            details: Vec::new(),
        };
        let encoded = status.encode_to_vec();
        for (content_type, body) in [
            ("text/plain", text.as_bytes()),
            ("application/x-protobuf", encoded.as_slice()),
        ] {
            for location in [None, Some(text.as_str())] {
                let refusal = Refusal {
                    status: 400,
                    retry_after: None,
                    location,
                    server: Some(&text),
                    content_type,
                    body,
                };
                let said = refused(&refusal).to_string();
                assert!(said.contains("[31mtoo old!"), "{said}");
                assert!(said.len() < 1_000 && !said.contains(char::is_control));
            }
        }
    }

    #[test]
    fn a_connection_that_the_receiver_closes_may_be_to_a_port_of_the_other_protocol() {
        for cause in [
            "operation was canceled",
            "stream closed because of a broken pipe",
            "Connection reset by peer (os error 104)",
            "connection was not ready",
        ] {
            for (protocol, other) in [
                (Protocol::Grpc, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"),
                (Protocol::HttpProtobuf, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"),
            ] {
                let hint = no_answer(cause, protocol, None).hint.unwrap();
                assert!(hint.contains(other), "{cause}: {hint}");
            }
        }
    }

    #[test]
    fn only_transient_failures_are_retried() {
        let then = |status, retry_after| {
            let refusal = Refusal {
                status,
                retry_after,
                location: None,
                server: None,
                content_type: "",
                body: b"no",
            };
            refused(&refusal).then
        };
        let in_a_minute = SystemTime::now() + Duration::from_secs(60);
        let date = httpdate::fmt_http_date(in_a_minute);
        assert_eq!(
            then(429, Some("7")),
            Then::RetryAfter(Duration::from_secs(7))
        );
        assert!(matches!(then(503, Some(&date)), Then::RetryAfter(wait) if wait.as_secs() > 50));
        assert_eq!(then(502, None), Then::Retry);
        assert_eq!(then(504, Some("soon")), Then::Retry);
        assert_eq!(then(400, Some("7")), Then::Next);
        assert_eq!(then(500, None), Then::Stop);
        let then = |code| status(&Status::new(code, "no"), None).then;
        assert_eq!(then(Code::Unavailable), Then::Retry);
        assert_eq!(then(Code::DataLoss), Then::Retry);
        assert_eq!(then(Code::ResourceExhausted), Then::Next);
        assert_eq!(then(Code::Unauthenticated), Then::Stop);
        let wait = Some(Duration::from_secs(3));
        let details = tonic_types::ErrorDetails::with_retry_info(wait);
        let throttled = Status::with_error_details(Code::ResourceExhausted, "no", details);
        assert_eq!(
            status(&throttled, None).then,
            Then::RetryAfter(Duration::from_secs(3))
        );
    }
}
