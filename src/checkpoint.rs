//! The checkpoint: a file with the core's memory, which survives a restart.
//!
//! The name of the file ties it to one Prefect API, a lock to one process at a time. It is written
//! before its content is published, to a new file that is then renamed, so that there is always a
//! complete one. A file that cannot be used is never overwritten.
//!
//! Everything here blocks until the disk responds: [`keeper`](crate::keeper) has the time limits.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::core::saved::SavedState;
/// The version of the file's format. It is part of the file name, so that an older agent does not
/// touch the file of a newer one.
const VERSION: u32 = 2;

/// A larger file is not a checkpoint: the checkpoint of a large fleet takes some MB.
const LARGEST: u64 = 512 * 1024 * 1024;

/// Why `STATE_DIR` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process uses the file.
    #[error(
        "STATE_DIR: {0} is in use by another prefect-otel-agent; each agent needs its own folder"
    )]
    InUse(PathBuf),
    /// The file cannot be read or written.
    #[error("STATE_DIR: {0}: {1}")]
    Io(PathBuf, io::Error),
    /// The file is damaged, or not a checkpoint.
    #[error("STATE_DIR: {0} is damaged: {1}")]
    Damaged(PathBuf, String),
}

#[derive(Deserialize)]
struct Head {
    version: u32,
    prefect_api_url: String,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    prefect_api_url: String,
    saved: SavedState,
}

/// The checkpoint of one Prefect API in a folder. The lock is held until it is dropped.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    prefect_api_url: String,
    lock: Option<File>,
    /// Whether the file may be overwritten: it was read by this process, or did not exist.
    owned: bool,
}

impl Checkpoint {
    /// The checkpoint of the API at `prefect_api_url`, in `folder`, which need not exist.
    pub fn new(folder: &Path, prefect_api_url: &str) -> Self {
        Checkpoint {
            path: path(folder, "checkpoint", VERSION, prefect_api_url),
            prefect_api_url: prefect_api_url.to_owned(),
            lock: None,
            owned: false,
        }
    }

    /// Locks the file.
    ///
    /// # Errors
    ///
    /// If another process uses it, or the folder is not writable and has never been used.
    pub fn lock(&mut self) -> Result<(), Error> {
        if self.is_locked() {
            return Ok(());
        }
        // A folder that has disappeared since it was locked may return with its volume: another one
        // in its place would hide that.
        if let (None, Some(folder)) = (&self.lock, self.path.parent()) {
            create_folder(folder).map_err(|error| Error::Io(folder.to_owned(), error))?;
        }
        self.lock = Some(lock(&self.path)?);
        Ok(())
    }

    /// Whether this process holds the lock. If the lock file has been deleted, another process may
    /// lock a new one.
    fn is_locked(&self) -> bool {
        let Some(lock) = &self.lock else { return false };
        let id = |file: fs::Metadata| (file.dev(), file.ino());
        let (held, there) = (
            lock.metadata().map(id),
            fs::metadata(lock_path(&self.path)).map(id),
        );
        match (held, there) {
            (Ok(held), Ok(there)) => held == there,
            (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
            (Err(_), _) => true,
        }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not a checkpoint of this API.
    pub fn read(&mut self) -> Result<Option<SavedState>, Error> {
        let saved = self.load()?;
        self.claim();
        Ok(saved)
    }

    /// Allows the file to be overwritten, because its content is in use.
    pub(crate) fn claim(&mut self) {
        self.owned = true;
    }

    /// Reads the file without claiming it: it will not be overwritten.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not a checkpoint of this API.
    pub(crate) fn load(&self) -> Result<Option<SavedState>, Error> {
        let io = |error| Error::Io(self.path.clone(), error);
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let mut text = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut text).map_err(io)?;
        let damaged = |reason: String| Error::Damaged(self.path.clone(), reason);
        if text.len() as u64 > LARGEST {
            return Err(damaged(format!("the file is larger than {LARGEST} bytes")));
        }
        let parse = |error: serde_json::Error| damaged(error.to_string());
        let head: Head = serde_json::from_slice(&text).map_err(parse)?;
        if head.version != VERSION || head.prefect_api_url != self.prefect_api_url {
            let (version, url) = (head.version, head.prefect_api_url);
            return Err(damaged(format!(
                "the file has version {version} and belongs to {url}"
            )));
        }
        let content: Content = serde_json::from_slice(&text).map_err(parse)?;
        Ok(Some(content.saved))
    }

    /// Whether another process uses it. Leaves no lock behind.
    pub fn is_in_use(&self) -> bool {
        let lock = File::open(lock_path(&self.path));
        lock.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// The APIs whose checkpoints are in `folder`.
    pub fn apis(folder: &Path) -> Vec<String> {
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        let end = format!("-v{VERSION}.json");
        let own = files.map(|file| file.path()).filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("checkpoint-") && name.ends_with(&end)
        });
        let heads = own.filter_map(|path| {
            let file = io::BufReader::new(File::open(path).ok()?);
            serde_json::from_reader::<_, Head>(file.take(LARGEST)).ok()
        });
        let mut apis: Vec<_> = heads.map(|head| head.prefect_api_url).collect();
        apis.sort();
        apis
    }

    /// Renames a file that cannot be used, so that it can be examined.
    ///
    /// # Errors
    ///
    /// If it cannot be renamed.
    pub fn set_aside(&self) -> io::Result<PathBuf> {
        set_aside(&self.path)
    }

