//! The shutdown of the process, as a signal to wait for.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::stdio;

/// A process that is still running after this time is ended. The shutdown itself should take less.
const LONGEST: Duration = Duration::from_secs(4);

/// What ends before the process does, even if it is ended by force.
const LAST_LINES: Duration = Duration::from_millis(100);

/// The exit code of a process that is ended by force.
const FORCED: i32 = 1;

/// Waits for the shutdown. Clones wait for the same one.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Triggers the shutdown.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Shutdown {
    /// A shutdown and its trigger. Dropping the trigger also triggers it.
    pub fn new() -> (Trigger, Shutdown) {
        let (sender, receiver) = watch::channel(false);
        (Trigger(sender), Shutdown(receiver))
    }

    /// A shutdown on SIGTERM, SIGINT or SIGHUP. A second signal ends the process immediately, and
    /// so does a shutdown that takes too long.
    ///
    /// Signals are received in their own thread, so that nothing that blocks the process delays
    /// them.
    ///
    /// # Errors
    ///
    /// If signal handlers cannot be installed.
    pub fn on_signals() -> io::Result<Shutdown> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut signals = {
            let _context = runtime.enter();
            Signals::new()?
        };
        let (trigger, shutdown) = Shutdown::new();
        let wait = async move {
            let (name, _) = signals.next().await;
            // Acted on before it is logged.
            trigger.now();
            tracing::info!(signal = name, "shutting down");
            let code = tokio::select! {
                (name, number) = signals.next() => {
                    tracing::warn!(signal = name, "a second signal: the agent ends immediately");
                    number.saturating_add(128)
                }
                () = tokio::time::sleep(LONGEST) => {
                    tracing::error!("the shutdown takes too long: the agent ends immediately");
                    FORCED
                }
            };
            stdio::flush(LAST_LINES);
            std::process::exit(code);
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(wait))?;
        Ok(shutdown)
    }

    /// Waits for the shutdown.
    pub async fn wait(&mut self) {
        // An error means that the trigger was dropped.
        _ = self.0.wait_for(|end| *end).await;
    }
}

impl Trigger {
    /// Triggers the shutdown.
    pub fn now(self) {
        self.0.send_replace(true);
    }
}

/// The signals that end the agent.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// `None` if the process ignores it.
    hang_up: Option<Signal>,
}

impl Signals {
    /// Must be called within a tokio runtime.
    fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            // `nohup` starts a process that ignores it.
            hang_up: match ignores(SignalKind::hangup()) {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    /// The name and the number of the next signal.
    async fn next(&mut self) -> (&'static str, i32) {
        let (name, kind) = tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", SignalKind::terminate()),
            _ = self.interrupt.recv() => ("SIGINT", SignalKind::interrupt()),
            Some(()) = next(self.hang_up.as_mut()) => ("SIGHUP", SignalKind::hangup()),
        };
        (name, kind.as_raw_value())
    }
}

async fn next(signal: Option<&mut Signal>) -> Option<()> {
    signal?.recv().await
}

/// Whether the process was started with this signal ignored, as far as the system reports it.
fn ignores(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    is_ignored(&status, kind.as_raw_value())
}

/// Whether `status`, the content of `/proc/self/status`, has this signal among the ignored ones.
fn is_ignored(status: &str, number: i32) -> bool {
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = u32::try_from(number)
        .ok()
        .and_then(|number| number.checked_sub(1));
    let shifted = bit.and_then(|bit| mask?.checked_shr(bit));
    shifted.is_some_and(|shifted| shifted & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tcat\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000001\n";
        assert!(is_ignored(status, 1) && is_ignored(status, 13));
        assert!(!is_ignored(status, 2));
        assert!(!is_ignored("", 1));
    }
}
