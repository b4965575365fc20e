//! Processes that a test starts, and stops by their ids.

use std::collections::HashSet;
use std::io::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A process in its own process group, with its stderr.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Process::start_reading(command.stdout(Stdio::null()))
    }

    /// The same, with the stdout of `command`.
    pub(crate) fn start_reading(command: &mut Command) -> Self {
        let mut process = Process::start_as_is(command.stderr(Stdio::piped()));
        let (lines, stderr) = (Arc::clone(&process.log), process.child.stderr.take());
        let stderr = BufReader::new(stderr.unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        process
    }

    /// The same, with the stderr of `command`, which nobody reads.
    pub(crate) fn start_as_is(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).process_group(0);
        Process {
            child: command.spawn().unwrap(),
            log: Arc::default(),
        }
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The lines of stderr so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// The number of lines with `text`.
    pub(crate) fn lines_with(&self, text: &str) -> usize {
        self.log().iter().filter(|line| line.contains(text)).count()
    }

    /// Waits for a line with `text`.
    pub(crate) fn wait_for_line(&self, text: &str) -> String {
        let found = || self.log().into_iter().find(|line| line.contains(text));
        wait_for(&format!("a line with {text:?}"), found)
    }

    /// Whether it has not exited yet.
    pub(crate) fn is_running(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()));
        // The state follows the name: `Z` until the test has read the exit status.
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    /// The TCP port that it listens on, if there is one yet: for a process whose log cannot be
    /// read. The port of `METRICS_PORT=0` cannot be taken by another process before it is used.
    ///
    /// # Panics
    ///
    /// If it has exited.
    pub(crate) fn listening_port(&mut self) -> Option<u16> {
        let exited = self.child.try_wait().unwrap();
        assert!(
            exited.is_none(),
            "the process has ended: {exited:?} {:#?}",
            self.log()
        );
        let folder = Path::new("/proc").join(self.id().to_string());
        let links = std::fs::read_dir(folder.join("fd")).ok()?.flatten();
        let links = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let open: HashSet<_> = links
            .map(|link| link.to_string_lossy().into_owned())
            .collect();
        // proc_pid_net(5): the address, the state and the inode of each socket.
        let table = std::fs::read_to_string(folder.join("net/tcp")).ok()?;
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (_, port) = fields[1].rsplit_once(':')?;
            let listens = fields[3] == "0A" && open.contains(&format!("socket:[{}]", fields[9]));
            listens.then(|| u16::from_str_radix(port, 16).unwrap())
        })
    }

    /// Sends a signal to the group.
    pub(crate) fn signal(&self, signal: &str) {
        let group = format!("-{}", self.id());
        Command::new("kill")
            .args([signal, "--", &group])
            .stderr(Stdio::null())
            .status()
            .unwrap();
    }

    /// Sends a signal to the group. The process must exit within five seconds.
    pub(crate) fn ends_in_time(&mut self, signal: &str, what: &str) -> ExitStatus {
        self.signal(signal);
        let asked = Instant::now();
        let status = self.wait(PATIENCE);
        let took = asked.elapsed();
        _ = writeln!(
            std::io::stderr(),
            "{what}: {signal} to exit in {} ms",
            took.as_millis()
        );
        assert!(took <= Duration::from_secs(5), "{what}: {took:?}");
        status
    }

    /// Waits until it exits.
    pub(crate) fn wait(&mut self, patience: Duration) -> ExitStatus {
        wait_within("the end of the program", patience, || {
            self.child.try_wait().unwrap()
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal("-TERM");
        let deadline = Instant::now() + Duration::from_secs(15);
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > deadline {
                self.signal("-KILL");
                _ = self.child.wait();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// How long an expected event may take on a busy machine. Only a failure takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// GET, with this timeout.
pub(crate) fn fetch(url: &str) -> reqwest::Result<reqwest::blocking::Response> {
    let client = reqwest::blocking::Client::builder().timeout(PATIENCE);
    client.build()?.get(url).send()
}

/// The page of the agent at this address.
pub(crate) fn page_at(address: SocketAddr) -> super::page::Page {
    let answer = fetch(&format!("http://{address}/metrics")).unwrap();
    assert_eq!(answer.status(), 200);
    super::page::Page::parse(&answer.text().unwrap())
}

/// Polls `ask` until it returns a value.
pub(crate) fn wait_for<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    wait_within(what, PATIENCE, ask)
}

/// Polls `ask` until it returns a value, which must happen in time.
pub(crate) fn wait_within<T>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Another program of the workspace, by its path relative to the agent's: `numbers`,
/// `examples/step1_bare`.
pub(crate) fn built(name: &str) -> std::path::PathBuf {
    let agent = std::path::Path::new(env!("CARGO_BIN_EXE_prefect-otel-agent"));
    let path = agent.with_file_name(name);
    assert!(
        path.exists(),
        "{path:?} does not exist: run cargo build --workspace --bins --examples"
    );
    path
}

/// The agent's binary, with only `settings` as its environment.
pub(crate) fn agent_command(settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prefect-otel-agent"));
    command.env_clear().envs(settings.iter().copied());
    command
}

/// Runs a command of the agent to its end: exit code, stdout and stderr.
pub(crate) fn run_agent(
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> (Option<i32>, String, String) {
    let output = agent_command(environment).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// The agent's command on a host with this name, if the system supports user namespaces.
fn on_host(command: Command, host: &str) -> Command {
    if !has_namespaces() {
        left_out("another host name needs user namespaces; the process runs on this host");
        return command;
    }
    let name = format!("hostname {host} && exec \"$0\" \"$@\"");
    within(
        command,
        &["unshare", "--user", "--map-root-user", "--uts"],
        &name,
    )
}

/// The command as a shell becomes it at the end of `script`, `exec "$0" "$@"`. With `mounts`, the
/// script can mount file systems, which only this process sees.
pub(crate) fn by_shell(command: Command, mounts: bool, script: &str) -> Command {
    match mounts {
        true => within(
            command,
            &["unshare", "--user", "--map-root-user", "--mount"],
            script,
        ),
        false => within(command, &["env"], script),
    }
}

/// The command with the default action of SIGHUP and SIGINT, even if the tests run under `nohup` or
/// in the background of a shell.
pub(crate) fn with_default_signals(command: Command) -> Command {
    let wrapper = ["env", "--default-signal=HUP,INT"];
    within(command, &wrapper, "exec \"$0\" \"$@\"")
}

/// Whether the system supports user namespaces. CI may run in a container that forbids it.
pub(crate) fn has_namespaces() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["--user", "--map-root-user", "--mount", "--uts", "true"]);
    let probe = probe.stderr(Stdio::null()).status();
    probe.is_ok_and(|status| status.success())
}

/// Says what a test leaves out on this machine.
pub(crate) fn left_out(what: &str) {
    _ = writeln!(std::io::stderr(), "LEFT OUT: {what}");
}

fn within(command: Command, wrapper: &[&str], script: &str) -> Command {
    let mut shell = Command::new(wrapper[0]);
    shell.args(&wrapper[1..]).args(["sh", "-c", script]);
    shell.arg(command.get_program()).args(command.get_args());
    let environment = command.get_envs();
    let environment = environment.filter_map(|(name, value)| Some((name, value?)));
    shell.env_clear().envs(environment);
    shell.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    shell
}

/// The agent as a process.
pub(crate) struct AgentProcess {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

impl AgentProcess {
    /// Starts it on a free port, with `/metrics` only unless `settings` enable more.
    pub(crate) fn start(api_url: &str, settings: &[(&str, &str)]) -> Self {
        AgentProcess::start_as(api_url, settings, |command| command)
    }

    /// The same on a host with this name.
    pub(crate) fn start_on(host: &str, api_url: &str, settings: &[(&str, &str)]) -> Self {
        AgentProcess::start_as(api_url, settings, |command| on_host(command, host))
    }

    /// The same with another command.
    pub(crate) fn start_as(
        api_url: &str,
        settings: &[(&str, &str)],
        change: impl FnOnce(Command) -> Command,
    ) -> Self {
        let mut all = vec![
            ("PREFECT_API_URL", api_url),
            ("METRICS_ADDR", "127.0.0.1"),
            ("METRICS_PORT", "0"),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            ("SAMPLE_INTERVAL_SECONDS", "1"),
            ("INVENTORY_INTERVAL_SECONDS", "1"),
        ];
        all.extend(settings);
        let process = Process::start(&mut change(agent_command(&all)));
        let started = process.wait_for_line("listening_on");
        let address = started
            .split(['=', ' ', '"', ','])
            .find_map(|word| word.parse().ok())
            .unwrap();
        AgentProcess { process, address }
    }

    /// GET, with status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.address);
        let answer = fetch(&url).unwrap();
        (answer.status().as_u16(), answer.text().unwrap())
    }

    /// Waits until it has completed `more` more cycles.
    pub(crate) fn wait_for_cycles(&self, more: f64) {
        let cycles = |page: &super::page::Page| -> f64 {
            let by_outcome = page.family("prefect_agent_cycles_total");
            by_outcome.values().sum()
        };
        let before = cycles(&self.page());
        self.wait_for_page("more cycles", |page| {
            (cycles(page) >= before + more).then_some(())
        });
    }

    /// The page of `/metrics`.
    pub(crate) fn page(&self) -> super::page::Page {
        page_at(self.address)
    }

    /// Waits until `look` finds something on the page.
    pub(crate) fn wait_for_page<T>(
        &self,
        what: &str,
        look: impl Fn(&super::page::Page) -> Option<T>,
    ) -> T {
        wait_for(what, || match self.get("/metrics") {
            (200, text) => look(&super::page::Page::parse(&text)),
            // No cycle has ended for a while, as on a busy machine.
            (503, _) => None,
            other => panic!("{other:?}"),
        })
    }
}