    /// The content of the file.
    ///
    /// # Errors
    ///
    /// Never, for the data of the core.
    fn encode(&self, saved: SavedState) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Content {
            version: VERSION,
            prefect_api_url: self.prefect_api_url.clone(),
            saved,
        })
    }

    /// Writes a checkpoint. A file that this process has neither read nor written is renamed first.
    ///
    /// # Errors
    ///
    /// If another process uses the file, the disk is full or the folder is not writable. The old
    /// file is then kept.
    pub fn write(&mut self, saved: SavedState) -> Result<(), Error> {
        self.lock()?;
        let io = |error| Error::Io(self.path.clone(), error);
        if !self.owned && self.path.exists() {
            let kept = self.set_aside().map_err(io)?;
            let kept = kept.display();
            tracing::warn!(%kept, "STATE_DIR: a checkpoint that could not be read at the start was renamed");
        }
        let text = self.encode(saved).map_err(|error| io(error.into()))?;
        replace(&self.path, &text).map_err(io)?;
        self.owned = true;
        Ok(())
    }
}

/// Locks the file at `path` with a separate lock file, because the checkpoint itself is replaced.
fn lock(path: &Path) -> Result<File, Error> {
    let lock = lock_path(path);
    let io = |error| Error::Io(lock.clone(), error);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock)
        // In a folder that is read-only now, an existing file can still be locked.
        .or_else(|error| File::open(&lock).map_err(|_| error))
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(lock)),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

fn lock_path(checkpoint: &Path) -> PathBuf {
    checkpoint.with_extension("lock")
}

/// Creates a folder, if there is none.
///
/// # Errors
///
/// If that is not possible. A symbolic link to nothing is named as such.
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder).map_err(|error| link_to_nothing(folder).unwrap_or(error))
}

/// The error of a path that is a symbolic link to something that does not exist.
pub(crate) fn link_to_nothing(path: &Path) -> Option<io::Error> {
    let target = fs::read_link(path).ok()?;
    let target = target.display();
    let reason = format!("a symbolic link to {target}, which does not exist");
    (!path.exists()).then(|| io::Error::new(io::ErrorKind::NotFound, reason))
}

/// The id of the API at `prefect_api_url` in file names.
pub fn api_id(prefect_api_url: &str) -> String {
    let id = Uuid::new_v5(&Uuid::NAMESPACE_URL, prefect_api_url.as_bytes());
    id.simple().to_string()
}

/// The path of a file of `STATE_DIR` that belongs to one Prefect API.
pub(crate) fn path(folder: &Path, what: &str, version: u32, prefect_api_url: &str) -> PathBuf {
    folder.join(format!(
        "{what}-{}-v{version}.json",
        api_id(prefect_api_url)
    ))
}

/// Renames a file that cannot be used. Returns the new path.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = (0..1_000)
        .map(|number| path.with_extension(format!("json.damaged-{number}")))
        .find(|path| !path.exists())
        .ok_or_else(|| io::Error::other("there are already a thousand damaged files"))?;
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Replaces the file at `path` atomically, even if the machine crashes.
///
/// # Errors
///
/// If the disk is full or the folder is not writable. The old file is then kept.
pub fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&new, path)) {
        // A partial file would take up space on a full disk.
        _ = File::create(&new);
        return Err(error);
    }
    // The rename is durable only after the folder has been synced, which not every file system
    // supports.
    if let Some(Ok(folder)) = path.parent().map(File::open) {
        _ = folder.sync_all();
    }
    Ok(())
}

/// Creates a file at `path` atomically; `false` if it already exists.
///
/// # Errors
///
/// If the disk is full or the folder is not writable.
pub(crate) fn create(path: &Path, text: &[u8]) -> io::Result<bool> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(text)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_serves_several_apis_with_one_agent_each() {
        let folder = tempfile::tempdir().unwrap();
        let mut here = Checkpoint::new(folder.path(), "http://here/api");
        let mut there = Checkpoint::new(folder.path(), "http://there/api");
        assert_ne!(here.path(), there.path());
        here.lock().unwrap();
        there.lock().unwrap();
        let mut second = Checkpoint::new(folder.path(), "http://here/api");
        assert!(matches!(second.lock(), Err(Error::InUse(_))));
        drop(here);
        second.lock().unwrap();
    }

    #[test]
    fn a_link_to_nothing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("state");
        std::os::unix::fs::symlink("/nowhere/state", &link).unwrap();
        let error = Checkpoint::new(&link, "http://here/api")
            .lock()
            .unwrap_err();
        let expected = format!(
            "STATE_DIR: {}: a symbolic link to /nowhere/state, which does not exist",
            link.display()
        );
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_file_that_cannot_be_replaced_leaves_no_partial_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in the way");
        fs::create_dir(&path).unwrap();
        replace(&path, b"new").unwrap_err();
        let new = folder.path().join("in the way.new");
        assert_eq!(fs::metadata(new).unwrap().len(), 0);
    }

    #[test]
    fn a_file_that_is_not_a_checkpoint_is_renamed_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoint = Checkpoint::new(folder.path(), "http://here/api");
        let newer = r#"{"version":3,"prefect_api_url":"http://here/api"}"#;
        let foreign = r#"{"version":2,"prefect_api_url":"http://there/api"}"#;
        for text in ["", "{", "[]", "null", newer, foreign] {
            fs::write(checkpoint.path(), text).unwrap();
            assert!(
                matches!(checkpoint.read(), Err(Error::Damaged(..))),
                "{text}"
            );
            let aside = checkpoint.set_aside().unwrap();
            assert_eq!(fs::read_to_string(aside).unwrap(), text);
            assert!(checkpoint.read().unwrap().is_none());
        }
    }
}
