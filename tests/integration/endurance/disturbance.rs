//! Random faults of Prefect, of the receiver of OTLP, and of whoever reaches the agent's port.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::response::{IntoResponse as _, Response};
use fastrand::Rng;

use crate::support::otlp::{Answer, Receiver};
use crate::support::stub::{Stub, garbage, recorded_error};

/// More of them would keep the test's own requests away, too.
const MOST_CLIENTS: usize = 16;

/// What happens at random, one fault of each kind at a time.
pub(super) struct Disturbance {
    stub: Stub,
    receiver: Receiver,
    address: SocketAddr,
    random: Rng,
    prefect: Phase,
    collector: Phase,
    clients: Vec<(TcpStream, Instant)>,
    /// The number of faults so far.
    pub(super) faults: usize,
}

/// A fault, or the time between two faults.
struct Phase {
    until: Instant,
    is_fault: bool,
}

impl Phase {
    fn new() -> Self {
        Phase {
            until: Instant::now() + Duration::from_secs(5),
            is_fault: false,
        }
    }

    /// Whether the next phase begins.
    fn ends(&mut self, random: &mut Rng) -> bool {
        if Instant::now() < self.until {
            return false;
        }
        self.is_fault = !self.is_fault;
        let seconds = if self.is_fault { 1..12 } else { 4..25 };
        self.until = Instant::now() + Duration::from_secs(random.u64(seconds));
        true
    }
}

impl Disturbance {
    pub(super) fn new(stub: &Stub, receiver: &Receiver, address: SocketAddr, random: Rng) -> Self {
        Disturbance {
            stub: stub.clone(),
            receiver: receiver.clone(),
            address,
            random,
            prefect: Phase::new(),
            collector: Phase::new(),
            clients: Vec::new(),
            faults: 0,
        }
    }

    /// Begins and ends faults.
    pub(super) fn change(&mut self) {
        if self.prefect.ends(&mut self.random) {
            self.heal_prefect();
            if self.prefect.is_fault {
                self.faults += 1;
                self.disturb_prefect();
            }
        }
        if self.collector.ends(&mut self.random) {
            self.receiver.answer_well();
            self.faults += usize::from(self.collector.is_fault);
        }
        if self.collector.is_fault && self.receiver.has_answered() {
            let answer = refusal(&mut self.random);
            self.receiver.answer([answer]);
        }
        self.disturb_port();
    }

    /// Ends all faults.
    pub(super) fn end(&mut self) {
        self.heal_prefect();
        self.receiver.answer_well();
        self.clients.clear();
    }

    fn heal_prefect(&self) {
        self.stub.heal();
        self.stub.contents().delay = Duration::ZERO;
    }

    fn disturb_prefect(&mut self) {
        let share = *self.random.choice(&[0.2, 0.6, 1.0]).unwrap();
        let kind = self.random.usize(..=BAD_ANSWERS);
        if kind == BAD_ANSWERS {
            let delay = Duration::from_millis(self.random.u64(200..5_000));
            self.stub.contents().delay = delay;
            return;
        }
        let mut random = self.random.fork();
        self.stub
            .fault(move |_| (random.f64() < share).then(|| bad_answer(kind)));
    }

    /// A client that behaves badly, and the end of others.
    fn disturb_port(&mut self) {
        let now = Instant::now();
        self.clients.retain(|(_, until)| *until > now);
        if self.clients.len() >= MOST_CLIENTS || self.random.u8(..) > 40 {
            return;
        }
        let Ok(mut client) = TcpStream::connect(self.address) else {
            return;
        };
        self.faults += 1;
        let scrape = b"GET /metrics HTTP/1.1\r\nhost: agent\r\naccept-encoding: gzip\r\n\r\n";
        let bytes = match self.random.u8(..5) {
            // Idle.
            0 => Vec::new(),
            // An incomplete request.
            1 => scrape[..30].to_vec(),
            // An answer that nobody reads.
            2 => scrape.to_vec(),
            // Several requests at once.
            3 => scrape.repeat(8),
            _ => b"\x16\x03\x01 this is not HTTP\r\n\r\n".to_vec(),
        };
        // The agent may already have closed the connection.
        _ = client.write_all(&bytes);
        let until = now + Duration::from_millis(self.random.u64(..8_000));
        self.clients.push((client, until));
    }
}

const BAD_ANSWERS: usize = 11;

/// An answer of Prefect, or of a proxy before it, that has no use.
fn bad_answer(kind: usize) -> Response {
    let cut = || {
        let parts = [
            Ok(Bytes::from_static(b"[{\"id\": \"")),
            Err(std::io::Error::other("cut")),
        ];
        Body::from_stream(futures_util::stream::iter(parts))
    };
    match kind {
        0 => garbage(StatusCode::INTERNAL_SERVER_ERROR, "boom"),
        1 => (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")]).into_response(),
        2 => (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "2")]).into_response(),
        3 => garbage(StatusCode::OK, "<html>Please log in</html>"),
        4 => garbage(StatusCode::OK, "[{\"id\": \""),
        5 => garbage(StatusCode::OK, ""),
        6 => garbage(StatusCode::OK, "[".repeat(200_000)),
        7 => garbage(StatusCode::OK, vec![0xff; 10_000]),
        8 => recorded_error("error_unauthorized"),
        9 => (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, "/login")]).into_response(),
        _ => garbage(StatusCode::OK, cut()),
    }
}

/// An answer of the receiver that does not accept everything.
fn refusal(random: &mut Rng) -> Answer {
    Answer::Http(match random.u8(..7) {
        0 => garbage(StatusCode::INTERNAL_SERVER_ERROR, "boom"),
        1 => (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")]).into_response(),
        2 => (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "1")]).into_response(),
        3 => garbage(StatusCode::BAD_REQUEST, "no"),
        4 => garbage(StatusCode::BAD_GATEWAY, "<html>Bad gateway</html>"),
        5 => garbage(StatusCode::PAYLOAD_TOO_LARGE, "x".repeat(100_000)),
        _ => return Answer::Partial(1, "one data point is too old"),
    })
}
