//! A real Prefect server for a test: with pinned requirements in a virtual environment that is kept
//! between runs, its own database, and a free port.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::process::{PATIENCE, Process, wait_for};
use super::programs::left_out;

/// A version of Prefect to test with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// The version of the demo, which most tests use.
    Current,
    /// The oldest version that the agent supports.
    Oldest,
    /// The newest version that the agent is tested with.
    Newest,
}

/// The exit status of `demo/venv` if the installed Python does not support the version.
const UNSUITABLE_PYTHON: i32 = 3;

impl Version {
    /// The version number.
    pub(crate) fn number(self) -> &'static str {
        match self {
            Version::Current => "3.8.8",
            Version::Oldest => "3.0.4",
            Version::Newest => "3.9.1",
        }
    }

    /// The virtual environment with this Prefect, created by the demo's script. `None` if the
    /// installed Python does not support it.
    pub(crate) fn venv(self) -> Option<PathBuf> {
        static VENVS: [OnceLock<Option<PathBuf>>; 3] = [const { OnceLock::new() }; 3];
        VENVS[self as usize].get_or_init(|| self.install()).clone()
    }

    fn install(self) -> Option<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut script = Command::new(root.join("demo/venv"));
        script.current_dir(root).stderr(Stdio::inherit());
        if self != Version::Current {
            script.arg(format!("tests/prefect/{}.txt", self.number()));
        }
        let output = script.output().unwrap();
        if self != Version::Current && output.status.code() == Some(UNSUITABLE_PYTHON) {
            return None;
        }
        assert!(output.status.success(), "demo/venv failed; see its message");
        let path = String::from_utf8(output.stdout).unwrap();
        Some(PathBuf::from(path.trim()))
    }
}

/// A free port for a program that is about to start. It is below the range from which Linux takes
/// the ports of outgoing connections, so that none of them takes it first.
pub(crate) fn free_port() -> u16 {
    let mut candidates = std::iter::repeat_with(|| fastrand::u16(10_000..32_768));
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    candidates.find(is_free).unwrap()
}

fn command(venv: &Path, home: &Path, port: u16, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(venv.join("bin/prefect"));
    command
        .args(["server", "start", "--host", "127.0.0.1", "--port"])
        .arg(port.to_string())
        .env("PREFECT_HOME", home)
        .env("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        .env("DO_NOT_TRACK", "1")
        .envs(settings.iter().copied());
    command
}

/// A running server.
pub(crate) struct Server {
    process: Process,
    command: Command,
    venv: PathBuf,
    home: tempfile::TempDir,
    /// The URL of its PostgreSQL database; SQLite if there is none.
    postgres: Option<String>,
    pub(crate) url: String,
    http: reqwest::blocking::Client,
    credentials: Option<(String, String)>,
    csrf: Option<(String, String)>,
}

impl Server {
    /// Starts a server with these settings, and waits until it answers.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        Server::start_in(Version::Current.venv().unwrap(), settings)
    }

    /// The same for another version. `None` if the installed Python does not support it, which is
    /// reported.
    pub(crate) fn start_version(
        test: &str,
        version: Version,
        settings: &[(&str, &str)],
    ) -> Option<Self> {
        let Some(venv) = version.venv() else {
            let number = version.number();
            let needs = format!("a Python for Prefect {number}: see tests/prefect/{number}.txt");
            left_out(test, &needs);
            return None;
        };
        Some(Server::start_in(venv, settings))
    }

    fn start_in(venv: PathBuf, settings: &[(&str, &str)]) -> Self {
        let port = free_port();
        let home = tempfile::tempdir().unwrap();
        let mut command = command(&venv, home.path(), port, settings);
        let process = Process::start(&mut command);
        let of = |name: &str| {
            settings
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| *value)
        };
        let credentials = of("PREFECT_SERVER_API_AUTH_STRING")
            .and_then(|pair| pair.split_once(':'))
            .map(|(user, password)| (user.to_owned(), password.to_owned()));
        let mut server = Server {
            process,
            command,
            venv,
            home,
            postgres: of("PREFECT_API_DATABASE_CONNECTION_URL")
                .map(|url| url.replace("postgresql+asyncpg:", "postgresql:")),
            url: format!("http://127.0.0.1:{port}/api"),
            // With SQLite, a writer may have to wait for a long time.
            http: reqwest::blocking::Client::builder()
                .timeout(Duration::from_secs(120))
                .build()
                .unwrap(),
            credentials,
            csrf: None,
        };
        server.wait_until_healthy();
        if of("PREFECT_SERVER_CSRF_PROTECTION_ENABLED").is_some() {
            let client = uuid::Uuid::new_v4().to_string();
            let token = server.call("GET", &format!("/csrf-token?client={client}"), None);
            server.csrf = Some((token["token"].as_str().unwrap().to_owned(), client));
        }
        server
    }

    fn wait_until_healthy(&self) {
        let health = || self.http.get(format!("{}/health", self.url)).send().ok();
        let started = Instant::now();
        wait_for("the Prefect server", || {
            let patience_ends = started.elapsed() > PATIENCE - Duration::from_secs(10);
            assert!(!patience_ends, "{:#?}", self.process.log());
            health().filter(|answer| answer.status().is_success())
        });
    }

    /// Restarts the server, with the same port and database.
    pub(crate) fn restart(&mut self) {
        self.process.signal("-TERM");
        self.process.wait(PATIENCE);
        self.process = Process::start(&mut self.command);
        self.wait_until_healthy();
    }

    /// The rows of a query of its SQLite database, each as a JSON array.
    pub(crate) fn database(&self, query: &str) -> Vec<Value> {
        const SCRIPT: &str = r#"
import json, sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=30) as connection:
    print(json.dumps(connection.execute(sys.argv[2]).fetchall()))
