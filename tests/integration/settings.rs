//! Settings as a process has them: what it warns about, the profile of Prefect, headers and
//! authorities, the console, and the commands that show settings.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::prefect::Version;
use crate::support::process::{AgentProcess, Process, agent_command, run_agent as run, wait_for};
use crate::support::small_stub;
use crate::support::stub::Stub;
use crate::support::tls::{Certificates, TlsListener};

/// The rows of `config`.
fn config(environment: &[(&str, &str)]) -> Vec<Value> {
    let (code, stdout, stderr) = run(&["config", "--format", "json"], environment);
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn value<'a>(rows: &'a [Value], name: &str) -> &'a Value {
    let mut rows = rows.iter();
    &rows.find(|row| row["setting"] == name).unwrap()["value"]
}

/// The small stub, and a folder with a profile for it.
fn profile_of_a_stub() -> (tokio::runtime::Runtime, Stub, tempfile::TempDir) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let home = tempfile::tempdir().unwrap();
    let profile = format!(
        "active = \"stub\"\n[profiles.stub]\nPREFECT_API_URL = {:?}\nPREFECT_API_KEY = \"hunter2\"\n",
        stub.url
    );
    std::fs::create_dir(home.path().join(".prefect")).unwrap();
    std::fs::write(home.path().join(".prefect/profiles.toml"), profile).unwrap();
    (runtime, stub, home)
}

#[test]
fn what_is_strange_about_the_settings_is_logged_once_at_the_start() {
    let settings = [
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("SAMPLE_INTERVAL", "5"),
    ];
    let agent = AgentProcess::start("http://127.0.0.1:9/api", &settings);
    let near = "did you mean SAMPLE_INTERVAL_SECONDS?";
    agent.process.wait_for_line(near);
    agent.process.wait_for_line("Prefect cannot be read");
    for text in [near, "\"zstd\" is not supported"] {
        assert_eq!(
            agent.process.lines_with(text),
            1,
            "{:?}",
            agent.process.log()
        );
    }
}

#[test]
fn the_active_profile_of_prefect_is_used_and_said() {
    let (_runtime, stub, home) = profile_of_a_stub();
    let settings = [
        ("HOME", home.path().to_str().unwrap()),
        ("METRICS_ADDR", "127.0.0.1"),
        ("METRICS_PORT", "0"),
        ("OTEL_METRICS_EXPORTER", "none"),
    ];
    let agent = Process::start(&mut agent_command(&settings));
    let line = agent.wait_for_line("active Prefect profile");
    assert!(
        line.contains("stub") && line.contains(".prefect/profiles.toml"),
        "{line}"
    );
    let request = wait_for("a request", || stub.take_requests().pop());
    assert_eq!(request.headers["authorization"], "Bearer hunter2");
    assert_eq!(agent.lines_with("hunter2"), 0);
}

#[test]
fn the_key_of_a_profile_is_not_sent_to_another_url() {
    let (_runtime, stub, home) = profile_of_a_stub();
    let home = home.path().to_str().unwrap();
    let agent = AgentProcess::start(&stub.url, &[("HOME", home)]);
    let request = wait_for("a request", || stub.take_requests().pop());
    assert!(!request.headers.contains_key("authorization"));
    assert_eq!(agent.process.lines_with("profile"), 0);
}

#[test]
fn check_shows_the_profile_and_what_is_strange_about_the_settings() {
    let (_runtime, _stub, home) = profile_of_a_stub();
    let environment = [
        ("HOME", home.path().to_str().unwrap()),
        ("METRICS_PORT", "0"),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("SAMPLE_INTERVAL", "5"),
    ];
    let (_, stdout, _) = run(&["check"], &environment);
    let line = |text: &str| {
        let mut lines = stdout.lines().filter(|line| line.contains("settings "));
        lines
            .find(|line| line.contains(text))
            .unwrap_or_else(|| panic!("{stdout}"))
    };
    assert!(line("profile \"stub\" in /").starts_with("ok "));
    assert!(line("did you mean SAMPLE_INTERVAL_SECONDS?").starts_with("warn "));
    assert!(!stdout.contains("hunter2"), "{stdout}");
}

