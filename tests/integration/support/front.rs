//! A server in front of another one that treats connections as no HTTP library would: it stays
//! silent, sends single bytes, cuts answers off, or refuses connections.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// Bytes of a fault, so that a table can contain them.
#[derive(Clone, Copy)]
pub(crate) enum Content {
    Text(&'static str),
    Made(fn() -> Vec<u8>),
}

impl Content {
    pub(crate) fn bytes(self) -> Vec<u8> {
        match self {
            Content::Text(text) => text.into(),
            Content::Made(make) => make(),
        }
    }
}

/// Which requests a fault replaces.
#[derive(Clone, Copy)]
pub(crate) enum On {
    All,
    /// Those whose path ends like this.
    Path(&'static str),
    /// Every other request than the one for the version.
    Lists,
}

impl On {
    fn fits(self, path: &str) -> bool {
        match self {
            On::All => true,
            On::Path(end) => path.ends_with(end),
            On::Lists => !path.ends_with(VERSION),
        }
    }
}

/// What happens instead of an answer.
#[derive(Clone, Copy)]
pub(crate) enum Play {
    /// An answer with this status, these headers and this body.
    Answer(u16, &'static [(&'static str, &'static str)], Content),
    /// These bytes, and the end of the connection.
    Raw(Content),
    /// These bytes, and a reset.
    Reset(Content),
    /// These bytes, and nothing more.
    Hang(Content),
    /// These bytes, one per second.
    Drip(Content),
    /// The first bytes, and then the second ones again and again.
    Endless(Content, Content),
    /// The right answer, but only its first bytes.
    Cut(usize),
    /// The end of the sending direction, while everything is still read.
    HalfClose,
    /// Nothing listens.
    Refuse,
}

/// The first request of a cycle. A fault of Prefect begins and ends with it, so that no cycle is
/// half affected.
const VERSION: &str = "/admin/version";

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Well,
    Armed,
    Struck,
    Healing,
}

struct State {
    phase: Phase,
    faults: &'static [(On, Play)],
    /// Requests, or connections, that a fault has replaced since the last strike.
    struck: usize,
    requests: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// One request per connection, and faults per cycle of the agent.
    Prefect,
    /// One request per connection.
    Http,
    /// Only connections.
    Tcp,
}

/// The server. It stops with the test's runtime.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    target: SocketAddr,
    kind: Kind,
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
}

impl Front {
    /// In front of a stub of Prefect.
    pub(crate) async fn prefect(target: SocketAddr) -> Self {
        Front::start(target, Kind::Prefect).await
    }

    /// In front of an HTTP server.
    pub(crate) async fn http(target: SocketAddr) -> Self {
        Front::start(target, Kind::Http).await
    }

    /// In front of any server; faults concern connections.
    pub(crate) async fn tcp(target: SocketAddr) -> Self {
        Front::start(target, Kind::Tcp).await
    }

    async fn start(target: SocketAddr, kind: Kind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = State {
            phase: Phase::Well,
            faults: &[],
            struck: 0,
            requests: 0,
        };
        let front = Front {
            address: listener.local_addr().unwrap(),
            target,
            kind,
            state: Arc::new(Mutex::new(state)),
            changes: watch::Sender::new(0),
        };
        tokio::spawn(front.clone().serve(listener));
        front
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on, or for Prefect from the next cycle on, these faults happen.
    pub(crate) fn strike(&self, faults: &'static [(On, Play)]) {
        let mut state = self.state();
        state.faults = faults;
        state.struck = 0;
        state.phase = match self.kind {
            Kind::Prefect => Phase::Armed,
            _ => Phase::Struck,
        };
        drop(state);
        self.changed();
    }

    /// Begins a fault before there is any cycle.
    pub(crate) fn strike_at_once(&self, faults: &'static [(On, Play)]) {
        self.strike(faults);
        self.state().phase = Phase::Struck;
        self.changed();
    }

    /// Ends the faults, for Prefect with the next cycle.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.phase = match (self.kind, state.refuses()) {
            (Kind::Prefect, false) if state.phase == Phase::Struck => Phase::Healing,
            _ => Phase::Well,
        };
        drop(state);
        self.changed();
    }

    /// How often the faults have happened.
    pub(crate) fn struck(&self) -> usize {
        self.state().struck
    }

    /// The number of requests, or of connections, since the start.
    pub(crate) fn requests(&self) -> usize {
        self.state().requests
    }

    fn changed(&self) {
        self.changes.send_modify(|number| *number += 1);
    }

    async fn serve(self, listener: TcpListener) {
        let mut changes = self.changes.subscribe();
        let mut listener = Some(listener);
        // Keeps the port while nothing listens on it.
        let mut closed = None;
        loop {
            let refuses = {
                let state = self.state();
                state.refuses() && state.phase == Phase::Struck
            };
            if refuses && closed.is_none() {
                listener = None;
                closed = Some(self.rebind().await);
                self.state().struck += 1;
            } else if !refuses && let Some(socket) = closed.take() {
                listener = Some(socket.listen(1_024).unwrap());
            }
            let Some(open) = &listener else {
                changes.changed().await.unwrap();
                continue;
            };
            tokio::select! {
                _ = changes.changed() => {}
                accepted = open.accept() => {
                    if let Ok((stream, _)) = accepted {
                        tokio::spawn(self.clone().connection(stream));
                    }
                }
            }
        }
    }

