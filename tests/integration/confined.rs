//! Runs the real Prefect as compose.yml does: unprivileged, on PostgreSQL, and with no writable
//! directories except those in memory.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::compose::{PUSH, compose, environment, list, services, text};
use crate::support::postgres::Postgres;
use crate::support::prefect::{Version, free_port};
use crate::support::process::{Process, wait_for};
use crate::support::programs::left_out;
use crate::support::stack::project;

/// The first namespace makes everything read-only, except a `/tmp` with the options of the service
/// and those that the engine adds. The second one drops the privileges. The demo is at `/mnt`.
const CONFINE: &str = r#"
mount --bind "$1" /mnt
mount -t tmpfs -o "noexec,nosuid,nodev,$2" tmpfs /tmp
mount -o remount,bind,ro /mnt
mount -o remount,bind,ro /
user=$3 group=$4
shift 4
exec unshare --user --map-user="$user" --map-group="$group" -- "$@"
"#;

/// A program, run as in the container of `service`.
fn confined(service: &Value, program: &[&str]) -> Command {
    assert_eq!(service["read_only"], true);
    let folders: Vec<&str> = list(&service["tmpfs"]).map(text).collect();
    let options = folders[0].strip_prefix("/tmp:").unwrap();
    assert_eq!(folders.len(), 1);
    let (user, group) = text(&service["user"]).split_once(':').unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-e", "-c"])
        .args([CONFINE, "confine"])
        .arg(project("demo"))
        .args([options, user, group])
        .args(program)
        .env_clear()
        .current_dir("/");
    command
}

/// A container of the service, with the environment in the file and the differences in this test.
fn container(service: &Value, venv: &Path, program: &[&str], here: &[(&str, &str)]) -> Command {
    let mut command = confined(service, program);
    let path = format!("{}:/usr/bin:/bin", venv.join("bin").display());
    command
        .envs(environment(service))
        .envs(here.iter().copied())
        .env("PATH", path);
    command
}

#[test]
#[ignore = "takes minutes"]
fn prefect_and_its_worker_need_no_privilege_and_write_to_memory_only() {
    let test = "prefect_and_its_worker_need_no_privilege";
    let (Some(compose), Some(postgres)) = (compose(test, PUSH), Postgres::start(test)) else {
        return;
    };
    let (server, worker) = (
        &services(&compose)["prefect"],
        &services(&compose)["worker"],
    );
    let mut probe = confined(
        server,
        &["sh", "-c", "touch /tmp/file && ! touch /mnt/file"],
    );
    let probe = probe.env("PATH", "/usr/bin:/bin").stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        left_out(test, "user and mount namespaces");
        return;
    }
    let venv = Version::Current.venv().unwrap();
    let port = free_port().to_string();
    let url = format!("http://127.0.0.1:{port}/api");
    // Only addresses differ from the file, because names are not resolved here.
    let database = postgres.url();
    let (_, database) = database.split_once('@').unwrap();
    let (address, name) = database.split_once('/').unwrap();
    let (host, database_port) = address.split_once(':').unwrap();
    let command: Vec<&str> = list(&server["command"]).map(text).collect();
    let command = [&command[..], &["--port", &port]].concat();
    let here = [
        ("PREFECT_SERVER_DATABASE_HOST", host),
        ("PREFECT_SERVER_DATABASE_PORT", database_port),
        ("PREFECT_SERVER_DATABASE_NAME", name),
    ];
    let server = Process::start(&mut container(server, &venv, &command, &here));
    let http = reqwest::blocking::Client::new();
    let started = Instant::now();
    wait_for("the Prefect server", || {
        assert!(started.elapsed().as_secs() < 590, "{:#?}", server.log());
        let health = http.get(format!("{url}/health")).send().ok()?;
        health.status().is_success().then_some(())
    });
    let page = http.get(url.trim_end_matches("/api")).send().unwrap();
    assert!(page.text().unwrap().contains("<html"), "the UI");

    let command: Vec<String> = list(&worker["command"])
        .map(|word| text(word).replace("/demo/", "/mnt/"))
        .collect();
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let health = free_port().to_string();
    let here = [
        ("PREFECT_API_URL", url.as_str()),
        ("PREFECT_WORKER_WEBSERVER_PORT", &health),
        // The example service does not run in this test.
        ("NUMBERS_URL", ""),
    ];
    let worker = Process::start(&mut container(worker, &venv, &command, &here));
    for state in ["COMPLETED", "FAILED", "CRASHED"] {
        let filter = json!({"flow_runs": {"state": {"type": {"any_": [state]}}}});
        wait_for(state, || {
            let count = http
                .post(format!("{url}/flow_runs/count"))
                .json(&filter)
                .send();
            let count: u64 = count.ok()?.json().ok()?;
            (count > 0).then_some(())
        });
    }
    wait_for("the worker's health", || {
        let answer = http.get(format!("http://127.0.0.1:{health}/health"));
        answer
            .send()
            .ok()
            .filter(|answer| answer.status().is_success())
    });
    for process in [&server, &worker] {
        for refused in ["Read-only file system", "Permission denied"] {
            assert_eq!(process.lines_with(refused), 0, "{:#?}", process.log());
        }
    }
}
