//! Secrets that are read from their files again while the agent runs.

use std::fmt;
use std::sync::Arc;

use super::Error;

type Read<T> = dyn Fn() -> Result<T, Error> + Send + Sync;

/// Reads settings again whose secrets are in files.
pub struct Reload<T> {
    names: Arc<[String]>,
    read: Arc<Read<T>>,
}

impl<T> Reload<T> {
    /// Reads the settings with these names.
    pub fn new(
        names: Vec<String>,
        read: impl Fn() -> Result<T, Error> + Send + Sync + 'static,
    ) -> Self {
        Reload {
            names: names.into(),
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

    /// The names of the settings, for messages.
    pub fn names(&self) -> String {
        self.names.join(", ")
    }

    /// The same, with the result converted by `convert`.
    pub fn map<U>(&self, convert: impl Fn(T) -> U + Send + Sync + 'static) -> Reload<U>
    where
        T: 'static,
    {
        let read = Arc::clone(&self.read);
        Reload {
            names: Arc::clone(&self.names),
            read: Arc::new(move || read().map(&convert)),
        }
    }
}

impl<T> Clone for Reload<T> {
    fn clone(&self) -> Self {
        Reload {
            names: Arc::clone(&self.names),
            read: Arc::clone(&self.read),
        }
    }
}

impl<T> fmt::Debug for Reload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload")
            .field("names", &self.names)
            .finish()
    }
}
