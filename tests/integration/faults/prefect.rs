//! Rows: what Prefect, or what answers in its place, can send.

use std::sync::LazyLock;

use flate2::{Compress, Compression, FlushCompress};

use crate::support::front::Content::{Made, Text};
use crate::support::front::{On, Play};

use super::row::{Effect, Row, Strike};

const JSON: &[(&str, &str)] = &[];
const GZIP: &[(&str, &str)] = &[("content-encoding", "gzip")];
const HTML: &str = "<!DOCTYPE html><html><title>Log in</title></html>";

const fn all(
    name: &'static str,
    fault: &'static str,
    faults: &'static [(On, Play)],
    says: &'static str,
) -> Row {
    Row::new(name, fault, Strike::Prefect(faults), Effect::Down(says))
}

const fn refused(
    name: &'static str,
    fault: &'static str,
    faults: &'static [(On, Play)],
    says: &'static str,
) -> Row {
    Row::new(name, fault, Strike::Prefect(faults), Effect::Refused(says))
}

const fn quiet(
    name: &'static str,
    fault: &'static str,
    faults: &'static [(On, Play)],
    says: &'static str,
) -> Row {
    Row::new(name, fault, Strike::Prefect(faults), Effect::Silenced(says))
}

const fn start(
    name: &'static str,
    fault: &'static str,
    faults: &'static [(On, Play)],
    says: &'static str,
) -> Row {
    Row::new(name, fault, Strike::AtStart(faults), Effect::Down(says))
}

const fn harmless(name: &'static str, fault: &'static str, faults: &'static [(On, Play)]) -> Row {
    Row::new(name, fault, Strike::Prefect(faults), Effect::Nothing)
}

/// Every answer has this status.
macro_rules! status {
    ($code:literal) => {
        refused(
            concat!("prefect_answers_", $code),
            concat!("every answer has status ", $code),
            &[(
                On::All,
                Play::Answer($code, JSON, Text("{\"detail\": \"no\"}")),
            )],
            concat!("status ", $code),
        )
    };
}

/// Every answer redirects with this status.
macro_rules! redirect {
    ($code:literal) => {
        refused(
            concat!("prefect_redirects_", $code),
            concat!("every answer redirects with status ", $code),
            &[(
                On::All,
                Play::Answer(
                    $code,
                    &[("location", "https://login.example/?next=/api")],
                    Text(""),
                ),
            )],
            "redirect to https://login.example/",
        )
    };
}

#[rustfmt::skip]
pub(super) const STATUSES: &[Row] = &[
    status!(201), status!(202), status!(203), status!(204), status!(205), status!(206),
    status!(207), status!(208), status!(226), status!(300), status!(304), status!(400),
    status!(401), status!(402), status!(403), status!(404), status!(405), status!(406),
    status!(407), status!(408), status!(409), status!(410), status!(411), status!(412),
    status!(413), status!(414), status!(415), status!(416), status!(417), status!(418),
    status!(421), status!(422), status!(423), status!(424), status!(425), status!(426),
    status!(428), status!(429), status!(431), status!(451), status!(500), status!(501),
    status!(502), status!(503), status!(504), status!(505), status!(506), status!(507),
    status!(508), status!(510), status!(511), status!(520), status!(599), status!(999),
    redirect!(301), redirect!(302), redirect!(303), redirect!(307), redirect!(308),
];

fn megabytes(count: usize) -> Vec<u8> {
    vec![b' '; count << 20]
}

/// 200 MB of spaces in 200 kB.
pub(super) fn gzip_bomb() -> Vec<u8> {
    static BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut megabyte = Vec::with_capacity(1 << 20);
        let mut deflate = Compress::new(Compression::best(), false);
        let flush = FlushCompress::Full;
        deflate
            .compress_vec(&megabytes(1), &mut megabyte, flush)
            .unwrap();
        // After a full flush, the same bytes can follow. The end is never reached.
        let mut bomb = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
        bomb.extend(megabyte.repeat(200));
        bomb
    });
    BOMB.clone()
}

fn deep() -> Vec<u8> {
    b"[".repeat(100_000)
}