#[test]
fn a_profile_is_read_as_prefect_itself_writes_it() {
    let prefect = Version::Current.venv().unwrap().join("bin/prefect");
    let home = tempfile::tempdir().unwrap();
    let home = home.path().to_str().unwrap();
    let prefect = |arguments: &[&str]| {
        let mut command = Command::new(&prefect);
        command.args(arguments).env("PREFECT_HOME", home);
        let output = command.env("DO_NOT_TRACK", "1").output().unwrap();
        (output.status.success(), format!("{output:?}"))
    };
    let must = |arguments: &[&str]| {
        let (is_done, output) = prefect(arguments);
        assert!(is_done, "{output}");
    };
    must(&["profile", "create", "team's own"]);
    // It chooses the profile, and fails since there is no server.
    prefect(&["profile", "use", "team's own"]);
    let headers = "PREFECT_CLIENT_CUSTOM_HEADERS={\"X-Tenant\": \"blue\"}";
    for setting in [
        "PREFECT_API_URL=http://127.0.0.1:9/api",
        "PREFECT_API_KEY=pnu_key",
        headers,
    ] {
        must(&["config", "set", setting]);
    }
    let rows = config(&[("PREFECT_HOME", home)]);
    assert_eq!(value(&rows, "PREFECT_API_URL"), "http://127.0.0.1:9/api");
    for secret in ["PREFECT_API_KEY", "PREFECT_CLIENT_CUSTOM_HEADERS"] {
        assert_eq!(value(&rows, secret), "********");
    }
}

#[test]
fn no_variable_of_prefect_itself_is_taken_for_a_mistake() {
    let mut python = Command::new(Version::Current.venv().unwrap().join("bin/python"));
    let script = "
import os, prefect.settings
from prefect.settings.legacy import _get_valid_setting_names as names
print(*names(prefect.settings.Settings))";
    let output = python.args(["-c", script]).env("DO_NOT_TRACK", "1");
    let names = String::from_utf8(output.output().unwrap().stdout).unwrap();
    let known = prefect_otel_agent::settings::table::SETTINGS;
    let names: Vec<&str> = names
        .split_whitespace()
        .filter(|name| known.iter().all(|setting| setting.name != *name))
        .collect();
    assert!(names.len() > 300, "{names:?}");
    let variables: Vec<_> = names.into_iter().map(|name| (name, "x")).collect();
    let (code, _, stderr) = run(&["config"], &variables);
    assert_eq!(code, Some(0));
    // A folder for profiles that does not exist is said, and nothing else.
    let lines = stderr.lines();
    let mistakes: Vec<_> = lines.filter(|line| line.contains("did you mean")).collect();
    assert_eq!(mistakes, Vec::<&str>::new());
}

#[test]
fn custom_headers_are_sent_with_every_request() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let headers = "{\"X-Tenant\": \"hunter2\", \"Authorization\": \"Basic hunter2\"}";
    let settings = [
        ("PREFECT_CLIENT_CUSTOM_HEADERS", headers),
        ("PREFECT_API_KEY", "replaced"),
        ("LOG_LEVEL", "DEBUG"),
    ];
    let agent = AgentProcess::start(&stub.url, &settings);
    agent.wait_for_page("a cycle", |page| page.value("prefect_up", &[]));
    let requests = stub.take_requests();
    assert!(requests.len() > 5);
    for request in requests {
        assert_eq!(request.headers["x-tenant"], "hunter2");
        assert_eq!(request.headers["authorization"], "Basic hunter2");
    }
    assert_eq!(agent.process.lines_with("hunter2"), 0);
}

#[test]
fn the_authorities_of_prefect_are_used_instead_of_the_systems() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0");
    let listener = runtime.block_on(listener).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (certificate, key) = &certificates.server;
    let url = format!("https://localhost:{port}/api");
    let guard = runtime.enter();
    let stub = Stub::at(url, TlsListener::new(listener, certificate, key, None));
    drop(guard);
    let (own, other) = (certificates.path("ca"), others.path("ca"));
    let trusting = |own: &str| {
        // The system's authorities know the server's.
        let system = certificates.path("ca");
        let settings = [
            ("PREFECT_API_SSL_CERT_FILE", own),
            ("SSL_CERT_FILE", system.as_str()),
            ("MAX_RETRIES", "0"),
        ];
        AgentProcess::start(&stub.url, &settings)
    };
    let agent = trusting(&own);
    agent.wait_for_page("a cycle", |page| {
        page.value("prefect_up", &[]).filter(|up| *up == 1.0)
    });
    drop(agent);
    let agent = trusting(&other);
    let line = agent.process.wait_for_line("Prefect cannot be read");
    assert!(line.to_lowercase().contains("certificate"), "{line}");
}

