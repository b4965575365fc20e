//! Rows: what clients of the agent's own port can do.

use crate::support::front::Content::{self, Made, Text};

use super::attack::{After, Attack};
use super::row::{Effect, Row, Strike};

const fn port(name: &'static str, fault: &'static str, attack: Attack) -> Row {
    Row::new(name, fault, Strike::Port(attack), Effect::Nothing)
}

/// Sends bytes, gets these statuses, and the connection ends.
const fn ends(
    name: &'static str,
    fault: &'static str,
    bytes: Content,
    statuses: &'static [u16],
) -> Row {
    port(name, fault, Attack::Exchange(bytes, statuses, After::Ended))
}

/// The same, and the connection stays open.
const fn stays(
    name: &'static str,
    fault: &'static str,
    bytes: Content,
    statuses: &'static [u16],
) -> Row {
    port(name, fault, Attack::Exchange(bytes, statuses, After::Open))
}

const PAGE: Content = Text("GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n");
const PACKED: Content =
    Text("GET /metrics HTTP/1.1\r\nhost: test\r\naccept-encoding: gzip\r\n\r\n");
const LAST_PAGE: Content = Text("GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
const HEALTH: Content = Text("GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n");
const HALF: Content = Text("GET /metrics HTTP/1.1\r\nhost: te");

fn long_uri() -> Vec<u8> {
    format!(
        "GET /{} HTTP/1.1\r\nhost: test\r\n\r\n",
        "a".repeat(100_000)
    )
    .into_bytes()
}

fn huge_head() -> Vec<u8> {
    format!(
        "GET /metrics HTTP/1.1\r\nhost: test\r\nx-long: {}\r\n\r\n",
        "a".repeat(1 << 20)
    )
    .into_bytes()
}

fn many_headers() -> Vec<u8> {
    let headers: String = (0..1_000)
        .map(|number| format!("x-{number}: a\r\n"))
        .collect();
    format!("GET /metrics HTTP/1.1\r\nhost: test\r\n{headers}\r\n").into_bytes()
}

fn pipelined() -> Vec<u8> {
    b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n".repeat(20)
}

fn many_pages() -> Vec<u8> {
    b"GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n".repeat(2_000)
}

fn large_body() -> Vec<u8> {
    let mut request =
        b"POST /metrics HTTP/1.1\r\nhost: test\r\ncontent-length: 20000000\r\n\r\n".to_vec();
    request.resize(request.len() + 20_000_000, b'a');
    request
}

#[rustfmt::skip]
pub(super) const CLIENTS: &[Row] = &[
    port("port_64_idle_connections", "64 connections that send nothing", Attack::Hold(64, Text(""))),
    port("port_200_idle_connections", "200 connections that send nothing", Attack::Hold(200, Text(""))),
    port("port_500_idle_connections", "500 connections that send nothing", Attack::Hold(500, Text(""))),
    port("port_64_half_requests", "64 connections that send half a request", Attack::Hold(64, HALF)),
    port("port_200_half_requests", "200 connections that send half a request", Attack::Hold(200, HALF)),
    port("port_100_kept_connections", "100 connections that are kept after a request", Attack::Hold(100, HEALTH)),
    port("port_slow_requests", "100 connections that send a byte of their request every second", Attack::Drip(100, PAGE)),
    port("port_slow_readers", "100 clients that ask for 2,000 pages each and never read", Attack::Deaf(100, Made(many_pages))),
    port("port_500_at_once", "500 scrapes at the same time", Attack::Flood(500, LAST_PAGE)),
    port("port_restless_clients", "8 clients that scrape without a pause", Attack::Restless(8, PAGE)),
    port("port_restless_clients_with_gzip", "8 clients that scrape with gzip and without a pause", Attack::Restless(8, PACKED)),
    port("port_200_regular_clients", "200 clients that ask every two seconds", Attack::Regular(200, HEALTH)),
    port("port_resets", "500 clients that reset the connection after a request", Attack::Reset(500, PAGE)),
    port("port_resets_within_the_head", "500 clients that reset the connection within a request", Attack::Reset(500, HALF)),
];

#[rustfmt::skip]
pub(super) const REQUESTS: &[Row] = &[
    stays("port_pipelining", "20 requests at once on one connection", Made(pipelined), &[200; 20]),
    stays("port_head", "HEAD", Text("HEAD /nothing HTTP/1.1\r\nhost: test\r\n\r\n"), &[404]),
    stays("port_post", "POST to /metrics", Text("POST /metrics HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n"), &[405]),
    stays("port_delete", "DELETE", Text("DELETE /metrics HTTP/1.1\r\nhost: test\r\n\r\n"), &[405]),
    stays("port_trace", "TRACE", Text("TRACE / HTTP/1.1\r\nhost: test\r\n\r\n"), &[405]),
    stays("port_unknown_method", "a method that does not exist", Text("BREW /metrics HTTP/1.1\r\nhost: test\r\n\r\n"), &[405]),
    stays("port_connect", "CONNECT, as to a proxy", Text("CONNECT other:80 HTTP/1.1\r\nhost: other\r\n\r\n"), &[404]),
    stays("port_asterisk", "OPTIONS *", Text("OPTIONS * HTTP/1.1\r\nhost: test\r\n\r\n"), &[404]),
    stays("port_absolute_uri", "a request for another host, as to a proxy", Text("GET http://other/healthz HTTP/1.1\r\nhost: other\r\n\r\n"), &[200]),
    stays("port_path_traversal", "a path out of the served ones", Text("GET /../../etc/passwd HTTP/1.1\r\nhost: test\r\n\r\n"), &[404]),
    stays("port_nul_in_the_path", "%00 in the path", Text("GET /metrics%00 HTTP/1.1\r\nhost: test\r\n\r\n"), &[404]),
    stays("port_query", "a query of odd characters", Text("GET /healthz?name[]=%ff&&=;x HTTP/1.1\r\nhost: test\r\n\r\n"), &[200]),
    ends("port_long_uri", "a path of 100,000 characters", Made(long_uri), &[414]),
    ends("port_huge_head", "a header of a megabyte", Made(huge_head), &[431]),
    ends("port_1000_headers", "a thousand headers", Made(many_headers), &[431]),
    ends("port_http_1_0", "HTTP/1.0", Text("GET /healthz HTTP/1.0\r\n\r\n"), &[200]),
    ends("port_http_0_9", "HTTP/0.9", Text("GET /healthz\r\n\r\n"), &[400]),
    ends("port_http_2", "HTTP/2 without negotiation", Text("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), &[]),
    ends("port_http_3_0", "a version that does not exist", Text("GET /healthz HTTP/3.0\r\nhost: test\r\n\r\n"), &[400]),
    ends("port_tls", "TLS to a port without it", Text("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}\r\n\r\n"), &[400]),
    ends("port_garbage", "bytes that are no request", Text("\0\0\0\0\r\n\r\n"), &[400]),
    ends("port_invalid_header", "a header without a colon", Text("GET /healthz HTTP/1.1\r\nhost test\r\n\r\n"), &[400]),
    ends("port_space_before_colon", "a space before the colon of a header", Text("GET /healthz HTTP/1.1\r\nhost : test\r\n\r\n"), &[400]),
    ends("port_two_lengths", "two different Content-Length", Text("POST /healthz HTTP/1.1\r\nhost: test\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc"), &[400]),
    ends("port_negative_length", "Content-Length: -1", Text("POST /healthz HTTP/1.1\r\nhost: test\r\ncontent-length: -1\r\n\r\n"), &[400]),
    ends("port_smuggled_after_a_length", "a second request within the body of the first", Text("POST /metrics HTTP/1.1\r\nhost: test\r\ncontent-length: 37\r\nconnection: close\r\n\r\nGET /healthz HTTP/1.1\r\nhost: test\r\n\r\n"), &[405]),
    ends("port_smuggled_after_chunks", "Content-Length and Transfer-Encoding with a second request", Text("POST /metrics HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n"), &[405]),
    ends("port_wrong_chunks", "a chunk without a size", Text("POST /metrics HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"), &[405]),
    ends("port_unknown_transfer_encoding", "a transfer encoding that does not exist", Text("POST /metrics HTTP/1.1\r\nhost: test\r\ntransfer-encoding: middle-out\r\n\r\n"), &[400]),
    ends("port_large_body", "a body of 20 MB that nobody asked for", Made(large_body), &[405]),
];