fn deep_object() -> Vec<u8> {
    let mut text = b"[{\"id\":\"00000001-0000-4000-8000-000000000000\",\"name\":".to_vec();
    text.extend(b"{\"a\":".repeat(100_000));
    text
}

/// A head of a megabyte.
fn huge_head() -> Vec<u8> {
    let mut head = b"HTTP/1.1 200 OK\r\nx-long: ".to_vec();
    head.extend(vec![b'a'; 1 << 20]);
    head.extend(b"\r\n\r\n[]");
    head
}

fn many_headers() -> Vec<u8> {
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    for number in 0..10_000 {
        head.extend(format!("x-{number}: a\r\n").into_bytes());
    }
    head.extend(b"\r\n[]");
    head
}

fn many_interim() -> Vec<u8> {
    b"HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000)
}

const OK_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n";
const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";

#[rustfmt::skip]
pub(super) const CONNECTIONS: &[Row] = &[
    all("prefect_is_silent", "connections are accepted, nothing answers",
        &[(On::All, Play::Hang(Text("")))], "REQUEST_TIMEOUT_SECONDS"),
    start("prefect_is_silent_at_the_start", "nothing answers, from the first request on",
        &[(On::All, Play::Hang(Text("")))], "REQUEST_TIMEOUT_SECONDS"),
    all("prefect_hangs_within_the_head", "the head of an answer stops halfway",
        &[(On::All, Play::Hang(Text("HTTP/1.1 200 OK\r\ncontent-")))], "REQUEST_TIMEOUT_SECONDS"),
    all("prefect_hangs_within_the_body", "the body of an answer stops halfway",
        &[(On::All, Play::Hang(Text(OK_HEAD)))], "REQUEST_TIMEOUT_SECONDS"),
    all("prefect_sends_a_byte_a_second", "the body of an answer arrives a byte a second",
        &[(On::All, Play::Drip(Text(OK_HEAD)))], "REQUEST_TIMEOUT_SECONDS"),
    all("prefect_sends_interim_answers_forever", "ten thousand times 100 Continue",
        &[(On::All, Play::Hang(Made(many_interim)))], ""),
    all("prefect_refuses_connections", "nothing listens",
        &[(On::All, Play::Refuse)], ""),
    start("prefect_refuses_connections_at_the_start", "nothing listens, and Prefect starts later",
        &[(On::All, Play::Refuse)], "is Prefect running"),
    all("prefect_closes_connections", "connections are closed without an answer",
        &[(On::All, Play::Raw(Text("")))], ""),
    start("prefect_closes_connections_at_the_start", "connections are closed without an answer, from the first one on",
        &[(On::All, Play::Raw(Text("")))], ""),
    all("prefect_resets_connections", "connections are reset",
        &[(On::All, Play::Reset(Text("")))], ""),
    all("prefect_resets_within_the_body", "connections are reset within an answer",
        &[(On::All, Play::Reset(Text(OK_HEAD)))], ""),
    all("prefect_half_closes", "the server ends its direction and keeps reading",
        &[(On::All, Play::HalfClose)], ""),
    all("prefect_cuts_the_head", "the right answers, cut within the head",
        &[(On::All, Play::Cut(20))], ""),
    all("prefect_cuts_the_body", "an answer is shorter than its Content-Length",
        &[(On::All, Play::Raw(Text(OK_HEAD)))], ""),
    all("prefect_is_not_http", "another protocol answers",
        &[(On::All, Play::Raw(Text("SSH-2.0-OpenSSH_9.6\r\n")))], ""),
    all("prefect_is_tls", "the port speaks TLS",
        &[(On::All, Play::Raw(Text("\u{15}\u{3}\u{1}\u{0}\u{2}\u{2}\u{46}")))], ""),
    all("prefect_sends_http_0_9", "a body without a head",
        &[(On::All, Play::Raw(Text("[]")))], ""),
    all("prefect_sends_http_2", "the answer is HTTP/2",
        &[(On::All, Play::Raw(Text("\u{0}\u{0}\u{0}\u{4}\u{0}\u{0}\u{0}\u{0}\u{0}")))], ""),
    all("prefect_sends_a_status_of_two_digits", "the status line is wrong",
        &[(On::All, Play::Raw(Text("HTTP/1.1 20 OK\r\n\r\n[]")))], ""),
    all("prefect_sends_a_huge_head", "a header of a megabyte",
        &[(On::All, Play::Raw(Made(huge_head)))], ""),
    all("prefect_sends_ten_thousand_headers", "ten thousand headers",
        &[(On::All, Play::Raw(Made(many_headers)))], ""),
    all("prefect_sends_two_lengths", "two different Content-Length",
        &[(On::All, Play::Raw(Text("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n[]")))], ""),
    all("prefect_sends_a_negative_length", "Content-Length: -1",
        &[(On::All, Play::Raw(Text("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n[]")))], ""),
    all("prefect_sends_a_length_beyond_64_bits", "Content-Length: 99999999999999999999",
        &[(On::All, Play::Raw(Text("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n[]")))], ""),
    all("prefect_announces_an_exabyte", "Content-Length of an exabyte, and the end",
        &[(On::All, Play::Raw(Text("HTTP/1.1 200 OK\r\ncontent-length: 1000000000000000000\r\n\r\n[]")))], ""),
    all("prefect_sends_wrong_chunks", "a chunk without a size",
        &[(On::All, Play::Raw(Text("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n[]\r\n0\r\n\r\n")))], ""),
    all("prefect_sends_a_chunk_beyond_64_bits", "a chunk of more than 2^64 bytes",
        &[(On::All, Play::Raw(Text("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n[]")))], ""),
    all("prefect_sends_no_last_chunk", "chunks without the last one",
        &[(On::All, Play::Raw(Text("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[]\r\n")))], ""),
];

