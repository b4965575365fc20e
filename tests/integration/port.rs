//! The agent's own port, and clients that misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::routing::get;
use prefect_otel_agent::export::prometheus::Coding;
use prefect_otel_agent::http::{Limits, Security, serve};
use prefect_otel_agent::settings::Web;
use prefect_otel_agent::shutdown::{Shutdown, Trigger};
use reqwest::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::process::{AgentProcess, PATIENCE};
use crate::support::stub::Stub;
use crate::support::{agent, fleet, small_stub};

/// A probe is answered in a second or two; a busy machine takes longer. Without the protection, it
/// is not answered at all.
const PROBE: Duration = Duration::from_secs(15);

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: agent\r\n\r\n";

/// A client without kept-alive connections, as a probe.
fn probing() -> Client {
    let client = Client::builder().pool_max_idle_per_host(0).no_proxy();
    client.timeout(PROBE).build().unwrap()
}

async fn probe(address: &str) -> Duration {
    let started = Instant::now();
    let answer = probing().get(format!("http://{address}/healthz")).send();
    assert_eq!(answer.await.unwrap().status(), 200);
    started.elapsed()
}

/// An answer of this length at most, read until its end is known.
async fn read_answer(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut read = Vec::new();
    while !read.ends_with(b"ok\n") {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_keep_a_probe_away() {
    let stub = small_stub().await;
    let agent = tokio::task::block_in_place(|| AgentProcess::start(&stub.url, &[]));
    let mut idle = Vec::new();
    for number in 0..150 {
        let mut stream = TcpStream::connect(agent.address).await.unwrap();
        match number % 3 {
            0 => {}
            1 => stream.write_all(b"GET /metr").await.unwrap(),
            _ => stream.write_all(HEALTH.as_bytes()).await.unwrap(),
        }
        idle.push(stream);
    }
    for _ in 0..3 {
        let took = probe(&agent.address.to_string()).await;
        println!("a probe beside idle connections: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_that_come_back_do_not_keep_a_probe_away() {
    let stub = small_stub().await;
    let agent = tokio::task::block_in_place(|| AgentProcess::start(&stub.url, &[]));
    let address = agent.address;
    let mut clients = JoinSet::new();
    for _ in 0..200 {
        clients.spawn(async move {
            loop {
                // Ends when the agent closes the connection.
                let conversation = async {
                    let mut stream = TcpStream::connect(address).await?;
                    loop {
                        stream.write_all(HEALTH.as_bytes()).await?;
                        read_answer(&mut stream).await?;
                        let mut byte = [0];
                        let closed = timeout(Duration::from_secs(1), stream.read(&mut byte)).await;
                        if closed.is_ok() {
                            return Ok::<_, std::io::Error>(());
                        }
                    }
                };
                _ = conversation.await;
            }
        });
    }
    sleep(Duration::from_secs(1)).await;
    for _ in 0..10 {
        let took = probe(&address.to_string()).await;
        println!("a probe beside clients that come back: {took:?}");
    }
    clients.shutdown().await;
}

/// A server with these limits, in this process.
struct Server {
    address: String,
    /// The number of answers of `/large` that are being written.
    large: Arc<AtomicUsize>,
    _stop: Trigger,
}

/// A body that is larger than the buffers of a connection.
struct Large(Arc<Vec<u8>>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn server(limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let large: Arc<AtomicUsize> = Arc::default();
    let (bytes, count) = (Arc::new(vec![b'x'; 32 << 20]), Arc::clone(&large));
    let body = move || async move {
        count.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Large(bytes, count))
    };
    let router = Router::new()
        .route("/healthz", get("ok\n"))
        .route("/large", get(body));
    let security = Security::load(&Web::default()).unwrap();
    let (stop, shutdown) = Shutdown::new();
    tokio::spawn(serve(listener, router, security, limits, shutdown));
    Server {
        address,
        large,
        _stop: stop,
    }
}

impl Server {
    async fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    fn large_answers(&self) -> usize {
        self.large.load(Ordering::Relaxed)
    }

    /// Waits until this many answers of `/large` are in progress.
    async fn wait_for_large(&self, expected: usize) {
        let started = Instant::now();
        while self.large_answers() != expected {
            assert!(started.elapsed() < PATIENCE, "{}", self.large_answers());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Waits until the other side closes the connection.
async fn closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    // A connection that is closed before everything is read is reset.
    _ = end.unwrap();
}

const LARGE: &str = "GET /large HTTP/1.1\r\nhost: agent\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_its_answer_is_disconnected() {
    let server = server(Limits {
        answer: Duration::from_secs(1),
        ..Limits::default()
    })
    .await;
    let stream = server.connect(LARGE).await;
    server.wait_for_large(1).await;
    server.wait_for_large(0).await;
    closed(stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_their_answers_do_not_keep_a_probe_away() {
    let server = server(Limits {
        connections: 8,
        answer: PATIENCE,
        ..Limits::default()
    })
    .await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(server.connect(LARGE).await);
    }
    server.wait_for_large(8).await;
    for _ in 0..3 {
        probe(&server.address).await;
    }
    let left = server.large_answers();
    assert!(
        (5..8).contains(&left),
        "{left}: only what the probes need is closed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_ends_and_an_idle_connection_are_closed() {
    let server = server(Limits {
        head: Duration::from_millis(300),
        idle: Duration::from_millis(600),
        ..Limits::default()
    })
    .await;
    closed(server.connect("").await).await;
    closed(server.connect("GET /healthz HTTP/1.1\r\nhost: ").await).await;
    closed(server.connect(HEALTH).await).await;
    // A byte now and then does not help.
    let (mut reading, mut writing) = server.connect("GET /").await.into_split();
    let slow = tokio::spawn(async move {
        while writing.write_all(b"a").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    let mut rest = Vec::new();
    _ = timeout(PATIENCE, reading.read_to_end(&mut rest))
        .await
        .unwrap();
    slow.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_used_for_longer_than_an_answer_may_take_loses_no_answer() {
    let answer = Duration::from_secs(3);
    let server = server(Limits {
        answer,
        ..Limits::default()
    })
    .await;
    let mut stream = server.connect("").await;
    let started = Instant::now();
    while started.elapsed() < answer * 2 {
        stream.write_all(HEALTH.as_bytes()).await.unwrap();
        read_answer(&mut stream).await.unwrap();
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_arrive_together_are_all_answered() {
    let server = server(Limits::default()).await;
    let mut stream = server.connect(&HEALTH.repeat(50)).await;
    let mut read = String::new();
    let all = async {
        while read.matches("ok\n").count() < 50 {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).await.unwrap();
            assert!(count > 0, "{read}");
            read.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    };
    timeout(PATIENCE, all).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shutdown_waits_for_an_answer_but_not_for_an_idle_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(tokio::sync::Notify::new());
    let notify = Arc::clone(&asked);
    let slow = move || async move {
        notify.notify_one();
        sleep(Duration::from_millis(500)).await;
        "ok\n"
    };
    let router = Router::new().route("/healthz", get(slow));
    let security = Security::load(&Web::default()).unwrap();
    let (stop, shutdown) = Shutdown::new();
    let limits = Limits::default();
    let serving = tokio::spawn(serve(listener, router, security, limits, shutdown));
    let _idle = TcpStream::connect(address).await.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(HEALTH.as_bytes()).await.unwrap();
    asked.notified().await;
    stop.now();
    read_answer(&mut stream).await.unwrap();
    timeout(PATIENCE, serving).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_compressed_once() {
    let stub = small_stub().await;
    let mut agent = agent(&stub.url, &[]).await;
    agent.cycle().await;
    let page = agent.page().unwrap();
    let current = async |coding| page.current(coding).await.unwrap().body;
    let packed = current(Coding::Gzip).await;
    assert!(packed.len() < current(Coding::Identity).await.len() / 2);
    let again = current(Coding::Gzip).await;
    assert_eq!(packed.as_ptr(), again.as_ptr(), "the same bytes");
    agent.cycle().await;
    let next = current(Coding::Gzip).await;
    assert_ne!(packed.as_ptr(), next.as_ptr(), "another page");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_sent_in_the_coding_that_the_client_prefers() {
    let stub = small_stub().await;
    // One cycle, so that the page stays the same.
    let settings = [("SAMPLE_INTERVAL_SECONDS", "3600")];
    let agent = tokio::task::block_in_place(|| {
        let agent = AgentProcess::start(&stub.url, &settings);
        agent.wait_for_page("the first cycle", |page| page.value("prefect_up", &[]));
        agent
    });
    let url = format!("http://{}/metrics", agent.address);
    let client = Client::builder().no_gzip().no_proxy().build().unwrap();
    for (accepted, coding) in [
        ("gzip", Some("gzip")),
        ("deflate, gzip;q=0.5", Some("gzip")),
        ("*", Some("gzip")),
        ("identity", None),
        ("gzip;q=0", None),
        ("gzip;q=0.1, identity;q=0.9", None),
        ("br", None),
    ] {
        let request = |method| {
            client
                .request(method, &url)
                .header("accept-encoding", accepted)
        };
        let answer = request(reqwest::Method::GET).send().await.unwrap();
        let found = answer.headers().get("content-encoding").cloned();
        assert_eq!(
            found.as_ref().and_then(|found| found.to_str().ok()),
            coding,
            "{accepted}"
        );
        assert_eq!(answer.headers()["vary"], "accept-encoding", "{accepted}");
        let length = answer.headers()["content-length"]
            .to_str()
            .unwrap()
            .to_owned();
        let body = answer.bytes().await.unwrap();
        assert_eq!(length, body.len().to_string(), "{accepted}");
        let text = match coding {
            None => String::from_utf8(body.to_vec()).unwrap(),
            Some(_) => {
                let mut text = String::new();
                let mut decoder = flate2::read::GzDecoder::new(&*body);
                std::io::Read::read_to_string(&mut decoder, &mut text).unwrap();
                text
            }
        };
        assert!(text.contains("# TYPE prefect_up gauge"), "{accepted}");
        let head = request(reqwest::Method::HEAD).send().await.unwrap();
        assert_eq!(
            head.headers().get("content-encoding"),
            found.as_ref(),
            "{accepted}"
        );
        assert!(head.headers().contains_key("content-length"), "{accepted}");
        assert!(head.bytes().await.unwrap().is_empty(), "{accepted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn clients_that_never_pause_do_not_slow_down_the_cycles() {
    const MEASURED: Duration = Duration::from_secs(20);
    let stub = Stub::start().await;
    fleet::small(&mut stub.contents());
    for number in 1..4_000 {
        fleet::deploy(&mut stub.contents(), number);
    }
    let settings = [("INVENTORY_INTERVAL_SECONDS", "3600")];
    let agent = tokio::task::block_in_place(|| AgentProcess::start(&stub.url, &settings));
    let url = format!("http://{}/metrics", agent.address);
    let size = || async { agent_page(&url).await.len() };
    while size().await < 3 << 20 {
        sleep(Duration::from_millis(100)).await;
    }
    let cycles = || async {
        stub.take_requests();
        sleep(MEASURED).await;
        let requests = stub.take_requests();
        let begun = requests
            .iter()
            .filter(|request| request.path == "/admin/version");
        begun.count()
    };
    let alone = cycles().await;
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let client = Client::builder().no_gzip().no_proxy().build().unwrap();
        let url = url.clone();
        clients.spawn(async move {
            loop {
                let request = client.get(&url).header("accept-encoding", "gzip");
                request.send().await.unwrap().bytes().await.unwrap();
            }
        });
    }
    let beside = cycles().await;
    clients.shutdown().await;
    println!("{alone} cycles alone, {beside} beside 8 clients");
    assert!(
        beside * 3 >= alone * 2,
        "{alone} cycles alone, {beside} beside"
    );
}

/// The page as text.
async fn agent_page(url: &str) -> String {
    let client = Client::builder().no_proxy().build().unwrap();
    client.get(url).send().await.unwrap().text().await.unwrap()
}
