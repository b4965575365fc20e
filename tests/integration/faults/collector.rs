//! Rows: what a collector, or what answers in its place, can do.

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::front::Content::{Made, Text};
use crate::support::front::{On, Play};
use crate::support::otlp::Answer;

use super::prefect::gzip_bomb;
use super::row::{Effect, Row, Strike};

const PROTOBUF: &[(&str, &str)] = &[("content-type", "application/x-protobuf")];

const fn http(
    name: &'static str,
    fault: &'static str,
    faults: &'static [(On, Play)],
    says: &'static str,
) -> Row {
    Row::new(name, fault, Strike::Http(faults), Effect::Unpushed(says))
}

const fn muted(
    name: &'static str,
    fault: &'static str,
    faults: &'static [(On, Play)],
    says: &'static str,
) -> Row {
    Row::new(name, fault, Strike::Http(faults), Effect::Muted(says))
}

const fn grpc(
    name: &'static str,
    fault: &'static str,
    faults: &'static [(On, Play)],
    says: &'static str,
) -> Row {
    Row::new(name, fault, Strike::Grpc(faults), Effect::Unpushed(says))
}

const fn answer(
    name: &'static str,
    fault: &'static str,
    answer: fn() -> Answer,
    effect: Effect,
) -> Row {
    Row::new(name, fault, Strike::GrpcAnswer(answer), effect)
}

macro_rules! status {
    ($code:literal) => {
        http(
            concat!("collector_answers_", $code),
            concat!("the collector answers every push with status ", $code),
            &[(
                On::All,
                Play::Answer($code, &[("content-type", "text/plain")], Text("no")),
            )],
            concat!("HTTP ", $code),
        )
    };
}

/// Six megabytes of text.
fn long_text() -> Vec<u8> {
    b"no ".repeat(2_000_000)
}

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 100\r\n\r\n";
const LATE: &str = "OTEL_EXPORTER_OTLP_TIMEOUT";

