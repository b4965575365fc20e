//! The protection that is in use, which follows changes of the files.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::{Material, Protection};
use crate::settings::{Error, Watched, Web};
use crate::shutdown::Shutdown;

/// Files that cannot be read within this time are read later.
const PATIENCE: Duration = Duration::from_secs(2);

/// The protection that is in use.
#[derive(Clone)]
pub(in crate::http) struct Live(watch::Receiver<Arc<Protection>>);

impl Live {
    pub(in crate::http) fn current(&self) -> Arc<Protection> {
        Arc::clone(&self.0.borrow())
    }
}

/// The protection of the endpoints, and what it is read from.
pub struct Security {
    settings: Web,
    material: Material,
    protection: watch::Sender<Arc<Protection>>,
}

impl Security {
    /// Reads the files in `settings`.
    ///
    /// # Errors
    ///
    /// If one of them cannot be used.
    pub fn load(settings: &Web) -> Result<Self, Error> {
        let material = Material::read(settings)?;
        let protection = material.protection(settings)?;
        Ok(Security {
            settings: settings.clone(),
            material,
            protection: watch::Sender::new(Arc::new(protection)),
        })
    }

    /// The protection in words.
    pub fn describe(&self) -> String {
        self.protection.borrow().to_string()
    }

    /// The protection that is in use.
    pub(in crate::http) fn live(&self) -> Live {
        Live(self.protection.subscribe())
    }

    /// Reads the files again every `interval`, until `shutdown`. Their content is compared instead
    /// of their times: Kubernetes replaces the folder above them.
    pub(in crate::http) async fn reload(mut self, interval: Duration, mut shutdown: Shutdown) {
        let Some(watched) = self.settings.watched.clone() else {
            return;
        };
        let mut pending = None;
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                _ = ticks.tick() => {}
            }
            let settings = self.settings.clone();
            let start = || tokio::task::spawn_blocking(move || Material::read(&settings));
            // A file system may hang. There is never a second read, because each blocks a thread.
            let read = tokio::time::timeout(PATIENCE, pending.get_or_insert_with(start));
            let read = tokio::select! {
                () = shutdown.wait() => return,
                read = read => read,
            };
            match read {
                Ok(read) => {
                    pending = None;
                    if let Ok(read) = read {
                        note(&watched, self.apply(read));
                    }
                }
                Err(_) => {
                    let seconds = PATIENCE.as_secs();
                    let reason = format!("the files could not be read within {seconds} s");
                    note(&watched, Err(reason));
                }
            }
        }
    }

    /// Uses what was read. The error is the reason why it cannot be used.
    fn apply(&mut self, read: Result<Material, Error>) -> Result<(), String> {
        let material = read.map_err(|error| error.to_string())?;
        if material == self.material {
            return Ok(());
        }
        let protection = material.protection(&self.settings);
        let protection = protection.map_err(|error| error.to_string())?;
        if let Some(lost) = self.protection.borrow().lost_in(&protection) {
            return Err(lost.to_owned());
        }
        tracing::info!(%protection, "the web configuration has changed");
        self.material = material;
        self.protection.send_replace(Arc::new(protection));
        Ok(())
    }
}

/// Notes whether the files can be used. Each reason is logged once.
fn note(watched: &Watched, result: Result<(), String>) {
    match result {
        Ok(()) => {
            if watched.note_success() {
                tracing::info!("the web configuration can be used again");
            }
        }
        Err(reason) => {
            if watched.note_failure(&reason).as_ref() != Some(&reason) {
                tracing::warn!(
                    error = reason,
                    "the web configuration has changed, but cannot be used; the previous one stays in use"
                );
            }
        }
    }
}
