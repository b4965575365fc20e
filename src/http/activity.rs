//! What a connection does, and for how long: waiting for a request, reading one, or answering.
//!
//! The server library has a timeout for the head of a request only. An answer has ended when all of
//! it has been written, which only the stream below the library knows, so the stream is observed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::limits::Limits;

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The head of a request is due: the connection is new, or a part has arrived.
    Head,
    /// Nothing has arrived since the last answer.
    Idle,
    /// A request is answered.
    Answer,
    /// The connection has to make room for another one.
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct State {
    phase: Phase,
    since: Instant,
    /// Whether the body of the answer has more to write.
    has_more: bool,
}

/// What a connection does, and since when.
#[derive(Debug)]
pub(super) struct Activity(watch::Sender<State>);

impl Default for Activity {
    fn default() -> Self {
        Activity(watch::Sender::new(State {
            phase: Phase::Head,
            since: Instant::now(),
            has_more: false,
        }))
    }
}

/// An answer in progress.
pub(super) struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.change(|state| state.has_more = false);
    }
}

impl Activity {
    /// An answer counts as idle time only after this, since it takes a moment to read.
    const ANSWER_BONUS: Duration = Duration::from_secs(10);

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.0.send_if_modified(|state| {
            let before = (state.phase, state.since);
            if state.phase != Phase::Closed {
                change(state);
            }
            (state.phase, state.since) != before
        });
    }

    fn enter(&self, phase: Phase) {
        self.change(|state| {
            state.phase = phase;
            state.since = Instant::now();
        });
    }

    /// Bytes of a request have arrived.
    fn received(&self) {
        if self.0.borrow().phase == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    /// A request is complete. The answer is in progress until its body, which owns the returned value, is
    /// dropped and everything is written.
    pub(super) fn answering(self: &Arc<Self>) -> Answering {
        self.change(|state| {
            *state = State {
                phase: Phase::Answer,
                since: Instant::now(),
                has_more: true,
            };
        });
        Answering(Arc::clone(self))
    }

    /// Everything that there was to write has been written.
    pub(super) fn flushed(&self) {
        let state = *self.0.borrow();
        if state.phase == Phase::Answer && !state.has_more {
            self.enter(Phase::Idle);
        }
    }

    /// Closes the connection.
    pub(super) fn close(&self) {
        self.enter(Phase::Closed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.borrow().phase == Phase::Closed
    }

    /// The time from which the connection counts as idle. The one with the earliest time is closed
    /// first.
    pub(super) fn spared(&self) -> Instant {
        let State { phase, since, .. } = *self.0.borrow();
        match phase {
            Phase::Answer => since + Self::ANSWER_BONUS,
            Phase::Head | Phase::Idle | Phase::Closed => since,
        }
    }

    /// Lets time pass, without a change.
    #[cfg(test)]
    pub(super) fn age(&self, time: Duration) {
        self.change(|state| {
            state.since = state.since.checked_sub(time).unwrap_or(state.since);
        });
    }

    /// Waits until the connection is to be closed.
    #[cfg(test)]
    pub(super) async fn closed(&self) {
        let mut state = self.0.subscribe();
        _ = state.wait_for(|state| state.phase == Phase::Closed).await;
    }

    /// Waits until the connection has to end, and returns why.
    pub(super) async fn overdue(&self, limits: &Limits) -> &'static str {
        let mut changes = self.0.subscribe();
        loop {
            let State { phase, since, .. } = *changes.borrow_and_update();
            let (limit, reason) = match phase {
                Phase::Head => (limits.head, "the client did not send a request in time"),
                Phase::Idle => (limits.idle, "it was idle"),
                Phase::Answer => (limits.answer, "the client did not read the answer in time"),
                Phase::Closed => return "there were too many connections",
            };
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = sleep_until(since + limit) => return reason,
            }
        }
    }
}

/// A stream that reports what it reads and writes.
pub(super) struct Observed<T> {
    stream: T,
    activity: Arc<Activity>,
}

impl<T> Observed<T> {
    pub(super) fn new(stream: T, activity: Arc<Activity>) -> Self {
        Observed { stream, activity }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Observed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.activity.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Observed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// The server library flushes the stream once all its own buffers are written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The body of an answer, which is in progress until the body is dropped.
pub(super) struct Answer {
    body: Body,
    _answering: Answering,
}

impl Answer {
    pub(super) fn new(body: Body, answering: Answering) -> Self {
        Answer {
            body,
            _answering: answering,
        }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