#[rustfmt::skip]
pub(super) const HTTP: &[Row] = &[
    status!(300), status!(304), status!(400), status!(401), status!(403),
    status!(404), status!(405), status!(408), status!(413), status!(415), status!(422),
    status!(429), status!(499), status!(500), status!(501), status!(502), status!(503),
    status!(504), status!(511), status!(599),
    http("collector_redirects", "the collector redirects to a login page",
        &[(On::All, Play::Answer(302, &[("location", "https://login.example/")], Text("")))], "redirect to https://login.example/"),
    http("collector_redirects_permanently", "the collector redirects with status 308",
        &[(On::All, Play::Answer(308, &[("location", "https://other.example/")], Text("")))], "redirect to https://other.example/"),
    http("collector_is_silent", "the collector accepts connections and never answers",
        &[(On::All, Play::Hang(Text("")))], LATE),
    http("collector_hangs_within_the_body", "its answer stops halfway",
        &[(On::All, Play::Hang(Text(HEAD)))], LATE),
    http("collector_sends_a_byte_a_second", "its answer arrives a byte a second",
        &[(On::All, Play::Drip(Text(HEAD)))], LATE),
    http("collector_refuses_connections", "nothing listens",
        &[(On::All, Play::Refuse)], "nothing listens there"),
    http("collector_closes_connections", "connections are closed without an answer",
        &[(On::All, Play::Raw(Text("")))], "no answer"),
    http("collector_resets_connections", "connections are reset",
        &[(On::All, Play::Reset(Text("")))], "no answer"),
    http("collector_resets_within_the_body", "connections are reset within an answer",
        &[(On::All, Play::Reset(Text(HEAD)))], "no answer"),
    http("collector_half_closes", "the collector ends its direction and keeps reading",
        &[(On::All, Play::HalfClose)], "no answer"),
    http("collector_cuts_its_answer", "its answer is shorter than its Content-Length",
        &[(On::All, Play::Raw(Text(HEAD)))], "no answer"),
    http("collector_is_not_http", "another protocol answers",
        &[(On::All, Play::Raw(Text("220 mail.example ESMTP\r\n")))], "no answer"),
    http("collector_is_grpc", "the port is one for gRPC",
        &[(On::All, Play::Raw(Text("\u{0}\u{0}\u{0}\u{4}\u{0}\u{0}\u{0}\u{0}\u{0}")))], "no answer"),
    http("collector_is_a_login_page", "every answer is a web page with status 200",
        &[(On::All, Play::Answer(200, &[("content-type", "text/html")], Text("<html>Log in</html>")))], "login page"),
    http("collector_sends_wrong_protobuf", "its answer is not protobuf",
        &[(On::All, Play::Answer(200, PROTOBUF, Text("not protobuf")))], "not OTLP"),
    http("collector_sends_endless_varints", "its answer is a number without an end",
        &[(On::All, Play::Answer(200, PROTOBUF, Made(|| vec![0xff; 4_096])))], "not OTLP"),
    http("collector_sends_errors_of_5_mb", "its errors take 5 MB",
        &[(On::All, Play::Answer(500, &[("content-type", "text/plain")], Made(long_text)))], "HTTP 500"),
    http("collector_sends_answers_of_5_mb", "its answers with status 200 take 5 MB",
        &[(On::All, Play::Answer(200, PROTOBUF, Made(long_text)))], "4 MiB"),
    http("collector_sends_a_gzip_bomb", "its answer is 200 MB in 200 kB of gzip",
        &[(On::All, Play::Answer(200, &[("content-type", "application/x-protobuf"), ("content-encoding", "gzip")], Made(gzip_bomb)))], "4 MiB"),
    http("collector_sends_broken_gzip", "its answer is gzip that is not gzip",
        &[(On::All, Play::Answer(200, &[("content-type", "application/x-protobuf"), ("content-encoding", "gzip")], Text("no gzip")))], ""),
    http("collector_sends_answers_without_end", "its answers do not end",
        &[(On::All, Play::Endless(Text("HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n\r\n"), Made(|| vec![0; 1 << 20])))], ""),
    muted("collector_asks_for_a_day", "429 with Retry-After: 86400",
        &[(On::All, Play::Answer(429, &[("retry-after", "86400")], Text("no")))], "HTTP 429"),
    muted("collector_asks_for_31_years", "503 with Retry-After: 1000000000",
        &[(On::All, Play::Answer(503, &[("retry-after", "1000000000")], Text("no")))], "HTTP 503"),
    muted("collector_asks_until_9999", "503 with Retry-After in the year 9999",
        &[(On::All, Play::Answer(503, &[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")], Text("no")))], "HTTP 503"),
    http("collector_asks_for_a_moment", "503 with Retry-After: 1",
        &[(On::All, Play::Answer(503, &[("retry-after", "1")], Text("no")))], "HTTP 503"),
    http("collector_asks_for_nonsense", "503 with Retry-After: soon",
        &[(On::All, Play::Answer(503, &[("retry-after", "soon")], Text("no")))], "HTTP 503"),
    Row::new("collector_answers_204", "the collector answers with status 204",
        Strike::Http(&[(On::All, Play::Answer(204, &[], Text("")))]), Effect::Nothing),
    Row::new("collector_answers_nothing", "the collector answers 200 with an empty body",
        Strike::Http(&[(On::All, Play::Answer(200, &[], Text("")))]), Effect::Nothing),
    Row::new("collector_answers_json", "the collector answers {} as JSON",
        Strike::Http(&[(On::All, Play::Answer(200, &[], Text("{}")))]), Effect::Nothing),
    Row::new("collector_rejects_points", "the collector rejects 3 points",
        Strike::Http(&[(On::All, Play::Answer(200, &[], Text("{\"partialSuccess\": {\"rejectedDataPoints\": \"3\", \"errorMessage\": \"out of order\"}}")))]),
        Effect::Rejected("out of order")),
    Row::new("collector_rejects_more_points_than_there_are", "the collector rejects 2^62 points",
        Strike::Http(&[(On::All, Play::Answer(200, &[], Text("{\"partialSuccess\": {\"rejectedDataPoints\": \"4611686018427387904\", \"errorMessage\": \"all of them\"}}")))]),
        Effect::Rejected("all of them")),
    Row::new("collector_rejects_a_negative_number", "the collector rejects -1 points, with a warning",
        Strike::Http(&[(On::All, Play::Answer(200, &[], Text("{\"partialSuccess\": {\"rejectedDataPoints\": \"-1\", \"errorMessage\": \"odd\"}}")))]),
        Effect::Warning("odd")),
];

macro_rules! code {
    ($number:literal, $name:literal, $code:ident) => {
        answer(
            concat!("collector_over_grpc_answers_", $name),
            concat!(
                "the collector answers every push with gRPC status ",
                $number,
                ", ",
                stringify!($code)
            ),
            || Answer::Grpc(Status::new(Code::$code, "no")),
            Effect::Unpushed(stringify!($code)),
        )
    };
}

/// An answer over HTTP/2 that is not gRPC, or not as gRPC has it.
fn raw(headers: &[(&'static str, &'static str)], body: impl Into<Body>) -> Answer {
    let mut response = Response::new(body.into());
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    Answer::Http(response)
}

const GRPC_TYPE: (&str, &str) = ("content-type", "application/grpc");

#[rustfmt::skip]
pub(super) const GRPC: &[Row] = &[
    code!(1, "cancelled", Cancelled), code!(2, "unknown", Unknown),
    code!(3, "invalid_argument", InvalidArgument), code!(4, "deadline_exceeded", DeadlineExceeded),
    code!(5, "not_found", NotFound), code!(6, "already_exists", AlreadyExists),
    code!(7, "permission_denied", PermissionDenied), code!(8, "resource_exhausted", ResourceExhausted),
    code!(9, "failed_precondition", FailedPrecondition), code!(10, "aborted", Aborted),
    code!(11, "out_of_range", OutOfRange), code!(12, "unimplemented", Unimplemented),
    code!(13, "internal", Internal), code!(14, "unavailable", Unavailable),
    code!(15, "data_loss", DataLoss), code!(16, "unauthenticated", Unauthenticated),
    answer("collector_over_grpc_answers_0_without_a_message", "the collector answers with gRPC status 0 and no message",
        || raw(&[GRPC_TYPE, ("grpc-status", "0")], ""), Effect::Unpushed("")),
    answer("collector_over_grpc_answers_an_unknown_code", "the collector answers with gRPC status 17",
        || raw(&[GRPC_TYPE, ("grpc-status", "17")], ""), Effect::Unpushed("gRPC Unknown")),
    answer("collector_over_grpc_answers_a_code_that_is_no_number", "the collector answers with gRPC status no",
        || raw(&[GRPC_TYPE, ("grpc-status", "no")], ""), Effect::Unpushed("gRPC Unknown")),
    answer("collector_over_grpc_sends_details_that_are_not_base64", "the details of a gRPC status are not Base64",
        || raw(&[GRPC_TYPE, ("grpc-status", "3"), ("grpc-status-details-bin", "!!!")], ""), Effect::Unpushed("InvalidArgument")),
    answer("collector_over_grpc_sends_a_message_that_is_not_percent_encoded", "the message of a gRPC status has wrong escapes",
        || raw(&[GRPC_TYPE, ("grpc-status", "3"), ("grpc-message", "%zz%ff%0")], ""), Effect::Unpushed("gRPC Unknown")),
    answer("collector_over_grpc_sends_no_status", "an answer without gRPC status",
        || raw(&[GRPC_TYPE], ""), Effect::Unpushed("")),
    answer("collector_over_grpc_is_a_web_page", "a web server with HTTP/2 answers",
        || raw(&[("content-type", "text/html")], "<html>Log in</html>"), Effect::Unpushed("")),
    answer("collector_over_grpc_is_a_proxy_without_a_backend", "a proxy answers 503 over HTTP/2",
        || {
            let mut response = (StatusCode::SERVICE_UNAVAILABLE, "no backend").into_response();
            response.headers_mut().remove("content-type");
            Answer::Http(response)
        }, Effect::Unpushed("")),
    answer("collector_over_grpc_sends_wrong_protobuf", "the message of an answer is not protobuf",
        || raw(&[GRPC_TYPE], vec![0, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]), Effect::Unpushed("")),
    answer("collector_over_grpc_announces_4_gb", "an answer announces a message of 4 GB",
        || raw(&[GRPC_TYPE], vec![0, 0xff, 0xff, 0xff, 0xff]), Effect::Unpushed("")),
    answer("collector_over_grpc_sends_broken_gzip", "the message of an answer is gzip that is not gzip",
        || raw(&[GRPC_TYPE, ("grpc-encoding", "gzip")], vec![1, 0, 0, 0, 4, 1, 2, 3, 4]), Effect::Unpushed("")),
    answer("collector_over_grpc_sends_an_unknown_compression", "an answer is compressed as nobody knows",
        || raw(&[GRPC_TYPE, ("grpc-encoding", "middle-out")], vec![1, 0, 0, 0, 0]), Effect::Unpushed("")),
    answer("collector_over_grpc_sends_errors_of_5_mb", "an error takes 5 MB",
        || raw(&[("content-type", "text/plain")], long_text()), Effect::Unpushed("")),
    answer("collector_over_grpc_rejects_points", "the collector rejects 3 points",
        || Answer::Partial(3, "out of order"), Effect::Rejected("out of order")),
    answer("collector_over_grpc_rejects_a_negative_number", "the collector rejects -1 points, with a warning",
        || Answer::Partial(-1, "odd"), Effect::Warning("odd")),
    answer("collector_over_grpc_asks_for_31_years", "the collector asks to be asked again in 31 years",
        || {
            let wait = std::time::Duration::from_secs(1_000_000_000);
            let details = tonic_types::ErrorDetails::with_retry_info(Some(wait));
            Answer::Grpc(Status::with_error_details(Code::Unavailable, "no", details))
        }, Effect::Muted("Unavailable")),
    grpc("collector_over_grpc_is_silent", "the collector accepts connections and never answers",
        &[(On::All, Play::Hang(Text("")))], ""),
    grpc("collector_over_grpc_refuses_connections", "nothing listens",
        &[(On::All, Play::Refuse)], ""),
    grpc("collector_over_grpc_closes_connections", "connections are closed",
        &[(On::All, Play::Raw(Text("")))], ""),
    grpc("collector_over_grpc_resets_connections", "connections are reset",
        &[(On::All, Play::Reset(Text("")))], ""),
    grpc("collector_over_grpc_half_closes", "the collector ends its direction and keeps reading",
        &[(On::All, Play::HalfClose)], ""),
    grpc("collector_over_grpc_is_http_1", "the port is one for HTTP",
        &[(On::All, Play::Raw(Text("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")))], ""),
    grpc("collector_over_grpc_is_not_http", "another protocol answers",
        &[(On::All, Play::Raw(Text("220 mail.example ESMTP\r\n")))], ""),
    grpc("collector_over_grpc_sends_a_byte_a_second", "answers arrive a byte a second",
        &[(On::All, Play::Drip(Text("\u{0}\u{0}\u{0}\u{4}\u{0}\u{0}\u{0}\u{0}\u{0}")))], ""),
    grpc("collector_over_grpc_sends_a_frame_beyond_the_limit", "a frame of 16 MB",
        &[(On::All, Play::Hang(Made(|| {
            let mut frame = vec![0xff, 0xff, 0xff, 0x4, 0, 0, 0, 0, 0];
            frame.resize(1 << 20, 0);
            frame
        })))], ""),
    grpc("collector_over_grpc_goes_away", "every connection ends with GOAWAY",
        &[(On::All, Play::Hang(Made(|| {
            // SETTINGS, and GOAWAY with the last stream 0 and ENHANCE_YOUR_CALM.
            let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
            frames.extend([0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11]);
            frames
        })))], ""),
];
