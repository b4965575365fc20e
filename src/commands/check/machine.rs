//! What the agent needs on its own machine: the port, and `STATE_DIR`.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use tokio::net::TcpListener;

use super::PATIENCE;
use super::report::Line;
use crate::blocking::Blocking;
use crate::checkpoint::{self, Checkpoint, Error};
use crate::commands::health::{self, Probe};
use crate::http::Security;
use crate::settings::Settings;

const STATE_DIR: &str = "STATE_DIR";

/// The size of the file that is written as a test, in bytes.
const PROBE: usize = 64 * 1_024;

const SECOND_AGENT: &str = "this is expected next to a running agent; a second agent needs its own";

/// Whether the agent could listen on its port.
pub(super) async fn port(settings: &Settings) -> Line {
    let address = settings.metrics_address;
    let error = match TcpListener::bind(address).await {
        Ok(_) => return Line::ok("port", format!("{address} is free")),
        Err(error) => error,
    };
    let detail = format!("cannot listen on {address}: {error}");
    match error.kind() {
        ErrorKind::AddrInUse if is_running(settings).await => {
            let detail = format!("{address} is in use by a running agent");
            Line::warn("port", detail).hint(format!("{SECOND_AGENT} METRICS_PORT"))
        }
        ErrorKind::AddrInUse => Line::fail("port", detail)
            .hint("another program uses the port: set METRICS_PORT to a free one"),
        ErrorKind::AddrNotAvailable => Line::fail("port", detail)
            .hint("METRICS_ADDR is not an address of this machine: set it to 0.0.0.0 or to one of the machine's addresses"),
        ErrorKind::PermissionDenied => Line::fail("port", detail)
            .hint("ports below 1024 need privileges: set METRICS_PORT to a higher one"),
        _ => Line::fail("port", detail).hint("check METRICS_ADDR and METRICS_PORT"),
    }
}

async fn is_running(settings: &Settings) -> bool {
    let file = settings.web.config_file.as_deref();
    let answer = health::ask(settings.metrics_address, file, Probe::Live);
    answer.await.is_ok()
}

/// Whether the files that protect the endpoints can be used.
pub(super) fn security(settings: &Settings) -> Option<Line> {
    let web = &settings.web;
    if web.config_file.is_none() && web.bearer_token.is_none() {
        return None;
    }
    Some(match Security::load(web) {
        Ok(security) => Line::ok("endpoints", security.describe()),
        Err(error) => Line::fail("endpoints", error.to_string()),
    })
}

/// Whether the agent could write its checkpoint. Leaves nothing in the folder.
pub(super) async fn state_dir(settings: &Settings) -> Line {
    let Some(folder) = settings.state_dir.clone() else {
        return Line::ok(STATE_DIR, "not set: counters start at zero after a restart");
    };
    let api = settings.prefect.api_url.as_str().to_owned();
    let files = Blocking::new("check", (folder.clone(), api));
    let look = |(folder, api): &mut (PathBuf, String)| files_of(folder, api);
    files.run(PATIENCE, look).await.unwrap_or_else(|error| {
        let detail = format!("{}: {error}", folder.display());
        Line::fail(STATE_DIR, detail).hint("its disk or network file system does not respond: check whether `ls` in this folder returns")
    })
}

/// Whether a checkpoint for `api` in `folder` could be written.
fn files_of(folder: &Path, api: &str) -> Line {
    let shown = folder.display();
    if let Err(error) = writable(folder) {
        let hint = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                "give the agent's user write permission, or set STATE_DIR to another folder"
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "free space, or set STATE_DIR to a folder on another disk"
            }
            ErrorKind::NotADirectory | ErrorKind::NotFound => "set STATE_DIR to a folder",
            _ => "set STATE_DIR to a folder that the agent can write to",
        };
        return Line::fail(STATE_DIR, format!("{shown} is not writable: {error}")).hint(hint);
    }
    let mut checkpoint = Checkpoint::new(folder, api);
    if checkpoint.is_in_use() {
        let detail = format!("{shown} is in use by a running agent");
        return Line::warn(STATE_DIR, detail).hint(format!("{SECOND_AGENT} STATE_DIR"));
    }
    match checkpoint.read() {
        Ok(Some(_)) => Line::ok(STATE_DIR, format!("{shown} has a checkpoint for {api}")),
        Ok(None) => {
            let others = Checkpoint::apis(folder);
            match others.is_empty() {
                true => Line::ok(
                    STATE_DIR,
                    format!("{shown} is writable, and has no checkpoint yet"),
                ),
                false => {
                    let others = others.join(", ");
                    let detail =
                        format!("{shown} has no checkpoint for {api}, but one for {others}");
                    Line::warn(STATE_DIR, detail).hint("counters start at zero; if this is the same server, set PREFECT_API_URL to the previous value")
                }
            }
        }
        Err(Error::Damaged(path, reason)) => {
            let detail = format!("{} cannot be used: {reason}", path.display());
            Line::warn(STATE_DIR, detail)
                .hint("counters start at zero; the agent will rename the file")
        }
        Err(error) => Line::fail(STATE_DIR, error.to_string())
            .hint("give the agent's user permission to read and write the file"),
    }
}

/// Tries to write a file in `folder` or, if it does not exist yet, in the folder in which it would
/// be created.
fn writable(folder: &Path) -> std::io::Result<()> {
    let absolute = std::path::absolute(folder)?;
    let mut place = absolute.as_path();
    while !place.try_exists()? {
        if let Some(error) = checkpoint::link_to_nothing(place) {
            return Err(error);
        }
        place = place.parent().unwrap_or(Path::new("/"));
    }
    let mut file = tempfile::tempfile_in(place)?;
    // An empty file can be created on a full disk.
    file.write_all(&[0; PROBE])?;
    file.sync_all()
}