#[rustfmt::skip]
pub(super) const BODIES: &[Row] = &[
    all("prefect_is_a_login_page", "every answer is a web page",
        &[(On::All, Play::Answer(200, &[("content-type", "text/html")], Text(HTML)))], "PREFECT_API_URL"),
    start("prefect_is_a_login_page_at_the_start", "every answer is a web page, from the first one on",
        &[(On::All, Play::Answer(200, &[("content-type", "text/html")], Text(HTML)))], "PREFECT_API_URL"),
    all("prefect_answers_nothing", "every answer is empty",
        &[(On::All, Play::Answer(200, JSON, Text("")))], "unexpected answer"),
    all("prefect_answers_null", "every answer is null",
        &[(On::All, Play::Answer(200, JSON, Text("null")))], "unexpected answer"),
    all("prefect_answers_a_number", "every answer is a number, which is a valid count",
        &[(On::All, Play::Answer(200, JSON, Text("12")))], "unexpected answer"),
    all("prefect_answers_an_object", "every answer is an object",
        &[(On::All, Play::Answer(200, JSON, Text("{}")))], "unexpected answer"),
    all("prefect_answers_nuls", "every answer consists of NULs",
        &[(On::All, Play::Answer(200, JSON, Text("\0\0\0\0")))], "unexpected answer"),
    all("prefect_answers_invalid_utf8", "every answer is invalid UTF-8",
        &[(On::All, Play::Answer(200, JSON, Made(|| vec![0xff, 0xfe, 0x00])))], "unexpected answer"),
    all("prefect_answers_100000_levels_of_lists", "JSON with 100,000 levels of lists",
        &[(On::All, Play::Answer(200, JSON, Made(deep)))], "unexpected answer"),
    all("prefect_answers_half_a_list", "every list is cut off, and the connection ends well",
        &[(On::Lists, Play::Answer(200, JSON, Text("[{\"id\":")))], "unexpected answer"),
    all("prefect_answers_a_gzip_bomb", "200 MB in 200 kB of gzip",
        &[(On::Lists, Play::Answer(200, GZIP, Made(gzip_bomb)))], "larger than"),
    all("prefect_answers_broken_gzip", "gzip that is not gzip",
        &[(On::All, Play::Answer(200, GZIP, Text("[]")))], ""),
    all("prefect_answers_without_end", "answers that do not end",
        &[(On::Lists, Play::Endless(Text(CHUNKED), Made(|| {
            let mut chunk = b"100000\r\n".to_vec();
            chunk.extend(megabytes(1));
            chunk.extend(b"\r\n");
            chunk
        })))], ""),
    all("prefect_answers_a_huge_error", "errors of 20 MB",
        &[(On::All, Play::Answer(500, JSON, Made(|| vec![b'x'; 20 << 20])))], "status 500"),
    harmless("prefect_sends_another_content_type", "right answers as text/plain",
        &[(On::Path("/admin/version"), Play::Answer(200, &[("content-type", "text/plain")], Text("\"3.9.1\"")))]),
    harmless("prefect_sends_an_interim_answer", "103 Early Hints before the answer",
        &[(On::Path("/admin/version"), Play::Raw(Text("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 7\r\n\r\n\"3.9.1\"")))]),
    harmless("prefect_sends_no_date", "no Date",
        &[(On::Path("/admin/version"), Play::Raw(Text("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 7\r\n\r\n\"3.9.1\"")))]),
    harmless("prefect_sends_a_wrong_date", "a Date that is no date",
        &[(On::Path("/admin/version"), Play::Answer(200, &[("date", "yesterday")], Text("\"3.9.1\"")))]),
    harmless("prefect_sends_a_date_in_9999", "a Date in the year 9999",
        &[(On::Path("/admin/version"), Play::Answer(200, &[("date", "Fri, 31 Dec 9999 23:59:59 GMT")], Text("\"3.9.1\"")))]),
    harmless("prefect_sends_a_date_in_1970", "a Date in the year 1970",
        &[(On::Path("/admin/version"), Play::Answer(200, &[("date", "Thu, 01 Jan 1970 00:00:00 GMT")], Text("\"3.9.1\"")))]),
    harmless("prefect_forbids_the_version", "403 for the version alone",
        &[(On::Path("/admin/version"), Play::Answer(403, JSON, Text("{\"detail\": \"Forbidden\"}")))]),
    harmless("prefect_has_no_version", "404 for the version alone, as in Prefect Cloud",
        &[(On::Path("/admin/version"), Play::Answer(404, JSON, Text("{\"detail\": \"Not Found\"}")))]),
    all("prefect_is_version_2", "the version is 2.20.16",
        &[(On::Path("/admin/version"), Play::Answer(200, JSON, Text("\"2.20.16\"")))], "needs Prefect 3"),
];