    /// A socket that has the port without listening.
    async fn rebind(&self) -> TcpSocket {
        loop {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            if socket.bind(self.address).is_ok() {
                return socket;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn connection(self, stream: TcpStream) {
        let mut changes = self.changes.subscribe();
        changes.mark_unchanged();
        match self.kind {
            Kind::Tcp => {
                let play = {
                    let mut state = self.state();
                    state.requests += 1;
                    state.fault("")
                };
                tokio::select! {
                    _ = changes.changed() => {}
                    () = self.pass(stream, play) => {}
                }
            }
            _ => self.request(stream, changes).await,
        }
    }

    async fn pass(&self, mut stream: TcpStream, play: Option<Play>) {
        match play {
            Some(play) => act(play, stream).await,
            None => {
                if let Ok(mut target) = TcpStream::connect(self.target).await {
                    _ = tokio::io::copy_bidirectional(&mut stream, &mut target).await;
                }
            }
        }
    }

    async fn request(&self, mut stream: TcpStream, mut changes: watch::Receiver<u64>) {
        let Some((path, request)) = read(&mut stream).await else {
            return;
        };
        let play = self.begin(&path);
        match play {
            None => _ = self.relay(&request, &mut stream, usize::MAX).await,
            Some(Play::Cut(length)) => _ = self.relay(&request, &mut stream, length).await,
            // What hangs ends with the fault.
            Some(play) => {
                tokio::select! {
                    () = async { while changes.changed().await.is_ok() && self.is_struck() {} } => {}
                    () = act(play, stream) => {}
                }
            }
        }
    }

    fn is_struck(&self) -> bool {
        self.state().phase != Phase::Well
    }

    /// Notes a request, and returns the fault that happens to it.
    fn begin(&self, path: &str) -> Option<Play> {
        let mut state = self.state();
        state.requests += 1;
        if self.kind == Kind::Prefect && path.ends_with(VERSION) {
            let next = match state.phase {
                Phase::Armed => Phase::Struck,
                Phase::Healing => Phase::Well,
                phase => phase,
            };
            if std::mem::replace(&mut state.phase, next) != next {
                drop(state);
                self.changed();
                state = self.state();
            }
        }
        state.fault(path)
    }

    /// Passes a request on, and the first `length` bytes of its answer back.
    async fn relay(
        &self,
        request: &[u8],
        stream: &mut TcpStream,
        length: usize,
    ) -> std::io::Result<()> {
        let target = TcpStream::connect(self.target).await?;
        let (answer, mut sender) = target.into_split();
        sender.write_all(request).await?;
        let mut answer = answer.take(length as u64);
        tokio::io::copy(&mut answer, stream).await?;
        stream.shutdown().await
    }
}

impl State {
    fn refuses(&self) -> bool {
        let mut faults = self.faults.iter();
        faults.any(|(_, play)| matches!(play, Play::Refuse))
    }

    fn fault(&mut self, path: &str) -> Option<Play> {
        if !matches!(self.phase, Phase::Struck | Phase::Healing) {
            return None;
        }
        let mut faults = self.faults.iter();
        let (_, play) = faults.find(|(on, _)| on.fits(path))?;
        self.struck += 1;
        Some(*play)
    }
}

/// Reads a request: its path, and all of it with `Connection: close` added.
async fn read(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let end = loop {
        if let Some(end) = all.windows(4).position(|part| part == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut all).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    while all.len() < end + length.unwrap_or_default() {
        if stream.read_buf(&mut all).await.ok()? == 0 {
            return None;
        }
    }
    let (first, rest) = head.split_once("\r\n")?;
    let path = first.split(' ').nth(1)?;
    let path = path.split('?').next().unwrap_or_default().to_owned();
    let mut request = format!("{first}\r\nconnection: close\r\n{rest}").into_bytes();
    request.extend_from_slice(&all[end..]);
    Some((path, request))
}

/// Reads until the other side ends the connection.
async fn hold(stream: &mut TcpStream) {
    let mut ignored = [0; 4_096];
    while stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}

async fn act(play: Play, mut stream: TcpStream) {
    match play {
        Play::Answer(status, headers, body) => {
            _ = stream.write_all(&answer(status, headers, body)).await;
            _ = stream.shutdown().await;
            hold(&mut stream).await;
        }
        Play::Raw(bytes) => {
            _ = stream.write_all(&bytes.bytes()).await;
            _ = stream.shutdown().await;
            hold(&mut stream).await;
        }
        Play::Reset(bytes) => {
            _ = stream.write_all(&bytes.bytes()).await;
            _ = stream.set_zero_linger();
        }
        Play::Hang(bytes) => {
            _ = stream.write_all(&bytes.bytes()).await;
            hold(&mut stream).await;
        }
        Play::Drip(bytes) => {
            for byte in bytes.bytes() {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            hold(&mut stream).await;
        }
        Play::Endless(start, again) => {
            let again = again.bytes();
            let mut sent = stream.write_all(&start.bytes()).await;
            while sent.is_ok() {
                sent = stream.write_all(&again).await;
            }
        }
        Play::HalfClose => {
            _ = stream.shutdown().await;
            hold(&mut stream).await;
        }
        // Here only if the connection was accepted before the listener was closed.
        Play::Refuse | Play::Cut(_) => _ = stream.set_zero_linger(),
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: Content) -> Vec<u8> {
    let body = body.bytes();
    let mut head = format!("HTTP/1.1 {status} Something\r\nconnection: close\r\n");
    let has = |wanted: &str| headers.iter().any(|(name, _)| *name == wanted);
    if !has("content-length") && !has("transfer-encoding") {
        head += &format!("content-length: {}\r\n", body.len());
    }
    if !has("content-type") {
        head += "content-type: application/json\r\n";
    }
    if !has("date") {
        head += &format!(
            "date: {}\r\n",
            httpdate::fmt_http_date(std::time::SystemTime::now())
        );
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut answer = format!("{head}\r\n").into_bytes();
    answer.extend(body);
    answer
}