#[test]
fn spans_and_logs_are_printed_as_otlp_json() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let settings = [
        ("PREFECT_API_URL", stub.url.as_str()),
        ("METRICS_ADDR", "127.0.0.1"),
        ("METRICS_PORT", "0"),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_LOGS_EXPORTER", "console"),
        ("OTEL_SERVICE_NAME", "printed"),
        ("SAMPLE_INTERVAL_SECONDS", "1"),
    ];
    let mut command = agent_command(&settings);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let lines = std::io::BufRead::lines(stdout).map_while(Result::ok);
    let mut missing = vec!["/resourceSpans/0", "/resourceLogs/0"];
    for line in lines {
        let message: Value = serde_json::from_str(&line).unwrap();
        missing.retain(|path| {
            let Some(found) = message.pointer(path) else {
                return true;
            };
            let attributes = found["resource"]["attributes"].to_string();
            assert!(attributes.contains("\"printed\""), "{attributes}");
            false
        });
        if missing.is_empty() {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_closed_stdout_does_not_stop_the_agent() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let settings = [
        ("PREFECT_API_URL", stub.url.as_str()),
        ("METRICS_ADDR", "127.0.0.1"),
        ("METRICS_PORT", "0"),
        ("OTEL_METRICS_EXPORTER", "console"),
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_LOGS_EXPORTER", "console"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "100"),
        ("SAMPLE_INTERVAL_SECONDS", "1"),
    ];
    let mut command = agent_command(&settings);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    crate::support::pass(&stub, 3);
    assert!(child.try_wait().unwrap().is_none(), "it has ended");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn config_shows_each_setting_even_where_one_cannot_be_used() {
    let environment = [
        ("MAX_RETRIES", "many"),
        ("PREFECT_API_KEY", "hunter2"),
        ("PREFECT_API_ULR", "x"),
    ];
    let (code, stdout, stderr) = run(&["config", "--log-level", "DEBUG"], &environment);
    assert_eq!(code, Some(2));
    let line = |name: &str| {
        let mut lines = stdout.lines();
        let line = lines.find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap().split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(line("MAX_RETRIES"), ["MAX_RETRIES", "many", "environment"]);
    assert_eq!(line("LOG_LEVEL"), ["LOG_LEVEL", "DEBUG", "flag"]);
    assert_eq!(line("PREFECT_API_KEY")[1], "********");
    assert!(stderr.contains("MAX_RETRIES: \"many\""), "{stderr}");
    let (code, _, stderr) = run(&["config"], &environment[1..]);
    assert_eq!(code, Some(0));
    assert_eq!(
        stderr,
        "warning: PREFECT_API_ULR is not a setting; did you mean PREFECT_API_URL?\n"
    );
}

#[test]
fn help_is_grouped_and_fits_the_terminal() {
    let (code, help, _) = run(&["--help"], &[("COLUMNS", "80")]);
    assert_eq!(code, Some(0));
    let groups = [
        "Prefect:",
        "Sampling:",
        "Metrics:",
        "Endpoint:",
        "Logging:",
        "OpenTelemetry:",
    ];
    let found: Vec<_> = help.lines().filter(|line| groups.contains(line)).collect();
    assert_eq!(found, groups);
    for line in help.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn tables_fit_the_terminal() {
    for name in ["metrics", "settings", "config"] {
        let (code, table, _) = run(&[name], &[("COLUMNS", "100")]);
        assert_eq!(code, Some(0));
        for line in table.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }
}

#[test]
fn a_terminal_without_colours_gets_none() {
    // A pseudo-terminal as stderr: the agent would write colours.
    let agent = env!("CARGO_BIN_EXE_prefect-otel-agent");
    let log = |no_colour: &[(&str, &str)]| {
        let line = format!("{agent} --metrics-addr 127.0.0.1 --metrics-port 0");
        let mut script = Command::new("script");
        script
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        script.envs([
            ("PREFECT_API_URL", "http://127.0.0.1:9/api"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ]);
        script.args([
            "--quiet",
            "--command",
            &format!("timeout 3 {line}"),
            "/dev/null",
        ]);
        let output = script.envs(no_colour.iter().copied()).output().unwrap();
        let log = String::from_utf8(output.stdout).unwrap();
        assert!(log.contains("started"), "{log}");
        log
    };
    assert!(log(&[]).contains('\u{1b}'));
    assert!(!log(&[("NO_COLOR", "1")]).contains('\u{1b}'));
    assert!(log(&[("NO_COLOR", "")]).contains('\u{1b}'));
}

#[test]
fn shells_are_completed_and_a_man_page_is_printed() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, _) = run(&["completions", shell], &[]);
        assert_eq!(code, Some(0));
        assert!(script.contains("sample-interval-seconds"), "{shell}");
    }
    // The script is one that bash takes, and it completes a flag.
    let (_, script, _) = run(&["completions", "bash"], &[]);
    let complete = "
COMP_WORDS=(prefect-otel-agent --sample-in); COMP_CWORD=1
set -- $(complete -p prefect-otel-agent)
while [ \"$1\" != -F ]; do shift; done
\"$2\" prefect-otel-agent --sample-in prefect-otel-agent
printf '%s\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    let output = bash.args(["-c", &(script + complete)]).output().unwrap();
    let completed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(completed.trim(), "--sample-interval-seconds");
    let (code, page, _) = run(&["man"], &[]);
    assert_eq!(code, Some(0));
    assert!(page.contains(".TH") && page.contains("sample\\-interval\\-seconds"));
}
