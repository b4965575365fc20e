//! A `STATE_DIR` that does not respond: a named pipe blocks whoever opens it, as does a file with a
//! lease until its holder gives it up.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use prefect_otel_agent::checkpoint::{Checkpoint, api_id};

use crate::support::otlp::Receiver;
use crate::support::process::{AgentProcess, agent_command, wait_for, wait_within};
use crate::support::programs::left_out;
use crate::support::stub::Stub;
use crate::support::{fleet, small_stub};

/// Runs blocking code while the stub is served.
fn blocking<T>(run: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(run)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

/// The path of the checkpoint, and that of a new one before it is renamed.
fn checkpoint(folder: &Path, url: &str) -> (PathBuf, PathBuf) {
    let path = Checkpoint::new(folder, url).path().to_owned();
    let new = path.with_extension("json.new");
    (path, new)
}

fn failed(agent: &AgentProcess) -> Option<f64> {
    let labels = [("state_type", "FAILED"), ("state_name", "Failed")];
    agent
        .page()
        .value("prefect_flow_runs_finished_total", &labels)
}

fn wait_for_failed(agent: &AgentProcess, count: f64) {
    wait_for("failed runs", || {
        (failed(agent) == Some(count)).then_some(())
    });
}

fn fail_a_run(stub: &Stub, number: usize) {
    let run = fleet::run_at(number, "FAILED", 0);
    stub.contents().flow_runs.push(run);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_that_hangs_prevents_the_start_or_the_end() {
    let stub = small_stub().await;
    let names = |folder: &Path| {
        let (checkpoint, new) = checkpoint(folder, &stub.url);
        let lock = checkpoint.with_extension("lock");
        let instance = folder.join(format!("instance-{}", api_id(&stub.url)));
        [checkpoint, new, lock, instance]
    };
    blocking(|| {
        for number in 0..4 {
            let folder = tempfile::tempdir().unwrap();
            let file = &names(folder.path())[number];
            pipe(file);
            let settings = [("STATE_DIR", text(folder.path()))];
            let mut agent = AgentProcess::start(&stub.url, &settings);
            assert_eq!(agent.get("/healthz").0, 200, "{file:?}");
            agent.wait_for_cycles(3.0);
            assert_eq!(agent.page().value("prefect_up", &[]), Some(1.0), "{file:?}");
            assert_eq!(agent.get("/readyz").0, 200, "{file:?}");
            let status = agent.process.ends_in_time("-TERM", text(file));
            assert!(status.success(), "{file:?}: {status}");
            let log = agent.process.log();
            let said = log
                .iter()
                .filter(|line| line.contains("no response within"));
            assert_eq!(said.count(), 1, "{file:?}: {log:#?}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_hangs_while_it_is_read_is_kept_and_replaced_later() {
    let (stub, folder) = (small_stub().await, tempfile::tempdir().unwrap());
    let (path, _) = checkpoint(folder.path(), &stub.url);
    pipe(&path);
    blocking(|| {
        let settings = [("STATE_DIR", text(folder.path()))];
        let agent = AgentProcess::start(&stub.url, &settings);
        agent.process.wait_for_line("cannot write the checkpoint");
        agent.wait_for_cycles(2.0);
        // The file is read at last. Its content arrives too late, so it must not be overwritten.
        let mut writer = File::options().write(true).open(&path).unwrap();
        std::io::Write::write_all(&mut writer, b"{}").unwrap();
        drop(writer);
        agent
            .process
            .wait_for_line("checkpoints can be written again");
        assert!(path.with_extension("json.damaged-0").exists());
        let written = fs::read_to_string(&path).unwrap();
        assert!(written.contains("\"cursor\""), "{written}");
        for line in ["cannot use the checkpoint", "cannot write the checkpoint"] {
            assert_eq!(agent.process.lines_with(line), 1, "{line}");
        }
    });
}

/// Holds a lease of a file: whoever opens the file for writing waits until it is given up, for up
/// to 45 seconds.
struct Lease(Child);

impl Lease {
    /// `None` if the system has no leases.
    fn take(path: &Path) -> Option<Self> {
        const HOLD: &str = "
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open(sys.argv[1], os.O_RDONLY | os.O_CREAT, 0o644)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
print('held', flush=True)
sys.stdin.read()
";
        let mut child = Command::new("python3")
            .args(["-c", HOLD])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take()?);
        stdout.read_line(&mut line).unwrap();
        if line.trim() != "held" {
            child.wait().unwrap();
            left_out("a write that ends late", "leases of files (F_SETLEASE)");
            return None;
        }
        Some(Lease(child))
    }

    /// Gives it up.
    fn release(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_exact_after_writes_that_end_late_or_never() {
    for is_killed_while_writing in [true, false] {
        let (stub, folder) = (small_stub().await, tempfile::tempdir().unwrap());
        let (path, new) = checkpoint(folder.path(), &stub.url);
        blocking(|| {
            let settings = [("STATE_DIR", text(folder.path()))];
            let mut agent = AgentProcess::start(&stub.url, &settings);
            agent.wait_for_cycles(2.0);
            fail_a_run(&stub, 1);
            wait_for_failed(&agent, 1.0);
            // By then, nothing is left to write.
            agent.wait_for_cycles(3.0);
            let Some(lease) = Lease::take(&new) else {
                return;
            };
            fail_a_run(&stub, 2);
            agent.process.wait_for_line("no response within 10 s");
            fail_a_run(&stub, 3);
            wait_for_failed(&agent, 3.0);
            let before = fs::read_to_string(&path).unwrap();
            if is_killed_while_writing {
                agent.process.signal("-KILL");
                agent.process.wait(std::time::Duration::from_secs(60));
                assert_eq!(fs::read_to_string(&path).unwrap(), before);
                lease.release();
            } else {
                lease.release();
                let again = "checkpoints can be written again";
                agent.process.wait_for_line(again);
                assert_ne!(fs::read_to_string(&path).unwrap(), before);
                agent.process.signal("-KILL");
                agent.process.wait(std::time::Duration::from_secs(60));
            }
            drop(agent);
            fail_a_run(&stub, 4);
            let agent = AgentProcess::start(&stub.url, &settings);
            wait_for_failed(&agent, 4.0);
            agent.wait_for_cycles(3.0);
            assert_eq!(failed(&agent), Some(4.0));
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deltas_are_pushed_while_the_file_of_delivered_counts_hangs() {
    for extension in ["json", "json.new"] {
        let (stub, folder) = (small_stub().await, tempfile::tempdir().unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let receiver = Receiver::http(listener).await;
        let file = format!("delivered-{}-v1.{extension}", api_id(&stub.url));
        let file = folder.path().join(file);
        pipe(&file);
        blocking(|| {
            let settings = [
                ("STATE_DIR", text(folder.path())),
                ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
                ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
            ];
            let mut agent = AgentProcess::start(&stub.url, &settings);
            agent.wait_for_cycles(2.0);
            fail_a_run(&stub, 1);
            let log = agent.process.wait_for_line("no response within 5 s");
            assert!(log.contains("the file of delivered counts"), "{log}");
            let pushes = || receiver.pushes.lock().unwrap().len();
            let before = pushes();
            wait_for("pushes", || (pushes() >= before + 3).then_some(()));
            assert_eq!(agent.process.lines_with("no response within"), 1);
            let status = agent.process.ends_in_time("-TERM", text(&file));
            assert!(status.success(), "{status}");
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_a_folder_that_does_not_respond() {
    let (stub, folder) = (small_stub().await, tempfile::tempdir().unwrap());
    let (path, _) = checkpoint(folder.path(), &stub.url);
    pipe(&path);
    blocking(|| {
        let settings = [
            ("PREFECT_API_URL", stub.url.as_str()),
            ("METRICS_PORT", "0"),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            ("STATE_DIR", text(folder.path())),
        ];
        let mut child = agent_command(&settings)
            .arg("check")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let minute = std::time::Duration::from_secs(60);
        let status = wait_within("the end of check", minute, || child.try_wait().unwrap());
        let mut report = String::new();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_to_string(&mut report).unwrap();
        assert_eq!(status.code(), Some(1), "{report}");
        let line = report.lines().find(|line| line.contains("STATE_DIR"));
        let line = line.unwrap();
        assert!(
            line.starts_with("FAIL") && line.contains("no response within 5 s"),
            "{line}"
        );
    });
}
