//! The protection that is in use, which follows changes of the files.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::{Material, Protection};
use crate::settings::{Error, Web};
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
    /// The last failure to read a change.
    failure: Option<String>,
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
            failure: None,
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
        if !self.settings.has_files() {
            return;
        }
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
                        self.apply(read);
                    }
                }
                Err(_) => self.keep(format!(
                    "the files could not be read within {} s",
                    PATIENCE.as_secs()
                )),
            }
        }
    }

    fn apply(&mut self, read: Result<Material, Error>) {
        let material = match read {
            Ok(material) if material == self.material => {
                if self.failure.take().is_some() {
                    tracing::info!("the web configuration is the one in use again");
                }
                return;
            }
            Ok(material) => material,
            Err(error) => return self.keep(error.to_string()),
        };
        let protection = match material.protection(&self.settings) {
            Ok(protection) => protection,
            Err(error) => return self.keep(error.to_string()),
        };
        let lost = self.protection.borrow().lost_in(&protection);
        if let Some(lost) = lost {
            return self.keep(lost.to_owned());
        }
        tracing::info!(%protection, "the web configuration has changed");
        self.failure = None;
        self.material = material;
        self.protection.send_replace(Arc::new(protection));
    }

    /// Keeps what is in use, and logs the reason once.
    fn keep(&mut self, reason: String) {
        if self.failure.as_ref() != Some(&reason) {
            tracing::warn!(
                error = reason,
                "the web configuration has changed, but cannot be used; the previous one stays in use"
            );
            self.failure = Some(reason);
        }
    }
}
