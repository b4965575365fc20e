//! Files that are read again while the agent runs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use super::Error;

type Read<T> = dyn Fn() -> Result<T, Error> + Send + Sync;

/// Since when files cannot be read or used, and why.
pub type Failing = (Timestamp, String);

/// Settings whose files are read again, and whether that works. Clones share this.
#[derive(Debug, Clone)]
pub struct Watched {
    names: Arc<[String]>,
    failing: Arc<Mutex<Option<Failing>>>,
}

impl Watched {
    pub(super) fn new(names: Vec<String>) -> Self {
        Watched {
            names: names.into(),
            failing: Arc::default(),
        }
    }

    /// The names of the settings.
    pub fn names(&self) -> String {
        self.names.join(", ")
    }

    /// Notes that the files could be read and used. Returns whether that failed before.
    pub fn note_success(&self) -> bool {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.take().is_some()
    }

    /// Notes that the files could not be read or used. Returns the previous reason, if that has
    /// failed before.
    pub fn note_failure(&self, reason: &str) -> Option<String> {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = failing.take();
        let since = before.as_ref().map(|(since, _)| *since);
        *failing = Some((since.unwrap_or_else(Timestamp::now), reason.to_owned()));
        before.map(|(_, reason)| reason)
    }

    /// Since when this fails, and why.
    pub fn failing(&self) -> Option<Failing> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.clone()
    }
}

/// All settings whose files are read again.
#[derive(Debug, Clone, Default)]
pub struct Reloads(pub(super) Vec<Watched>);

impl Reloads {
    /// Since when, and why, each of them fails.
    pub fn read(&self) -> BTreeMap<String, Option<Failing>> {
        let mut all = BTreeMap::new();
        for watched in &self.0 {
            let failing: &mut Option<Failing> = all.entry(watched.names()).or_default();
            *failing = failing.take().or(watched.failing());
        }
        all
    }
}

/// Reads settings again whose secrets are in files.
pub struct Reload<T> {
    watched: Watched,
    read: Arc<Read<T>>,
}

impl<T> Reload<T> {
    /// Reads the settings with these names.
    pub fn new(
        names: Vec<String>,
        read: impl Fn() -> Result<T, Error> + Send + Sync + 'static,
    ) -> Self {
        Reload {
            watched: Watched::new(names),
            read: Arc::new(read),
        }
    }

    /// Reads them. This blocks.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or has a value that is not valid.
    pub fn read(&self) -> Result<T, Error> {
        (self.read)()
    }

    /// The settings, and whether reading them works.
    pub fn watched(&self) -> &Watched {
        &self.watched
    }

    /// The same, with the result converted by `convert`.
    pub fn map<U>(&self, convert: impl Fn(T) -> U + Send + Sync + 'static) -> Reload<U>
    where
        T: 'static,
    {
        let read = Arc::clone(&self.read);
        Reload {
            watched: self.watched.clone(),
            read: Arc::new(move || read().map(&convert)),
        }
    }
}

impl<T> Clone for Reload<T> {
    fn clone(&self) -> Self {
        Reload {
            watched: self.watched.clone(),
            read: Arc::clone(&self.read),
        }
    }
}

impl<T> fmt::Debug for Reload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload")
            .field("watched", &self.watched)
            .finish()
    }
}
