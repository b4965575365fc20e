//! Writes the checkpoints of a running process. The disk may stop responding at any time.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::blocking::Blocking;
use crate::checkpoint::{Checkpoint, Error};
use crate::core::saved::SavedState;
use crate::metrics::agent::Checkpoints;
use crate::settings::Settings;

/// A process that is being replaced may take some seconds to stop.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// At the start, the agent does not answer until the disk has responded or this time has passed.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// A write that takes longer has failed. It delays the cycle, but only once: as long as it has not
/// ended, no other one is attempted.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// Writes the checkpoints of a process, if they are enabled.
///
/// A write that ends after its time limit counts as failed, although it has replaced the file. This
/// is harmless: counting resumes from any checkpoint that was written, and the next one is due
/// immediately.
#[derive(Debug)]
pub struct Keeper {
    file: Option<(PathBuf, Blocking<Checkpoint>)>,
    /// The checkpoints so far.
    written: Checkpoints,
    /// Whether a write is in progress. It still is if the caller was cancelled.
    is_writing: bool,
    /// The time limit of a write.
    pub(crate) patience: Duration,
}

impl Default for Keeper {
    /// Writes no checkpoints.
    fn default() -> Self {
        Keeper {
            file: None,
            written: Checkpoints::default(),
            is_writing: false,
            patience: WRITE_PATIENCE,
        }
    }
}

impl Keeper {
    /// The keeper according to `settings`, and the checkpoint of the previous process.
    ///
    /// # Errors
    ///
    /// If another process uses the checkpoint.
    pub async fn open(settings: &Settings) -> Result<(Self, Option<SavedState>), Error> {
        let Some(folder) = &settings.state_dir else {
            return Ok((Keeper::default(), None));
        };
        let checkpoint = Checkpoint::new(folder, settings.prefect.api_url.as_str());
        let path = checkpoint.path().to_owned();
        let file = Blocking::new("checkpoint", checkpoint);
        let mut written = Checkpoints::default();
        let saved = match lock(&file, &path).await {
            Ok(()) => restore(read(&file, &path).await, &path),
            Err(error @ Error::InUse(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "cannot write the checkpoint; after a restart, counters would resume from the previous one, or start at zero");
                written.note_failure(&error);
                match timed_out(&error) {
                    true => None,
                    false => restore_unlocked(&file, &path).await,
                }
            }
        };
        let keeper = Keeper {
            file: Some((path, file)),
            written,
            ..Keeper::default()
        };
        Ok((keeper, saved))
    }

    /// Whether checkpoints are enabled.
    pub fn is_on(&self) -> bool {
        self.file.is_some()
    }

    /// The checkpoints so far, if they are enabled.
    pub fn checkpoints(&self) -> Option<Checkpoints> {
        self.is_on().then(|| self.written.clone())
    }

    /// Whether the last call of [`keep`](Keeper::keep) was cancelled.
    pub(crate) fn was_cancelled(&self) -> bool {
        self.is_writing
    }

    /// Writes a checkpoint; `false` if that failed. Only the first failure is logged. The previous
    /// checkpoint is kept.
    pub async fn keep(&mut self, saved: SavedState) -> bool {
        let Some((path, file)) = &self.file else {
            return true;
        };
        self.is_writing = true;
        let write = move |checkpoint: &mut Checkpoint| checkpoint.write(saved);
        let written = file.run(self.patience, write).await;
        self.is_writing = false;
        let result = written.unwrap_or_else(|error| Err(Error::Io(path.clone(), error)));
        match &result {
            Err(error) => {
                if self.written.note_failure(error) {
                    tracing::warn!(
                        %error,
                        "cannot write the checkpoint; after a restart, counters would resume from the previous one"
                    );
                }
            }
            Ok(()) => {
                if self.written.note_success() {
                    tracing::info!("STATE_DIR: checkpoints can be written again");
                }
            }
        }
        result.is_ok()
    }
}

fn timed_out(error: &Error) -> bool {
    matches!(error, Error::Io(_, error) if error.kind() == io::ErrorKind::TimedOut)
}

/// Locks the file, waiting for another process.
async fn lock(file: &Blocking<Checkpoint>, path: &Path) -> Result<(), Error> {
    let started = Instant::now();
    loop {
        let locked = file.run(START_PATIENCE, Checkpoint::lock).await;
        match locked.map_err(|error| Error::Io(path.to_owned(), error))? {
            Err(Error::InUse(_)) if started.elapsed() < LOCK_PATIENCE => {
                tokio::time::sleep(LOCK_AGAIN_AFTER).await;
            }
            locked => return locked,
        }
    }
}

/// Reads the file on a disk that is full or read-only. It has been reported that the folder cannot
/// be used; here, only an existing file is.
async fn restore_unlocked(file: &Blocking<Checkpoint>, path: &Path) -> Option<SavedState> {
    match read(file, path).await {
        Ok(None) | Err(Error::Io(..)) => None,
        result => restore(result, path),
    }
}

fn restore(read: Result<Option<SavedState>, Error>, path: &Path) -> Option<SavedState> {
    let shown = path.display();
    match read {
        Ok(Some(saved)) => {
            let cursor = saved.cursor().map(|cursor| cursor.to_string());
            tracing::info!(path = %shown, cursor, "counters resume from the checkpoint; runs that have ended since then are counted now");
            Some(saved)
        }
        Ok(None) => {
            tracing::warn!(path = %shown, "STATE_DIR: no checkpoint found; runs that end from now on are counted");
            None
        }
        // It is renamed when the first new checkpoint is written.
        Err(error) => {
            tracing::warn!(%error, "cannot use the checkpoint; runs that end from now on are counted");
            None
        }
    }
}

/// Reads the file. If this takes too long, its content is never used, so the file must not be
/// overwritten. Therefore, it is claimed only after its content has arrived.
async fn read(file: &Blocking<Checkpoint>, path: &Path) -> Result<Option<SavedState>, Error> {
    let io = |error: io::Error| Error::Io(path.to_owned(), error);
    let load = |checkpoint: &mut Checkpoint| checkpoint.load();
    let saved = file.run(START_PATIENCE, load).await.map_err(io)??;
    file.run(START_PATIENCE, Checkpoint::claim)
        .await
        .map_err(io)?;
    Ok(saved)
}
