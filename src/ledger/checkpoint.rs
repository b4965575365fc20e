//! The checkpoint: the ledger in a file, so that it survives a restart.
//!
//! It is written before a cycle is published, so that nothing is ever published that a
//! restart could forget; and written beside the old one and then renamed, so that there is
//! always a whole one.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::tally::Row;
use super::{Id, LastRuns, Ledger};

/// The version of the file's form.
const VERSION: u32 = 1;
/// A file beyond it is none of ours: a large fleet's takes a few MB.
const LARGEST: u64 = 512 * 1024 * 1024;

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("there is none yet")]
    Missing,
    /// It cannot be read or written.
    #[error(transparent)]
    Io(io::Error),
    /// It is not a checkpoint, or a broken one.
    #[error("it is damaged: {0}")]
    Damaged(serde_json::Error),
    /// It is too large to be one.
    #[error("it has {0} bytes: it is none")]
    TooLarge(u64),
    /// Another version of the agent wrote it.
    #[error("its version is {0}, not {VERSION}")]
    Version(u32),
    /// It belongs to another Prefect API.
    #[error("it is of another Prefect API, {0}")]
    Foreign(String),
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    prefect_api_url: String,
    since: Timestamp,
    cursor: Timestamp,
    task_cursor: Option<Timestamp>,
    /// Flow runs that had not ended.
    unfinished: Vec<Id>,
    counted: Vec<(Id, Id, Timestamp)>,
    finished: Vec<Row>,
    retries: Vec<Row>,
    tasks: Vec<Row>,
    last_runs: HashMap<Id, LastRuns>,
}

/// Where the checkpoint of one Prefect API is.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    folder: PathBuf,
    prefect_api_url: String,
}

/// What a checkpoint holds.
#[derive(Debug)]
pub struct Restored {
    /// The ledger as it was.
    pub ledger: Ledger,
    /// Flow runs that had not ended then.
    pub unfinished: Vec<Id>,
}

impl Checkpoint {
    /// The checkpoint of the API at `prefect_api_url`, in `folder`.
    pub fn new(folder: PathBuf, prefect_api_url: &str) -> Self {
        Checkpoint {
            folder,
            prefect_api_url: prefect_api_url.to_owned(),
        }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.join("checkpoint.json")
    }

    /// Reads it, into a ledger of at most `limit` series a tally. Without `tallies` they
    /// begin at zero, while what is counted stays so.
    ///
    /// # Errors
    ///
    /// When there is none that can be used.
    pub fn read(&self, limit: usize, tallies: bool) -> Result<Restored, Error> {
        let file = File::open(self.path()).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing,
            _ => Error::Io(error),
        })?;
        let size = file.metadata().map_err(Error::Io)?.len();
        if size > LARGEST {
            return Err(Error::TooLarge(size));
        }
        let mut text = Vec::new();
        file.take(LARGEST)
            .read_to_end(&mut text)
            .map_err(Error::Io)?;
        let head: Head = serde_json::from_slice(&text).map_err(Error::Damaged)?;
        if head.version != VERSION {
            return Err(Error::Version(head.version));
        }
        let content: Content = serde_json::from_slice(&text).map_err(Error::Damaged)?;
        if content.prefect_api_url != self.prefect_api_url {
            return Err(Error::Foreign(content.prefect_api_url));
        }
        let mut ledger = Ledger::new(limit);
        ledger.since = Some(content.since);
        ledger.cursor = Some(content.cursor);
        ledger.task_cursor = content.task_cursor;
        let counted = content.counted.into_iter();
        ledger.counted = counted
            .map(|(run, state, time)| ((run, state), time))
            .collect();
        if tallies {
            let rows = content.finished.into_iter();
            rows.for_each(|row| ledger.finished.restore(row));
            let rows = content.retries.into_iter();
            rows.for_each(|row| ledger.retries.restore(row));
            let rows = content.tasks.into_iter();
            rows.for_each(|row| ledger.tasks.restore(row));
        }
        ledger.last_runs = content.last_runs;
        Ok(Restored {
            ledger,
            unfinished: content.unfinished,
        })
    }

    /// The text of the checkpoint; `None` before anything has been read.
    pub fn encode(&self, ledger: &Ledger, unfinished: Vec<Id>) -> Option<Vec<u8>> {
        let counted = ledger.counted.iter();
        let content = Content {
            version: VERSION,
            prefect_api_url: self.prefect_api_url.clone(),
            since: ledger.since?,
            cursor: ledger.cursor?,
            task_cursor: ledger.task_cursor,
            unfinished,
            counted: counted
                .map(|((run, state), time)| (Arc::clone(run), Arc::clone(state), *time))
                .collect(),
            finished: ledger.finished.rows().collect(),
            retries: ledger.retries.rows().collect(),
            tasks: ledger.tasks.rows().collect(),
            last_runs: ledger.last_runs.clone(),
        };
        serde_json::to_vec(&content).ok()
    }

    /// Writes `text`.
    ///
    /// # Errors
    ///
    /// When the disk is full or the folder cannot be written; the old one is still there then.
    pub fn write(&self, text: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        replace(&self.path(), text)
    }
}

/// Replaces the file at `path`: all of it or nothing, even if the machine goes down.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&new, path)?;
    // The rename lasts only once the folder is on the disk; not every file system can do that.
    if let Some(Ok(folder)) = path.parent().map(File::open) {
        _ = folder.sync_all();
    }
    Ok(())
}
