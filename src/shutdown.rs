//! The shutdown of the process, as a signal to wait for.

use tokio::sync::watch;

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

    /// A shutdown on SIGTERM or SIGINT. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If signal handlers cannot be installed.
    pub fn on_signals() -> std::io::Result<Shutdown> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (trigger, shutdown) = Shutdown::new();
        tokio::spawn(async move {
            let signal = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal, "shutting down");
            trigger.now();
        });
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
