//! A PostgreSQL cluster for one test, in a temporary directory and on a free loopback port.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::prefect::free_port;
use super::process::{Process, wait_for};
use super::programs::left_out;

/// Users to run as instead of root, which PostgreSQL refuses.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// A running cluster. It is stopped, and its data is removed, when this is dropped.
pub(crate) struct Postgres {
    process: Process,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Postgres {
    /// Creates a cluster and starts it. `None` if PostgreSQL is not installed, which is
    /// reported.
    pub(crate) fn start(test: &str) -> Option<Self> {
        let Some(programs) = programs() else {
            left_out(test, "PostgreSQL; on Debian and Ubuntu install postgresql");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let user = user(folder.path());
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let data = folder.path().join("data");
        let command = |name: &str| {
            let mut command = Command::new(programs.join(name));
            command.arg("-D").arg(&data).current_dir(folder.path());
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        let options = ["--username=prefect", "--auth=trust", "--no-sync"];
        let encoding = ["--locale=C", "--encoding=UTF8"];
        let output = command("initdb")
            .args(options)
            .args(encoding)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let port = free_port();
        let mut server = command("postgres");
        server.arg("-p").arg(port.to_string());
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "max_connections=200",
        ] {
            server.args(["-c", setting]);
        }
        let process = Process::start(&mut server);
        wait_for("PostgreSQL", || {
            let ready = "database system is ready to accept connections";
            assert!(process.lines_with("FATAL") == 0, "{:#?}", process.log());
            (process.lines_with(ready) > 0).then_some(())
        });
        Some(Postgres {
            process,
            port,
            _folder: folder,
        })
    }

    /// The value for `PREFECT_API_DATABASE_CONNECTION_URL`.
    pub(crate) fn url(&self) -> String {
        let port = self.port;
        format!("postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A fast shutdown: SIGTERM would wait for the clients to disconnect.
        self.process.signal("-INT");
    }
}

/// The directory of `initdb` and `postgres`: on the path, or the newest one of Debian.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql");
    let mut versions: Vec<PathBuf> = debian
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    let number = |folder: &Path| folder.file_name()?.to_str()?.parse::<u32>().ok();
    versions.sort_by_key(|folder| std::cmp::Reverse(number(folder)));
    std::env::split_paths(&path)
        .chain(versions.iter().map(|folder| folder.join("bin")))
        .find(|folder| {
            ["initdb", "postgres"]
                .iter()
                .all(|name| folder.join(name).is_file())
        })
}

/// The user and group to run as; `None` for the current ones. `own` was created by this process.
fn user(own: &Path) -> Option<(u32, u32)> {
    if own.metadata().unwrap().uid() != 0 {
        return None;
    }
    let id = |flag: &str, user: &str| {
        let output = Command::new("id").args([flag, user]).output().unwrap();
        let id = String::from_utf8(output.stdout).unwrap();
        id.trim().parse::<u32>().ok()
    };
    let user = |name: &&str| Some((id("-u", name)?, id("-g", name)?));
    Some(USERS.iter().find_map(user).unwrap())
}
