//! Rows: disks, streams and limits of the host.

use std::cell::Cell;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use prefect_otel_agent::checkpoint::api_id;
use tokio::runtime::Runtime;

use crate::support::front::Front;
use crate::support::process::{Process, agent_command, by_shell, has_namespaces, left_out};
use crate::support::small_stub;

use super::row::{Effect, Row, Strike};
use super::run::{SETTINGS, address};
use super::subject::{Subject, get, soon};

/// What a stream of the process is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Stream {
    /// Read, for stderr; otherwise `/dev/null`.
    Well,
    Full,
    Closed,
    /// A full pipe that nobody reads.
    Unread,
    /// A pipe whose reader is gone.
    Broken,
}

impl Stream {
    fn open(self) -> Stdio {
        match self {
            Stream::Full => fs::File::options()
                .write(true)
                .open("/dev/full")
                .unwrap()
                .into(),
            Stream::Unread => {
                let (reader, mut writer) = std::io::pipe().unwrap();
                // The capacity of a pipe on Linux.
                writer.write_all(&[b'.'; 65_536]).unwrap();
                // It stays open, and unread, until the tests end.
                std::mem::forget(reader);
                writer.into()
            }
            Stream::Broken => {
                let (reader, writer) = std::io::pipe().unwrap();
                drop(reader);
                writer.into()
            }
            // The shell closes it.
            Stream::Well | Stream::Closed => Stdio::null(),
        }
    }
}

/// A fault of the host.
#[derive(Clone, Copy)]
pub(super) struct Host {
    /// What a shell does before it becomes the agent; `$STATE` is `STATE_DIR`.
    pub(super) shell: &'static str,
    /// Whether it mounts.
    pub(super) mounts: bool,
    pub(super) stdout: Stream,
    pub(super) stderr: Stream,
    /// What happens before the start.
    pub(super) before: fn(&Place),
    pub(super) strike: fn(&Place),
    /// What ends the fault, if anything can.
    pub(super) heal: Option<fn(&Place)>,
    /// What must hold when the process has ended.
    pub(super) after: fn(&Place),
}

const HOST: Host = Host {
    shell: "",
    mounts: false,
    stdout: Stream::Well,
    stderr: Stream::Well,
    before: |_| {},
    strike: |_| {},
    heal: None,
    after: |_| {},
};

/// The folder of a row.
pub(super) struct Place {
    _folder: tempfile::TempDir,
    /// `STATE_DIR`.
    pub(super) state: PathBuf,
    /// The checkpoint of the row's Prefect.
    pub(super) checkpoint: PathBuf,
    /// The agent's process.
    pub(super) process: Option<u32>,
    /// The agent's port; 0 for any.
    port: Cell<u16>,
    /// Connections of clients that do nothing.
    idle: Mutex<Vec<TcpStream>>,
}

impl Place {
    pub(super) fn new(api_url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        Place {
            checkpoint: state.join(format!("checkpoint-{}-v2.json", api_id(api_url))),
            state,
            _folder: folder,
            process: None,
            port: Cell::new(0),
            idle: Mutex::default(),
        }
    }

    /// The file that replaces the checkpoint.
    pub(super) fn new_checkpoint(&self) -> PathBuf {
        let mut path = self.checkpoint.clone().into_os_string();
        path.push(".new");
        path.into()
    }

    /// The previous checkpoint stays, as a whole, until there is a new one.
    fn has_no_partial_checkpoint(&self) {
        let saved = fs::read_to_string(self.inside(&self.checkpoint));
        if let Ok(saved) = saved.as_deref().map(str::trim) {
            assert!(saved.starts_with('{') && saved.ends_with('}'), "{saved}");
        }
    }

    /// `path` as the agent's process sees it.
    fn inside(&self, path: &Path) -> PathBuf {
        let process = self.process.unwrap();
        let path = path.strip_prefix("/").unwrap();
        Path::new("/proc")
            .join(process.to_string())
            .join("root")
            .join(path)
    }
}

