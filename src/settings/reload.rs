//! Files that are read again while the agent runs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Error;
use crate::failure::Failure;
use crate::secrets;

type Read<T> = dyn Fn() -> Result<T, Error> + Send + Sync;

/// Settings whose files are read again, and whether that works. Clones share this.
#[derive(Debug, Clone)]
pub struct Watched {
    names: Arc<str>,
    failure: Arc<Mutex<Option<Failure>>>,
}

impl Watched {
    pub(super) fn new(names: &[String]) -> Self {
        Watched {
            names: names.join(", ").into(),
            failure: Arc::default(),
        }
    }

    /// The names of the settings, separated by commas.
    pub fn names(&self) -> &Arc<str> {
        &self.names
    }

    /// Notes that the files could be read and used. Returns whether that failed before.
    pub fn note_success(&self) -> bool {
        self.last().take().is_some()
    }

    /// Notes that the files could not be read or used. Returns the previous reason, if that has
    /// failed before.
    pub fn note_failure(&self, reason: &str) -> Option<String> {
        Failure::note(&mut self.last(), reason.to_owned())
    }

    /// Since when this fails, and why.
    pub fn failure(&self) -> Option<Failure> {
        self.last().clone()
    }

    fn last(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All settings whose files are read again.
#[derive(Debug, Clone, Default)]
pub struct Reloads(pub(super) Vec<Watched>);

impl Reloads {
    /// Since when, and why, each of them fails.
    pub fn read(&self) -> BTreeMap<Arc<str>, Option<Failure>> {
        let mut all: BTreeMap<_, Option<Failure>> = BTreeMap::new();
        for watched in &self.0 {
            let failure = all.entry(Arc::clone(watched.names())).or_default();
            *failure = failure.take().or(watched.failure());
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
            watched: Watched::new(&names),
            read: Arc::new(read),
        }
    }

    /// Reads them. This blocks.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or has a value that is not valid.
    pub fn read(&self) -> Result<T, Error> {
        let reader = Arc::as_ptr(self.watched.names()).addr();
        secrets::read_again(reader, || (self.read)())
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
