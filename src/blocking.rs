//! Operations that may block for any length of time: files on a disk that does not respond, a pipe
//! that nobody reads.
//!
//! Each runs in its own thread, with a time limit. Threads of the runtime are not used: the runtime
//! renders metrics and resolves names in them, and its shutdown would wait for them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};

/// A value whose operations may block. Only one of them runs at a time, even if it has exceeded its
/// time limit: a write that ends late never overlaps with a newer one.
#[derive(Debug)]
pub(crate) struct Blocking<T> {
    /// The name of its threads.
    name: &'static str,
    value: Arc<Mutex<T>>,
    /// Whether an operation has exceeded its time limit.
    overdue: AtomicBool,
}

impl<T: Send + 'static> Blocking<T> {
    pub(crate) fn new(name: &'static str, value: T) -> Self {
        Blocking {
            name,
            value: Arc::new(Mutex::new(value)),
            overdue: AtomicBool::new(false),
        }
    }

    /// Runs `work` and waits for it, up to `limit`. It continues after that, and its result is
    /// dropped. If an earlier operation has exceeded its time limit and still runs, this fails
    /// immediately.
    ///
    /// # Errors
    ///
    /// If the operation does not end in time, or cannot be started.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> io::Result<R> {
        if self.overdue.load(Ordering::Relaxed) && self.value.try_lock().is_err() {
            let waits = "an earlier operation has not ended yet";
            return Err(io::Error::new(io::ErrorKind::TimedOut, waits));
        }
        let operation = async {
            // The caller may have been cancelled during an operation that is still in time.
            let mut value = Arc::clone(&self.value).lock_owned().await;
            in_thread(self.name, move || work(&mut value)).await
        };
        let result = tokio::time::timeout(limit, operation).await;
        self.overdue.store(result.is_err(), Ordering::Relaxed);
        result.unwrap_or_else(|_| Err(no_response(limit)))
    }
}

/// Runs `work` in its own thread.
///
/// # Errors
///
/// If the thread cannot be started, or panics.
pub(crate) async fn in_thread<R: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> R + Send + 'static,
) -> io::Result<R> {
    let (sender, result) = oneshot::channel();
    // Whatever `work` owns is dropped before its result is sent.
    start(name, move || _ = sender.send(work()))?;
    result.await.map_err(|_| panicked())
}

/// Runs `work` in its own thread, and blocks until it ends or `limit` has passed.
///
/// # Errors
///
/// If it does not end in time, the thread cannot be started, or it panics.
pub(crate) fn within<R: Send + 'static>(
    limit: Duration,
    name: &str,
    work: impl FnOnce() -> R + Send + 'static,
) -> io::Result<R> {
    let (sender, result) = sync_channel(1);
    start(name, move || _ = sender.send(work()))?;
    result.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => no_response(limit),
        RecvTimeoutError::Disconnected => panicked(),
    })
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map(drop)
}

fn no_response(limit: Duration) -> io::Error {
    let reason = format!("no response within {} s", limit.as_secs_f64());
    io::Error::new(io::ErrorKind::TimedOut, reason)
}

fn panicked() -> io::Error {
    io::Error::other("the operation panicked")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(20);

    /// A file whose operations wait for the disk, and what was written to it.
    type Hanging = (Receiver<()>, Vec<u32>);

    fn hanging() -> (Sender<()>, Blocking<Hanging>) {
        let (disk, waits) = channel();
        (disk, Blocking::new("test", (waits, Vec::new())))
    }

    fn write(number: u32) -> impl FnOnce(&mut Hanging) -> Vec<u32> {
        move |(disk, written)| {
            disk.recv().unwrap();
            written.push(number);
            written.clone()
        }
    }

    #[tokio::test]
    async fn a_write_that_ends_late_never_overwrites_a_newer_one() {
        let (disk, file) = hanging();
        let error = file.run(SHORT, write(1)).await.unwrap_err();
        assert_eq!(error.to_string(), "no response within 0.02 s");
        let started = Instant::now();
        let error = file.run(LONG, write(2)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < LONG, "it is not attempted");
        disk.send(()).unwrap();
        disk.send(()).unwrap();
        // The first write may need a moment to end.
        let third = loop {
            if let Ok(written) = file.run(LONG, write(3)).await {
                break written;
            }
            tokio::time::sleep(SHORT).await;
        };
        assert_eq!(third, [1, 3]);
    }

    #[tokio::test]
    async fn an_operation_waits_for_the_one_of_a_cancelled_caller() {
        let (disk, file) = hanging();
        let first = file.run(LONG, write(1));
        assert!(tokio::time::timeout(SHORT, first).await.is_err());
        disk.send(()).unwrap();
        disk.send(()).unwrap();
        assert_eq!(file.run(LONG, write(2)).await.unwrap(), [1, 2]);
    }

    #[test]
    fn blocking_code_waits_up_to_the_limit() {
        assert_eq!(within(LONG, "test", || 1).unwrap(), 1);
        let (_disk, waits) = channel::<()>();
        let error = within(SHORT, "test", move || waits.recv()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