#[rustfmt::skip]
pub(super) const WAITS: &[Row] = &[
    all("retry_after_two_seconds", "429 with Retry-After: 2",
        &[(On::All, Play::Answer(429, &[("retry-after", "2")], Text("no")))], "status 429"),
    all("retry_after_garbage", "Retry-After: soon",
        &[(On::All, Play::Answer(503, &[("retry-after", "soon")], Text("no")))], "status 503"),
    all("retry_after_negative", "Retry-After: -1",
        &[(On::All, Play::Answer(503, &[("retry-after", "-1")], Text("no")))], "status 503"),
    all("retry_after_fraction", "Retry-After: 0.5",
        &[(On::All, Play::Answer(503, &[("retry-after", "0.5")], Text("no")))], "status 503"),
    all("retry_after_in_the_past", "Retry-After with a date in 1994",
        &[(On::All, Play::Answer(503, &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")], Text("no")))], "status 503"),
    quiet("retry_after_beyond_64_bits", "Retry-After: 99999999999999999999999",
        &[(On::All, Play::Answer(503, &[("retry-after", "99999999999999999999999")], Text("no")))], "status 503"),
    quiet("retry_after_forty_seconds", "Retry-After: 40, which is longer than the rest of a cycle",
        &[(On::All, Play::Answer(503, &[("retry-after", "40")], Text("no")))], "status 503"),
    quiet("retry_after_31_years", "Retry-After: 1000000000",
        &[(On::All, Play::Answer(503, &[("retry-after", "1000000000")], Text("no")))], "status 503"),
    quiet("retry_after_in_9999", "Retry-After with a date in the year 9999",
        &[(On::All, Play::Answer(429, &[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")], Text("no")))], "status 429"),
    quiet("retry_after_a_maintenance_of_ten_minutes", "Retry-After: 600, and Prefect says that it is in maintenance",
        &[(On::All, Play::Answer(503, &[("retry-after", "600"), ("prefect-maintenance", "true")], Text("no")))], "in maintenance"),
    all("retry_after_with_another_status", "Retry-After: 1000 with status 500, for which it is not defined",
        &[(On::All, Play::Answer(500, &[("retry-after", "1000")], Text("no")))], "status 500"),
];

#[rustfmt::skip]
pub(super) const CSRF: &[Row] = &[
    all("csrf_tokens_are_refused", "every request lacks a token, and there is none",
        &[(On::All, Play::Answer(403, JSON, Text("{\"detail\": \"Missing CSRF token.\"}")))], "CSRF"),
    all("csrf_token_is_a_page", "the token is a web page",
        &[(On::Path("/csrf-token"), Play::Answer(200, JSON, Text(HTML))),
          (On::All, Play::Answer(403, JSON, Text("{\"detail\": \"Missing CSRF token.\"}")))], ""),
    all("csrf_token_is_no_header", "the token has a line break",
        &[(On::Path("/csrf-token"), Play::Answer(200, JSON, Text("{\"token\": \"a\\r\\nb\", \"expiration\": \"2030-01-01T00:00:00Z\"}"))),
          (On::All, Play::Answer(403, JSON, Text("{\"detail\": \"Missing CSRF token.\"}")))], ""),
    all("csrf_token_is_silent", "the request for a token is not answered",
        &[(On::Path("/csrf-token"), Play::Hang(Text(""))),
          (On::All, Play::Answer(403, JSON, Text("{\"detail\": \"Missing CSRF token.\"}")))], ""),
];

macro_rules! sections {
    ($($name:ident)*) => {
        $(const fn $name(says: &'static str) -> Effect {
            Effect::Sections(&[stringify!($name)], says)
        })*
    };
}

sections! {
    deployments flows work_pools work_queues workers run_history automations concurrency_limits
}

/// The rows of one list. `$silent` is what is seen if requests are not answered.
macro_rules! list {
    ($name:literal, $path:literal, $effect:expr) => {
        list!($name, $path, $effect, ($effect)("REQUEST_TIMEOUT_SECONDS"))
    };
    ($name:literal, $path:literal, $effect:expr, $silent:expr) => {
        [
            Row::new(
                concat!($name, "_is_a_page"),
                concat!("`", $path, "` is a web page"),
                Strike::Prefect(&[(On::Path($path), Play::Answer(200, JSON, Text(HTML)))]),
                ($effect)("a web page"),
            ),
            Row::new(
                concat!($name, "_is_cut_off"),
                concat!("`", $path, "` is cut off"),
                Strike::Prefect(&[(On::Path($path), Play::Cut(100))]),
                ($effect)(""),
            ),
            Row::new(
                concat!($name, "_fails"),
                concat!("`", $path, "` has status 500"),
                Strike::Prefect(&[(
                    On::Path($path),
                    Play::Answer(500, JSON, Text("Internal Server Error")),
                )]),
                ($effect)("status 500"),
            ),
            Row::new(
                concat!($name, "_is_silent"),
                concat!("`", $path, "` is not answered"),
                Strike::Prefect(&[(On::Path($path), Play::Hang(Text("")))]),
                $silent,
            ),
        ]
    };
}

/// More rows of one list. All lists are decoded in the same way.
macro_rules! more_of_list {
    ($name:literal, $path:literal, $effect:expr) => {
        [
            Row::new(
                concat!($name, "_is_an_object"),
                concat!("`", $path, "` is an object instead of a list"),
                Strike::Prefect(&[(
                    On::Path($path),
                    Play::Answer(200, JSON, Text("{\"no\": \"list\"}")),
                )]),
                ($effect)("unexpected answer"),
            ),
            Row::new(
                concat!($name, "_is_invalid_utf8"),
                concat!("`", $path, "` is invalid UTF-8"),
                Strike::Prefect(&[(
                    On::Path($path),
                    Play::Answer(200, JSON, Made(|| b"[{\"id\": \"\xff\xfe\"}]".to_vec())),
                )]),
                ($effect)("unexpected answer"),
            ),
            Row::new(
                concat!($name, "_is_deep"),
                concat!("`", $path, "` has an object with 100,000 levels"),
                Strike::Prefect(&[(On::Path($path), Play::Answer(200, JSON, Made(deep_object)))]),
                ($effect)("unexpected answer"),
            ),
            Row::new(
                concat!($name, "_is_forbidden"),
                concat!("`", $path, "` has status 403"),
                Strike::Prefect(&[(
                    On::Path($path),
                    Play::Answer(403, JSON, Text("{\"detail\": \"Forbidden\"}")),
                )]),
                ($effect)("status 403"),
            ),
            Row::new(
                concat!($name, "_is_a_gzip_bomb"),
                concat!("`", $path, "` is a gzip bomb"),
                Strike::Prefect(&[(On::Path($path), Play::Answer(200, GZIP, Made(gzip_bomb)))]),
                ($effect)("larger than"),
            ),
        ]
    };
}

#[rustfmt::skip]
pub(super) const DEPLOYMENTS: &[Row] = &list!("deployments", "/deployments/filter", deployments);
#[rustfmt::skip]
pub(super) const MORE_OF_DEPLOYMENTS: &[Row] = &more_of_list!("deployments", "/deployments/filter", deployments);
#[rustfmt::skip]
pub(super) const MORE_OF_RUNS: &[Row] = &more_of_list!("flow_runs", "/flow_runs/filter", Effect::Runs);
#[rustfmt::skip]
pub(super) const FLOWS: &[Row] = &list!("flows", "/flows/filter", flows);
#[rustfmt::skip]
pub(super) const POOLS: &[Row] = &list!("work_pools", "/work_pools/filter", work_pools);
#[rustfmt::skip]
pub(super) const QUEUES: &[Row] = &list!("work_queues", "/work_queues/filter", work_queues);
#[rustfmt::skip]
pub(super) const WORKERS: &[Row] = &list!("workers", "/workers/filter", workers);
#[rustfmt::skip]
pub(super) const HISTORY: &[Row] = &list!("run_history", "/flow_runs/history", run_history);
#[rustfmt::skip]
pub(super) const AUTOMATIONS: &[Row] = &list!("automations", "/automations/filter", automations);
#[rustfmt::skip]
pub(super) const LIMITS: &[Row] = &list!("concurrency_limits", "/concurrency_limits/filter", concurrency_limits);
#[rustfmt::skip]
pub(super) const RUNS: &[Row] = &list!("flow_runs", "/flow_runs/filter", Effect::Runs, SILENT_RUNS);

/// There are more requests for runs than permits, so some wait until the deadline of the cycle. The
/// workers, which are requested once the work pools have been read, do not.
const SILENT_RUNS: Effect = Effect::Sections(
    &[
        "active_runs",
        "scheduled_runs",
        "finished_runs",
        "failed_runs",
    ],
    "",
);

/// The sections that count the runs that they know.
const COUNTED: &[&str] = &["active_runs", "scheduled_runs"];

#[rustfmt::skip]
pub(super) const COUNTS: &[Row] = &[
    Row::new("counts_of_10_to_the_18", "every count is 10^18",
        Strike::Prefect(&[(On::Path("/count"), Play::Answer(200, JSON, Text("1000000000000000000")))]), Effect::Nothing),
    Row::new("counts_are_negative", "every count is -1",
        Strike::Prefect(&[(On::Path("/count"), Play::Answer(200, JSON, Text("-1")))]), Effect::Sections(COUNTED, "unexpected answer")),
    Row::new("counts_are_texts", "every count is a text",
        Strike::Prefect(&[(On::Path("/count"), Play::Answer(200, JSON, Text("\"many\"")))]), Effect::Sections(COUNTED, "unexpected answer")),
    Row::new("counts_fail", "every count has status 500",
        Strike::Prefect(&[(On::Path("/count"), Play::Answer(500, JSON, Text("no")))]), Effect::Sections(COUNTED, "status 500")),
];