"#;
        let output = self
            .python(SCRIPT)
            .arg(self.home.path().join("prefect.db"))
            .arg(query)
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A script for the server's Python environment.
    fn python(&self, script: &str) -> Command {
        let mut command = Command::new(self.venv.join("bin/python"));
        command.args(["-c", script]);
        command
    }

    /// A command in the server's Python environment, with this server as its API.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.venv.join("bin").join(name));
        command
            .env("PREFECT_HOME", self.home.path().join("client"))
            .env("PREFECT_API_URL", &self.url)
            .env("DO_NOT_TRACK", "1");
        command
    }

    /// POST.
    pub(crate) fn post(&self, path: &str, body: Value) -> Value {
        self.call("POST", path, Some(body))
    }

    /// A call, which is retried while SQLite is busy.
    pub(crate) fn call(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        self.try_call(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// The same; a lost answer is an error.
    pub(crate) fn try_call(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, String> {
        let url = format!("{}{path}", self.url);
        for _ in 0..20 {
            let mut request = self.http.request(method.parse().unwrap(), &url);
            if let Some((user, password)) = &self.credentials {
                request = request.basic_auth(user, Some(password));
            }
            if let Some((token, client)) = &self.csrf {
                request = request
                    .header("Prefect-Csrf-Token", token)
                    .header("Prefect-Csrf-Client", client);
            }
            if let Some(body) = &body {
                request = request.json(body);
            }
            let answer = request.send().map_err(|error| error.to_string())?;
            if answer.status() == 503 {
                std::thread::sleep(Duration::from_millis(500));
                continue;
            }
            let (status, text) = (answer.status(), answer.text().unwrap_or_default());
            return match status.is_success() {
                true => Ok(serde_json::from_str(&text).unwrap_or(Value::Null)),
                false => Err(format!("{status}: {text}")),
            };
        }
        Err("busy for ten seconds".to_owned())
    }

    /// Creates an object, and returns its id.
    pub(crate) fn create(&self, path: &str, body: Value) -> String {
        self.post(path, body)["id"].as_str().unwrap().to_owned()
    }

    /// Sets the state of a run, regardless of orchestration rules.
    pub(crate) fn set_state(&self, run: &str, state: Value) {
        let answer = self.post(
            &format!("/flow_runs/{run}/set_state"),
            json!({"state": state, "force": true}),
        );
        assert_eq!(answer["status"], "ACCEPT", "{answer}");
    }

    /// Moves a run into the past, in the server's database, since the API does not support that.
    pub(crate) fn set_back(&self, run: &str, by: Duration) {
        const SQLITE: &str = r#"
import sqlite3, sys, uuid
path, run, seconds = sys.argv[1:]
columns = ["expected_start_time", "start_time", "end_time"]
moved = ", ".join(f"{c} = strftime('%Y-%m-%d %H:%M:%f', {c}, '-{seconds} seconds') || '000'" for c in columns)
with sqlite3.connect(path, timeout=30) as connection:
    changed = connection.execute(f"UPDATE flow_run SET {moved} WHERE id = ?", [str(uuid.UUID(run))])
sys.exit(0 if changed.rowcount == 1 else 1)
"#;
        const POSTGRES: &str = r#"
import asyncio, asyncpg, sys, uuid
url, run, seconds = sys.argv[1:]
columns = ["expected_start_time", "start_time", "end_time"]
moved = ", ".join(f"{c} = {c} - interval '{seconds} seconds'" for c in columns)
async def move():
    connection = await asyncpg.connect(url)
    return await connection.execute(f"UPDATE flow_run SET {moved} WHERE id = $1", uuid.UUID(run))
sys.exit(0 if asyncio.run(move()) == "UPDATE 1" else 1)
"#;
        let mut command = match &self.postgres {
            Some(url) => {
                let mut command = self.python(POSTGRES);
                command.arg(url);
                command
            }
            None => {
                let mut command = self.python(SQLITE);
                command.arg(self.home.path().join("prefect.db"));
                command
            }
        };
        command.arg(run).arg(by.as_secs().to_string());
        assert!(command.status().unwrap().success());
    }

    /// One flow run.
    pub(crate) fn flow_run(&self, id: &str) -> Value {
        self.call("GET", &format!("/flow_runs/{id}"), None)
    }
}