pub(super) fn make_fifo(path: &Path) {
    _ = fs::create_dir_all(path.parent().unwrap());
    _ = fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Lets go whoever has opened it, and removes it.
pub(super) fn drain(path: &Path) {
    let read = fs::File::options().read(true).write(true).open(path);
    _ = fs::remove_file(path);
    // Opening it for both directions ends a hung `open`. What is written goes nowhere.
    drop(read);
}

impl Host {
    pub(super) fn run(&self, row: &Row, runtime: &Runtime) -> Option<Duration> {
        if self.mounts && !has_namespaces() {
            left_out(&format!("{} needs user namespaces", row.name));
            return None;
        }
        let stub = runtime.block_on(small_stub());
        let front = runtime.block_on(Front::prefect(address(&stub.url)));
        let url = format!("http://{}/api", front.address);
        let mut place = Place::new(&url);
        (self.before)(&place);
        let mut process = self.start(row, &url, &place);
        place.process = Some(process.id());
        if let Effect::Exits(code, says) = row.effect {
            let status = process.wait(Duration::from_secs(60));
            assert_eq!(status.code(), Some(code), "{:#?}", process.log());
            if self.stderr == Stream::Well {
                process.wait_for_line(says);
            }
            return None;
        }
        place.port.set(soon("a port", || process.listening_port()));
        let listening = SocketAddr::from(([127, 0, 0, 1], place.port.get()));
        soon("/healthz", || {
            get(listening, "/healthz", Duration::from_secs(5)).ok()
        });
        let mut agent = Subject::of(process, listening, &stub);
        agent.is_well();
        agent.end_a_run();
        agent.is_well();
        if !is_from_the_start(row) {
            agent.strikes_now();
        }
        (self.strike)(&place);
        agent.end_a_run();
        // Counts do not depend on the host.
        agent.is_well();
        agent.is_alive();
        if let Effect::Unsaved(_) = row.effect {
            agent.process.wait_for_line(SAVES);
            agent.wait("failed checkpoints", |page| {
                let failures = [("outcome", "failure")];
                let checkpoints = page.value("prefect_agent_checkpoints_total", &failures);
                (checkpoints > Some(0.0)).then_some(())
            });
            soon("the problem on /status", || {
                let (_, status) = get(listening, "/status", Duration::from_secs(5)).ok()?;
                let problem = "docs/runbooks/PrefectAgentCheckpointsFailing.md";
                status.contains(problem).then_some(())
            });
            place.has_no_partial_checkpoint();
        }
        agent.is_well();
        self.end(&place);
        agent.end_a_run();
        agent.is_well();
        if self.stderr == Stream::Well {
            match row.effect {
                Effect::Unread(says) => agent.has_warned_once(says),
                Effect::Unsaved(says) if is_from_the_start(row) => {
                    agent.has_warned_once(says);
                }
                Effect::Unsaved(says) => {
                    if self.heal.is_some() {
                        agent
                            .process
                            .wait_for_line("checkpoints can be written again");
                    }
                    agent.has_warned(1, says);
                }
                Effect::Warning(says) => {
                    agent.process.wait_for_line(says);
                    agent.has_warned_once(says);
                }
                _ => agent.has_warned(0, ""),
            }
        }
        (self.strike)(&place);
        agent.end_a_run();
        agent.is_alive();
        let exit = agent.stop();
        self.end(&place);
        (self.after)(&place);
        Some(exit)
    }

    fn end(&self, place: &Place) {
        if let Some(heal) = self.heal {
            heal(place);
        }
    }

    fn start(&self, row: &Row, url: &str, place: &Place) -> Process {
        let port = place.port.get().to_string();
        let state = place.state.to_str().unwrap();
        let settings = [
            &SETTINGS[..],
            &[
                ("PREFECT_API_URL", url),
                ("METRICS_ADDR", "127.0.0.1"),
                ("METRICS_PORT", port.as_str()),
                ("OTEL_METRICS_EXPORTER", "prometheus"),
                ("SAMPLE_INTERVAL_SECONDS", "1"),
                ("INVENTORY_INTERVAL_SECONDS", "1"),
                ("STATE_DIR", state),
            ][..],
            row.settings,
        ]
        .concat();
        let mut command = agent_command(&settings);
        let closes =
            |stream: Stream, text: &'static str| if stream == Stream::Closed { text } else { "" };
        let (out, err) = (closes(self.stdout, ">&-"), closes(self.stderr, "2>&-"));
        if !self.shell.is_empty() || !out.is_empty() || !err.is_empty() {
            let first = match self.shell {
                "" => "true",
                shell => shell,
            };
            let script = format!("STATE={state}; {first} && exec \"$0\" \"$@\" {out} {err}");
            command = by_shell(command, self.mounts, &script);
        }
        command.stdout(self.stdout.open());
        if self.stderr == Stream::Well {
            return Process::start_reading(command.stderr(Stdio::piped()));
        }
        Process::start_as_is(command.stderr(self.stderr.open()))
    }
}

/// Whether the fault is there when the agent starts, so that its warning comes first.
fn is_from_the_start(row: &Row) -> bool {
    row.name.ends_with("_at_the_start")
}

const fn host(name: &'static str, fault: &'static str, host: Host, effect: Effect) -> Row {
    Row::new(name, fault, Strike::Host(host), effect)
}

const SAVES: &str = "cannot write the checkpoint";

fn fill(place: &Place) {
    let file = place.inside(&place.state.join("filler"));
    _ = fs::write(file, vec![0; 16 << 20]);
}

#[rustfmt::skip]
pub(super) const DISKS: &[Row] = &[
    host("disk_full", "the disk of STATE_DIR is full",
        Host {
            shell: "mkdir -p $STATE && mount -t tmpfs -o size=8m none $STATE",
            mounts: true,
            strike: fill,
            heal: Some(|place| _ = fs::remove_file(place.inside(&place.state.join("filler")))),
            ..HOST
        }, Effect::Unsaved(SAVES)),
    host("disk_full_at_the_start", "the disk of STATE_DIR is full from the start",
        Host {
            shell: "mkdir -p $STATE && mount -t tmpfs -o size=4k none $STATE && head -c 4096 /dev/zero > $STATE/filler",
            mounts: true,
            heal: Some(|place| _ = fs::remove_file(place.inside(&place.state.join("filler")))),
            ..HOST
        }, Effect::Unsaved(SAVES)),
    host("disk_read_only_at_the_start", "STATE_DIR is read-only",
        Host {
            shell: "mkdir -p $STATE && mount -t tmpfs -o ro none $STATE",
            mounts: true,
            ..HOST
        }, Effect::Unsaved("Read-only file system")),
    host("files_too_large", "the limit of the size of a file is exceeded",
        Host {
            shell: "trap '' XFSZ",
            strike: |place| assert!(limit(place, "--fsize=10:unlimited")),
            heal: Some(|place| _ = limit(place, "--fsize=unlimited:unlimited")),
            ..HOST
        }, Effect::Unsaved(SAVES)),
    host("state_folder_removed", "STATE_DIR is removed",
        Host {
            strike: |place| fs::remove_dir_all(&place.state).unwrap_or_default(),
            heal: Some(|place| _ = fs::create_dir_all(&place.state)),
            ..HOST
        }, Effect::Unsaved(SAVES)),
    host("state_folder_is_a_file_at_the_start", "STATE_DIR is a file",
        Host {
            before: |place| fs::write(&place.state, "").unwrap(),
            heal: Some(|place| _ = fs::remove_file(&place.state)),
            ..HOST
        }, Effect::Unsaved(SAVES)),
    host("checkpoint_is_a_folder", "the checkpoint is replaced with a folder",
        Host {
            strike: |place| {
                _ = fs::remove_file(&place.checkpoint);
                _ = fs::create_dir(&place.checkpoint);
            },
            heal: Some(|place| _ = fs::remove_dir(&place.checkpoint)),
            ..HOST
        }, Effect::Unsaved(SAVES)),
    host("new_checkpoint_hangs", "writing the checkpoint hangs",
        Host {
            strike: |place| make_fifo(&place.new_checkpoint()),
            heal: Some(|place| drain(&place.new_checkpoint())),
            ..HOST
        }, Effect::Unsaved(SAVES)),
    host("checkpoint_hangs_at_the_start", "reading the checkpoint hangs",
        Host {
            before: |place| make_fifo(&place.checkpoint),
            heal: Some(|place| drain(&place.checkpoint)),
            ..HOST
        }, Effect::Unread("cannot use the checkpoint")),
    host("lock_hangs_at_the_start", "opening the lock hangs",
        Host {
            before: |place| make_fifo(&place.checkpoint.with_extension("lock")),
            heal: Some(|place| drain(&place.checkpoint.with_extension("lock"))),
            ..HOST
        }, Effect::Unsaved(SAVES)),
    host("checkpoint_is_empty_at_the_start", "the checkpoint is empty",
        Host {
            before: |place| damage(place, b""),
            after: |place| keeps(place, b""),
            ..HOST
        }, Effect::Unread("cannot use the checkpoint")),
    host("checkpoint_is_garbage_at_the_start", "the checkpoint is damaged",
        Host {
            before: |place| damage(place, &[0xff; 4_096]),
            after: |place| keeps(place, &[0xff; 4_096]),
            ..HOST
        }, Effect::Unread("cannot use the checkpoint")),
    host("checkpoint_is_deep_at_the_start", "the checkpoint has 100,000 levels",
        Host {
            before: |place| damage(place, &b"[".repeat(100_000)),
            after: |place| keeps(place, &b"[".repeat(100_000)),
            ..HOST
        }, Effect::Unread("cannot use the checkpoint")),
];

fn damage(place: &Place, content: &[u8]) {
    fs::create_dir_all(&place.state).unwrap();
    fs::write(&place.checkpoint, content).unwrap();
}

/// The damaged file is kept beside the new checkpoint.
fn keeps(place: &Place, content: &[u8]) {
    let kept = place.checkpoint.with_extension("json.damaged-0");
    assert_eq!(fs::read(kept).unwrap(), content);
    let saved = fs::read_to_string(&place.checkpoint).unwrap();
    assert!(saved.starts_with('{'), "{saved}");
}

/// Whether the process has the limit now.
fn limit(place: &Place, limit: &str) -> bool {
    let process = place.process.unwrap().to_string();
    let mut prlimit = Command::new("prlimit");
    let prlimit = prlimit.args(["--pid", &process, limit]);
    prlimit.stderr(Stdio::null()).status().unwrap().success()
}

#[rustfmt::skip]
pub(super) const LIMITS: &[Row] = &[
    host("few_descriptors", "there are 100 descriptors, and clients open 300 connections",
        Host {
            shell: "ulimit -n 100",
            strike: |place| {
                let connect = || TcpStream::connect(("127.0.0.1", place.port.get())).unwrap();
                place.idle.lock().unwrap().extend((0..300).map(|_| connect()));
            },
            heal: Some(|place| place.idle.lock().unwrap().clear()),
            ..HOST
        }, Effect::Nothing),
];

#[rustfmt::skip]
pub(super) const STREAMS: &[Row] = &[
    host("stderr_full", "stderr is a full disk",
        Host { stderr: Stream::Full, ..HOST }, Effect::Nothing),
    host("stderr_closed", "stderr is closed",
        Host { stderr: Stream::Closed, ..HOST }, Effect::Nothing),
    host("stderr_broken", "stderr is a pipe whose reader is gone",
        Host { stderr: Stream::Broken, ..HOST }, Effect::Nothing),
    host("stderr_unread", "stderr is a pipe that nobody reads",
        Host { stderr: Stream::Unread, ..HOST }, Effect::Nothing).with(&[("LOG_LEVEL", "TRACE")]),
    host("stdout_closed", "stdout is closed",
        Host { stdout: Stream::Closed, ..HOST }, Effect::Nothing).with(&[CONSOLE]),
    host("stdout_full", "stdout is a full disk, and the console exporter writes to it",
        Host { stdout: Stream::Full, ..HOST }, Effect::Nothing).with(&[CONSOLE]),
    host("stdout_broken", "stdout is a pipe whose reader is gone, and the console exporter writes to it",
        Host { stdout: Stream::Broken, ..HOST }, Effect::Nothing).with(&[CONSOLE]),
    host("stdout_unread_at_the_start", "stdout is a pipe that nobody reads, and the console exporter writes to it",
        Host { stdout: Stream::Unread, ..HOST }, Effect::Warning("no response within 5 s")).with(&[CONSOLE]),
    host("both_streams_closed", "stdout and stderr are closed",
        Host { stdout: Stream::Closed, stderr: Stream::Closed, ..HOST }, Effect::Nothing).with(&[CONSOLE]),
    host("both_streams_unread", "stdout and stderr are pipes that nobody reads",
        Host { stdout: Stream::Unread, stderr: Stream::Unread, ..HOST }, Effect::Nothing)
        .with(&[CONSOLE, ("LOG_LEVEL", "TRACE")]),
];

const CONSOLE: (&str, &str) = ("OTEL_METRICS_EXPORTER", "console,prometheus");

#[rustfmt::skip]
pub(super) const STARTS: &[Row] = &[
    host("port_in_use", "another process uses the port",
        Host {
            before: |place| {
                // For the rest of the test program.
                let taken = TcpListener::bind("127.0.0.1:0").unwrap();
                place.port.set(taken.local_addr().unwrap().port());
                std::mem::forget(taken);
            },
            ..HOST
        }, Effect::Exits(1, "METRICS_PORT")),
    host("address_of_another_host", "METRICS_ADDR is not an address of this host", HOST, Effect::Exits(1, "METRICS_ADDR"))
        .with(&[("METRICS_ADDR", "192.0.2.1")]),
    host("unknown_setting_value", "a setting has an invalid value", HOST, Effect::Exits(2, "MAX_RETRIES"))
        .with(&[("MAX_RETRIES", "many")]),
    host("missing_certificate", "the certificates for Prefect do not exist", HOST, Effect::Exits(2, "PREFECT_API_SSL_CERT_FILE"))
        .with(&[("PREFECT_API_SSL_CERT_FILE", "/nonexistent/ca.pem")]),
    host("missing_key_file", "the file of the API key does not exist", HOST, Effect::Exits(2, "PREFECT_API_KEY_FILE"))
        .with(&[("PREFECT_API_KEY_FILE", "/nonexistent/key")]),
    host("invalid_setting_with_stderr_full", "a setting has an invalid value, and stderr is a full disk",
        Host { stderr: Stream::Full, ..HOST }, Effect::Exits(2, ""))
        .with(&[("MAX_RETRIES", "many")]),
    host("invalid_setting_with_stderr_closed", "a setting has an invalid value, and stderr is closed",
        Host { stderr: Stream::Closed, ..HOST }, Effect::Exits(2, ""))
        .with(&[("MAX_RETRIES", "many")]),
    host("invalid_setting_with_stderr_broken", "a setting has an invalid value, and nobody reads stderr",
        Host { stderr: Stream::Broken, ..HOST }, Effect::Exits(2, ""))
        .with(&[("MAX_RETRIES", "many")]),
];
