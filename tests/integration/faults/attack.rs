//! Clients of the agent's port that misbehave.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::front::Content;

/// How long an expected answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What clients do.
#[derive(Clone, Copy)]
pub(super) enum Attack {
    /// One client sends these bytes, and gets answers with these statuses. The connection then ends,
    /// or answers another request.
    Exchange(Content, &'static [u16], After),
    /// So many connections that send these bytes and nothing else.
    Hold(usize, Content),
    /// So many connections that send these bytes, one per second.
    Drip(usize, Content),
    /// So many connections that send these bytes and never read the answers.
    Deaf(usize, Content),
    /// So many clients at once. Each asks again until it is answered.
    Flood(usize, Content),
    /// So many clients that repeat these bytes on one connection as fast as they are answered.
    Restless(usize, Content),
    /// So many clients that repeat these bytes on a kept connection, every two seconds.
    Regular(usize, Content),
    /// So many clients that send these bytes and reset the connection.
    Reset(usize, Content),
}

/// The connection after an exchange.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum After {
    Ended,
    Open,
}

/// An attack that continues until it is dropped.
#[derive(Default)]
pub(super) struct Held {
    clients: JoinSet<()>,
}

impl Held {
    /// Ends what continues, after what is finite has ended well.
    pub(super) async fn end(&mut self) {
        self.clients.abort_all();
        while let Some(ended) = self.clients.join_next().await {
            if let Err(error) = ended {
                assert!(error.is_cancelled(), "{error}");
            }
        }
    }
}

impl Attack {
    /// Begins it. What is finite is complete when this returns.
    pub(super) async fn begin(self, address: SocketAddr) -> Held {
        match self {
            Attack::Exchange(bytes, statuses, after) => {
                exchange(address, &bytes.bytes(), statuses, after).await;
                Held::default()
            }
            Attack::Flood(count, bytes) => {
                flood(address, count, bytes).await;
                Held::default()
            }
            Attack::Reset(count, bytes) => {
                for _ in 0..count {
                    let mut stream = connect(address).await;
                    _ = stream.write_all(&bytes.bytes()).await;
                    stream.set_zero_linger().unwrap();
                }
                Held::default()
            }
            Attack::Hold(count, bytes) => {
                connected(address, count, |stream| hold(stream, bytes)).await
            }
            Attack::Drip(count, bytes) => {
                connected(address, count, |stream| drip(stream, address, bytes)).await
            }
            Attack::Deaf(count, bytes) => {
                connected(address, count, |stream| ask_deaf(stream, bytes)).await
            }
            Attack::Restless(count, bytes) => {
                let pause = Duration::ZERO;
                connected(address, count, |stream| {
                    repeat(stream, address, bytes, pause)
                })
                .await
            }
            Attack::Regular(count, bytes) => {
                let pause = Duration::from_secs(2);
                connected(address, count, |stream| {
                    repeat(stream, address, bytes, pause)
                })
                .await
            }
        }
    }
}

/// So many clients, each of which is connected when this returns.
async fn connected<F: Future<Output = ()> + Send + 'static>(
    address: SocketAddr,
    count: usize,
    client: impl Fn(TcpStream) -> F,
) -> Held {
    let mut clients = JoinSet::new();
    for _ in 0..count {
        clients.spawn(client(connect(address).await));
    }
    Held { clients }
}

