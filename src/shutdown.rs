//! The end of the process, as something to wait for.

use tokio::sync::watch;

/// Says when to end. Clones wait for the same end.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Brings the end about.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Shutdown {
    /// An end and what brings it about. A trigger that is dropped brings it about too.
    pub fn new() -> (Trigger, Shutdown) {
        let (sender, receiver) = watch::channel(false);
        (Trigger(sender), Shutdown(receiver))
    }

    /// The end by SIGTERM or SIGINT. Inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the signals cannot be listened to.
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

    /// Waits for the end.
    pub async fn wait(&mut self) {
        // An error means that the trigger is gone.
        _ = self.0.wait_for(|end| *end).await;
    }
}

impl Trigger {
    /// Now.
    pub fn now(self) {
        self.0.send_replace(true);
    }
}
