//! The standard streams. They may be closed, full, or a pipe that nobody reads: none of this may
//! stop the process or delay its end.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::secrets::scrub;

/// The lines that may wait for stderr, in bytes: those of several cycles at the most verbose level.
const WAITING: usize = 4 * 1024 * 1024;

/// Everything that is written to stderr, in this order. `None` if no thread could be started.
static STDERR: LazyLock<Option<Lines>> = LazyLock::new(|| {
    let on_lost = |lines| {
        tracing::warn!(
            lines,
            "log lines were dropped, because stderr could not be written to"
        );
    };
    Lines::new(WAITING, io::stderr(), on_lost).ok()
});

/// Writes each event of the log to stderr, without secrets and without blocking.
#[derive(Debug)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let shown = scrub(event);
        match &*STDERR {
            Some(lines) => lines.put(&shown),
            None => _ = io::stderr().write_all(&shown),
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a line to stderr. Errors are ignored: there is no other place to report them.
pub fn say(line: &str) {
    _ = Log.write_all(format!("{line}\n").as_bytes());
}

/// Waits until everything has been written to stderr, up to `limit`.
pub fn flush(limit: Duration) {
    if let Some(lines) = &*STDERR {
        lines.flush(limit);
    }
}

/// Writes a command's output to stdout. The reader may close the pipe early, as `head` does: this
/// is not an error.
///
/// # Errors
///
/// If it cannot be written, for example because the disk is full.
pub fn print(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    // Without `flush`, the last line would be written when the process ends, and errors be ignored.
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Lines that a separate thread writes. Those that exceed the limit are dropped and counted.
struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    limit: usize,
    /// The size of `lines`.
    bytes: usize,
    /// Whether a line is being written.
    is_writing: bool,
    /// Whether a line was dropped. The others are then dropped too until the queue is empty, so
    /// that there is only one gap.
    is_full: bool,
    /// The lines that were dropped or could not be written, and have not been reported yet.
    lost: u64,
}

impl Lines {
    /// A queue of up to `limit` bytes for `out`. As soon as `out` can be written to again,
    /// `on_lost` is called with the number of lines that were lost.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    fn new(
        limit: usize,
        mut out: impl Write + Send + 'static,
        on_lost: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let lines = Lines(Arc::default());
        lines.0.queue().limit = limit;
        let shared = Arc::clone(&lines.0);
        let write = move || {
            loop {
                let line = shared.next();
                let written = out.write_all(&line).and_then(|()| out.flush());
                let lost = shared.written(written.is_ok());
                if lost > 0 {
                    on_lost(lost);
                }
            }
        };
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(write)?;
        Ok(lines)
    }

    fn put(&self, line: &[u8]) {
        let mut queue = self.0.queue();
        if queue.lines.is_empty() {
            queue.is_full = false;
        }
        let bytes = queue.bytes.saturating_add(line.len());
        queue.is_full |= !queue.lines.is_empty() && bytes > queue.limit;
        if queue.is_full {
            queue.lost = queue.lost.saturating_add(1);
            return;
        }
        queue.bytes = bytes;
        queue.lines.push_back(line.to_vec());
        drop(queue);
        self.0.changed.notify_all();
    }

    fn flush(&self, limit: Duration) {
        let is_busy = |queue: &mut Queue| queue.is_writing || !queue.lines.is_empty();
        let queue = self.0.queue();
        drop(self.0.changed.wait_timeout_while(queue, limit, is_busy));
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next line to write.
    fn next(&self) -> Vec<u8> {
        let mut queue = self.queue();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes = queue.bytes.saturating_sub(line.len());
                queue.is_writing = true;
                return line;
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes that a line was written, or could not be. Returns the number of lost lines to report.
    fn written(&self, is_ok: bool) -> u64 {
        let mut queue = self.queue();
        queue.is_writing = false;
        let lost = match (is_ok, queue.lines.is_empty()) {
            (true, true) => std::mem::take(&mut queue.lost),
            (true, false) => 0,
            (false, _) => {
                queue.lost = queue.lost.saturating_add(1);
                0
            }
        };
        drop(queue);
        self.changed.notify_all();
        lost
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    /// A stream that hands over each line, and then waits for the result.
    struct Slow(Sender<String>, Receiver<io::Result<()>>);

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            // The test may have ended.
            _ = self.0.send(String::from_utf8_lossy(line).into_owned());
            self.1.recv().unwrap_or(Ok(())).map(|()| line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Stream {
        lines: Lines,
        written: Receiver<String>,
        result: Sender<io::Result<()>>,
        lost: Receiver<u64>,
    }

    fn stream(limit: usize) -> Stream {
        let (writes, written) = channel();
        let (result, results) = channel();
        let (loses, lost) = channel();
        let on_lost = move |lines| _ = loses.send(lines);
        Stream {
            lines: Lines::new(limit, Slow(writes, results), on_lost).unwrap(),
            written,
            result,
            lost,
        }
    }

    #[test]
    fn lines_that_nobody_reads_are_dropped_and_counted_when_the_reader_is_back() {
        let stream = stream(4);
        stream.lines.put(b"a1");
        // It is being written and no longer waits.
        assert_eq!(stream.written.recv().unwrap(), "a1");
        for line in ["b2", "c3", "d4", "e5"] {
            stream.lines.put(line.as_bytes());
        }
        stream.lines.flush(Duration::from_millis(1));
        for expected in ["b2", "c3"] {
            assert!(stream.lost.try_recv().is_err());
            stream.result.send(Ok(())).unwrap();
            assert_eq!(stream.written.recv().unwrap(), expected);
        }
        stream.result.send(Ok(())).unwrap();
        assert_eq!(stream.lost.recv_timeout(LONG).unwrap(), 2);
        stream.lines.put(b"f6");
        assert_eq!(stream.written.recv().unwrap(), "f6");
        stream.result.send(Ok(())).unwrap();
        stream.lines.flush(LONG);
        assert!(stream.lost.try_recv().is_err());
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_once_one_can() {
        let stream = stream(1024);
        for line in ["a1", "b2"] {
            stream.lines.put(line.as_bytes());
            stream.written.recv().unwrap();
            let full = io::Error::from(io::ErrorKind::StorageFull);
            stream.result.send(Err(full)).unwrap();
        }
        stream.lines.put(b"c3");
        stream.written.recv().unwrap();
        assert!(stream.lost.try_recv().is_err());
        stream.result.send(Ok(())).unwrap();
        assert_eq!(stream.lost.recv_timeout(LONG).unwrap(), 2);
    }

    #[test]
    fn a_line_larger_than_the_limit_is_written() {
        let stream = stream(1);
        stream.lines.put(b"large");
        assert_eq!(stream.written.recv().unwrap(), "large");
    }
}