/// So many clients at once, each of which is answered when this returns.
async fn flood(address: SocketAddr, count: usize, bytes: Content) {
    let mut clients = JoinSet::new();
    for _ in 0..count {
        clients.spawn(async move {
            // Too many connections may cost some of them theirs.
            let answered = async { while ask(address, &bytes.bytes()).await != Some(200) {} };
            timeout(PATIENCE, answered).await.unwrap();
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
}

/// Sends the bytes, and stays until the agent ends the connection, if it does.
async fn hold(mut stream: TcpStream, bytes: Content) {
    _ = stream.write_all(&bytes.bytes()).await;
    let mut rest = Vec::new();
    _ = stream.read_to_end(&mut rest).await;
}

/// Sends the bytes, one per second. If the agent ends the connection, goes on with another.
async fn drip(mut stream: TcpStream, address: SocketAddr, bytes: Content) {
    for byte in bytes.bytes() {
        if stream.write_all(&[byte]).await.is_err() {
            stream = again(address).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Another connection, as soon as there can be one.
async fn again(address: SocketAddr) -> TcpStream {
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => return stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Sends the bytes, and reads nothing.
async fn ask_deaf(mut stream: TcpStream, bytes: Content) {
    _ = stream.write_all(&bytes.bytes()).await;
    std::future::pending::<()>().await;
    drop(stream);
}

/// Sends the bytes and reads an answer, again and again, and connects again when the connection
/// ends.
async fn repeat(mut stream: TcpStream, address: SocketAddr, bytes: Content, pause: Duration) {
    let bytes = bytes.bytes();
    let mut unread = Vec::new();
    loop {
        let sent = stream.write_all(&bytes).await.is_ok();
        if !sent || read(&mut stream, &mut unread).await.is_none() {
            unread.clear();
            stream = again(address).await;
        }
        tokio::time::sleep(pause).await;
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let connected = timeout(PATIENCE, TcpStream::connect(address)).await;
    connected.unwrap().unwrap()
}

/// Sends the bytes and reads an answer; `None` if there is none.
async fn ask(address: SocketAddr, bytes: &[u8]) -> Option<u16> {
    let mut stream = connect(address).await;
    stream.write_all(bytes).await.ok()?;
    read(&mut stream, &mut Vec::new()).await
}

async fn exchange(address: SocketAddr, bytes: &[u8], statuses: &[u16], after: After) {
    let mut stream = connect(address).await;
    let (mut reader, mut writer) = stream.split();
    let mut unread = Vec::new();
    // The agent may refuse a request, and end the connection, before it has been sent completely.
    let send = async { _ = writer.write_all(bytes).await };
    let read_all = async {
        let mut found = Vec::new();
        while found.len() < statuses.len() {
            let Some(status) = read(&mut reader, &mut unread).await else {
                break;
            };
            found.push(status);
        }
        found
    };
    let both = async { tokio::join!(send, read_all).1 };
    let found = timeout(PATIENCE, both).await.unwrap();
    assert_eq!(found, statuses, "the statuses");
    match after {
        After::Ended => {
            let mut rest = Vec::new();
            let end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
            _ = end.unwrap();
            unread.extend(rest);
            assert!(
                unread.is_empty(),
                "another answer: {:?}",
                String::from_utf8_lossy(&unread)
            );
        }
        After::Open => {
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n")
                .await
                .unwrap();
            let next = timeout(PATIENCE, read(&mut stream, &mut unread)).await;
            assert_eq!(next.unwrap(), Some(200), "the next request");
        }
    }
}

/// Reads one answer, and returns its status; `None` at the end of the connection.
async fn read<R: tokio::io::AsyncRead + Unpin>(
    stream: &mut R,
    unread: &mut Vec<u8>,
) -> Option<u16> {
    loop {
        if let Some(end) = unread.windows(4).position(|part| part == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&unread[..end]).to_ascii_lowercase();
            let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
            if (100..200).contains(&status) {
                unread.drain(..end + 4);
                continue;
            }
            let field = |name: &str| {
                let mut lines = head.lines();
                lines.find_map(|line| line.strip_prefix(name).map(|value| value.trim().to_owned()))
            };
            let chunked = field("transfer-encoding:").is_some();
            let length = field("content-length:").and_then(|value| value.parse::<usize>().ok());
            let body = &unread[end + 4..];
            let whole = match (chunked, length) {
                (true, _) => body
                    .windows(5)
                    .position(|part| part == b"0\r\n\r\n")
                    .map(|at| at + 5),
                (false, Some(length)) => (body.len() >= length).then_some(length),
                (false, None) => Some(0),
            };
            if let Some(length) = whole {
                unread.drain(..end + 4 + length);
                return Some(status);
            }
        }
        if stream.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    }
}
