//! Signals, and standard streams that nobody reads.

use std::fs::File;
use std::io::{self, BufReader, PipeReader, PipeWriter, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::process::{
    AgentProcess, PATIENCE, Process, agent_command, fetch, wait_for, wait_within,
};
use crate::support::programs::left_out;
use crate::support::small_stub;
use crate::support::stub::Stub;

/// Runs blocking code while the stub is served.
fn blocking<T>(run: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(run)
}

/// A listener that accepts connections and never answers.
fn silent() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let stub = small_stub().await;
    let (_listener, collector) = silent();
    blocking(|| {
        let settings = [
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.as_str()),
        ];
        let mut agent = AgentProcess::start(&stub.url, &settings);
        agent.wait_for_cycles(1.0);
        agent.process.signal("-TERM");
        agent.process.wait_for_line("shutting down");
        let status = agent.process.ends_in_time("-INT", "a second signal");
        assert_eq!(status.code(), Some(128 + 2));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ignores_hang_ups_continues() {
    let stub = small_stub().await;
    blocking(|| {
        let with_nohup = |command: Command| {
            let mut ignoring = Command::new("sh");
            ignoring.args(["-c", "trap '' HUP && exec \"$0\""]);
            ignoring.arg(command.get_program()).env_clear();
            let environment = command.get_envs();
            ignoring.envs(environment.filter_map(|(name, value)| Some((name, value?))));
            ignoring
        };
        let mut agent = AgentProcess::start_as(&stub.url, &[], with_nohup);
        agent.process.signal("-HUP");
        agent.wait_for_cycles(2.0);
        assert_eq!(agent.process.lines_with("shutting down"), 0);
        assert!(agent.process.ends_in_time("-TERM", "nohup").success());
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_in_time_while_it_waits_for_the_checkpoint_of_another_agent() {
    let (stub, folder) = (small_stub().await, tempfile::tempdir().unwrap());
    blocking(|| {
        let folder = folder.path().to_str().unwrap();
        let settings = [("STATE_DIR", folder)];
        let first = AgentProcess::start(&stub.url, &settings);
        let settings = [
            ("PREFECT_API_URL", stub.url.as_str()),
            ("METRICS_PORT", "0"),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            ("STATE_DIR", folder),
        ];
        let mut command = agent_command(&settings);
        let mut second = Process::start(&mut command);
        has_a_handler(&second);
        let status = second.ends_in_time("-TERM", "the checkpoint is in use");
        assert!(status.success(), "{status}: {:#?}", second.log());
        drop(first);
    });
}

/// Waits until the process handles SIGTERM.
fn has_a_handler(process: &Process) {
    wait_for("a handler of SIGTERM", || {
        let status = format!("/proc/{}/status", process.id());
        let status = std::fs::read_to_string(status).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
        (mask >> 14 & 1 == 1).then_some(())
    });
}

/// Without a handler, the first process of a container ignores the signal.
#[test]
fn it_ends_in_time_while_the_file_of_a_secret_is_not_readable_at_the_start() {
    // Reading it blocks until another program writes to the terminal.
    let settings = [
        ("PREFECT_API_URL", "http://127.0.0.1:1/api"),
        ("PREFECT_API_KEY_FILE", "/dev/ptmx"),
    ];
    let mut agent = Process::start(&mut agent_command(&settings));
    has_a_handler(&agent);
    let status = agent.ends_in_time("-TERM", "a secret that cannot be read");
    assert!(status.success(), "{status}: {:#?}", agent.log());
}

/// A server of names that never answers, for a process in a mount namespace of its own.
struct SilentNames {
    socket: UdpSocket,
    file: tempfile::NamedTempFile,
}

impl SilentNames {
    /// `None` if the system does not support it.
    fn start() -> Option<Self> {
        let own = std::process::id().to_be_bytes();
        let address = format!("127.{}.{}.{}", own[1], own[2], own[3]);
        let socket = UdpSocket::bind((address.as_str(), 53)).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let options = "options timeout:30 attempts:5";
        writeln!(file, "nameserver {address}\n{options}").unwrap();
        let names = SilentNames { socket, file };
        let mut probe = names.asked_by(Command::new("true"));
        let is_possible = probe.stderr(Stdio::null()).status();
        is_possible
            .is_ok_and(|status| status.success())
            .then_some(names)
    }

    fn asked_by(&self, command: Command) -> Command {
        const MOUNT: &str = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", MOUNT])
            .arg(self.file.path())
            .arg(command.get_program())
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        let environment = command.get_envs();
        unshare.envs(environment.filter_map(|(name, value)| Some((name, value?))));
        unshare
    }
}

#[test]
fn it_ends_in_time_although_names_are_not_resolved() {
    let Some(names) = SilentNames::start() else {
        left_out(
            "it_ends_in_time_although_names_are_not_resolved",
            "user namespaces, and permission to use port 53",
        );
        return;
    };
    let url = "http://prefect.example:4200/api";
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://collector.example:4318",
        ),
    ];
    let mut agent = AgentProcess::start_as(url, &settings, |command| names.asked_by(command));
    let mut query = [0; 512];
    names.socket.recv(&mut query).unwrap();
    assert_eq!(agent.get("/healthz").0, 200);
    let status = agent
        .process
        .ends_in_time("-TERM", "names are not resolved");
    assert!(status.success(), "{status}");
}

/// The agent with a stream that the test reads or does not read.
struct Unread {
    child: std::process::Child,
    /// Lines of stderr.
    stderr: BufReader<PipeReader>,
    stdout: PipeReader,
    address: SocketAddr,
    writers: [PipeWriter; 2],
}

impl Unread {
    fn start(stub: &Stub, settings: &[(&str, &str)]) -> Self {
        let all = [
            ("PREFECT_API_URL", stub.url.as_str()),
            ("METRICS_ADDR", "127.0.0.1"),
            ("METRICS_PORT", "0"),
            ("SAMPLE_INTERVAL_SECONDS", "1"),
            ("LOG_LEVEL", "DEBUG"),
        ];
        let (stdout, to_stdout) = io::pipe().unwrap();
        let (stderr, to_stderr) = io::pipe().unwrap();
        let child = agent_command(&all)
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(to_stdout.try_clone().unwrap())
            .stderr(to_stderr.try_clone().unwrap())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(stderr);
        let started = line_with(&mut stderr, "listening_on");
        let address = started
            .split(['=', ' '])
            .find_map(|word| word.parse().ok())
            .unwrap();
        Unread {
            child,
            stderr,
            stdout,
            address,
            writers: [to_stdout, to_stderr],
        }
    }

    /// Fills both pipes, so that writing to them blocks.
    fn fill(&self) {
        const O_NONBLOCK: i32 = 0o4000;
        for writer in &self.writers {
            // Opened again, so that only this writer does not block.
            let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
            let mut full = File::options();
            let full = full.write(true).custom_flags(O_NONBLOCK).open(path);
            let mut full = full.unwrap();
            while full.write(b"filled by the test\n").is_ok() {}
        }
    }

    fn cycles(&self) -> f64 {
        let page = crate::support::process::page_at(self.address);
        page.family("prefect_agent_cycles_total").values().sum()
    }

    fn wait_for_cycles(&self, more: f64) {
        let before = self.cycles();
        wait_for("cycles", || (self.cycles() >= before + more).then_some(()));
    }

    fn ends_in_time(&mut self, what: &str) {
        let id = self.child.id().to_string();
        let killed = Command::new("kill").args(["-TERM", &id]).status();
        assert!(killed.unwrap().success());
        let asked = Instant::now();
        let patience = Duration::from_secs(60);
        let status = wait_within("the end", patience, || self.child.try_wait().unwrap());
        let took = asked.elapsed();
        _ = writeln!(
            io::stderr(),
            "{what}: SIGTERM to exit in {} ms",
            took.as_millis()
        );
        assert!(status.success(), "{what}: {status}");
        assert!(took <= Duration::from_secs(5), "{what}: {took:?}");
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Reads up to a line with `text`.
fn line_with(stream: &mut impl io::BufRead, text: &str) -> String {
    let mut lines = io::BufRead::lines(stream).map(Result::unwrap);
    lines.find(|line| line.contains(text)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stderr_neither_stops_cycles_nor_delays_the_end() {
    let stub = small_stub().await;
    blocking(|| {
        let settings = [("OTEL_METRICS_EXPORTER", "prometheus")];
        let mut agent = Unread::start(&stub, &settings);
        agent.fill();
        agent.wait_for_cycles(3.0);
        let healthz = format!("http://{}/healthz", agent.address);
        assert_eq!(fetch(&healthz).unwrap().status(), 200);
        agent.ends_in_time("stderr is full");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_read_late_is_complete() {
    let stub = small_stub().await;
    blocking(|| {
        let settings = [("OTEL_METRICS_EXPORTER", "prometheus")];
        let mut agent = Unread::start(&stub, &settings);
        agent.fill();
        agent.wait_for_cycles(2.0);
        line_with(&mut agent.stderr, "filled by the test");
        let before = agent.cycles();
        for _ in 0..3 {
            line_with(&mut agent.stderr, "duration_ms");
        }
        agent.wait_for_cycles(1.0);
        assert!(agent.cycles() > before);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stdout_is_one_warning_of_the_console_exporter_and_does_not_delay_the_end() {
    let stub = small_stub().await;
    blocking(|| {
        let settings = [("OTEL_METRICS_EXPORTER", "console,prometheus")];
        let mut agent = Unread::start(&stub, &settings);
        agent.fill();
        // The log is read, stdout is not.
        let warning = line_with(&mut agent.stderr, "pushes fail");
        assert!(warning.contains("console"), "{warning}");
        agent.wait_for_cycles(3.0);
        // The reader is back.
        let mut stdout = agent.stdout.try_clone().unwrap();
        let reader = std::thread::spawn(move || io::copy(&mut stdout, &mut io::sink()));
        line_with(&mut agent.stderr, "pushes succeed again");
        agent.ends_in_time("stdout was full");
        agent.writers = [io::pipe().unwrap().1, io::pipe().unwrap().1];
        reader.join().unwrap().unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_in_time_while_both_streams_are_full() {
    let stub = small_stub().await;
    blocking(|| {
        let settings = [
            ("OTEL_METRICS_EXPORTER", "console,prometheus"),
            ("OTEL_TRACES_EXPORTER", "console"),
            ("OTEL_LOGS_EXPORTER", "console"),
        ];
        let mut agent = Unread::start(&stub, &settings);
        agent.fill();
        agent.wait_for_cycles(3.0);
        agent.ends_in_time("stdout and stderr are full");
    });
}

/// A stream whose reader has closed it.
fn closed() -> Stdio {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A stream to a full disk.
fn full_disk() -> Stdio {
    let full = File::options().write(true).open("/dev/full");
    full.unwrap().into()
}

#[test]
fn errors_that_cannot_be_printed_keep_their_exit_code() {
    for stderr in [closed, full_disk] {
        for (arguments, code) in [
            (&["--max-retries", "many"][..], 2),
            (&["config", "--max-retries", "many"], 2),
            (&["health", "--metrics-port", "1"], 1),
            (&["--frobnicate"], 2),
        ] {
            let mut command = agent_command(&[("PREFECT_API_KY", "misspelled")]);
            let status = command
                .args(arguments)
                .stdout(Stdio::null())
                .stderr(stderr())
                .status()
                .unwrap();
            assert_eq!(status.signal(), None, "{arguments:?}");
            assert_eq!(status.code(), Some(code), "{arguments:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_runs_although_it_cannot_write_to_its_streams() {
    let stub = small_stub().await;
    blocking(|| {
        for stream in [closed, full_disk] {
            let settings = [
                ("PREFECT_API_URL", stub.url.as_str()),
                ("METRICS_ADDR", "127.0.0.1"),
                ("METRICS_PORT", "0"),
                ("OTEL_METRICS_EXPORTER", "console,prometheus"),
                ("SAMPLE_INTERVAL_SECONDS", "1"),
            ];
            let mut command = agent_command(&settings);
            let mut agent = Process::start_as_is(command.stdout(stream()).stderr(stream()));
            let port = wait_for("a port", || agent.listening_port());
            let url = format!("http://127.0.0.1:{port}/metrics");
            let is_third_failure = |line: &str| {
                let is_of_console = line.contains("\"console\"") && line.contains("\"failure\"");
                line.starts_with("prefect_agent_exports_total")
                    && is_of_console
                    && line.ends_with(" 3")
            };
            wait_for("three cycles", || {
                assert!(agent.is_running(), "it has ended");
                let text = fetch(&url).ok()?.text().ok()?;
                text.lines().any(is_third_failure).then_some(())
            });
        }
    });
}
