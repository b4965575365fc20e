//! `check`: from what is wrong to the setting that helps.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use jiff::{SignedDuration, Timestamp};
use prefect_otel_agent::checkpoint::Checkpoint;
use prefect_otel_agent::core::version;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::support::otlp::Receiver;
use crate::support::prefect::{Server, Version, free_port};
use crate::support::process::{
    AgentProcess, PATIENCE, agent_command, by_shell, has_namespaces, left_out,
};
use crate::support::programs::programs;
use crate::support::stack::Collector;
use crate::support::stub::{Stub, garbage};
use crate::support::tls::{Certificate, Certificates, TlsListener};
use crate::support::{memory, small_stub};

/// What `check` printed.
#[derive(Debug)]
struct Checked {
    code: Option<i32>,
    text: String,
    took: Duration,
}

impl Checked {
    /// The status and the detail of a check.
    fn line(&self, what: &str) -> (&str, &str) {
        let lines = self.text.lines();
        let mut parts = lines.filter_map(|line| {
            let (status, rest) = line.split_once(' ')?;
            let detail = rest.trim_start().strip_prefix(what)?;
            Some((status, detail.strip_prefix("  ")?.trim_start()))
        });
        let line = parts.next();
        line.unwrap_or_else(|| panic!("no line {what:?} in\n{}", self.text))
    }

    /// The hint below the line of a check.
    fn hint(&self, what: &str) -> &str {
        let (_, detail) = self.line(what);
        let mut lines = self.text.lines().skip_while(|line| !line.ends_with(detail));
        let hint = lines.nth(1).unwrap_or_default().trim_start();
        hint.strip_prefix("hint: ").unwrap_or_default()
    }

    /// A check fails, for this reason, with this hint; so does the whole.
    fn fails(&self, what: &str, reason: &str, hint: &str) {
        let (status, detail) = self.line(what);
        assert_eq!((status, self.code), ("FAIL", Some(1)), "{}", self.text);
        assert!(detail.contains(reason), "{reason:?} in\n{}", self.text);
        assert!(self.hint(what).contains(hint), "{hint:?} in\n{}", self.text);
    }

    fn timed_out(&self) -> bool {
        let limits = ["answer within", "response within", "not done within"];
        limits.iter().any(|limit| self.text.contains(limit))
    }

    /// A check passes.
    fn passes(&self, what: &str) {
        assert_eq!(self.line(what).0, "ok", "{}", self.text);
    }
}

/// Runs `check` against this API, on a free port, with `/metrics` alone unless `more` says so.
async fn check(api_url: &str, more: &[(&str, &str)]) -> Checked {
    check_with(api_url, more, &[]).await
}

/// A check that fails for this reason, with this hint.
async fn failing(api_url: &str, more: &[(&str, &str)], [what, reason, hint]: [&str; 3]) -> Checked {
    let checked = check(api_url, more).await;
    checked.fails(what, reason, hint);
    checked
}

async fn check_with(api_url: &str, more: &[(&str, &str)], arguments: &[&str]) -> Checked {
    let mut command = check_command(api_url, more);
    command.args(arguments);
    eprintln!("{more:?} {api_url}");
    answered(command)
}

/// Runs `check` until everything answers within its timeouts, which are those of an operator who
/// waits, not of a busy machine.
fn answered(mut command: Command) -> Checked {
    let began = Instant::now();
    loop {
        let checked = run(&mut command);
        if !checked.timed_out() || began.elapsed() > PATIENCE {
            break checked;
        }
    }
}

fn check_command(api_url: &str, more: &[(&str, &str)]) -> Command {
    let port = free_port().to_string();
    let mut settings = vec![
        ("PREFECT_API_URL", api_url),
        ("METRICS_ADDR", "127.0.0.1"),
        ("METRICS_PORT", &port),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
    ];
    settings.extend(more);
    let mut command = agent_command(&settings);
    command.arg("check");
    command
}

fn run(command: &mut Command) -> Checked {
    let began = Instant::now();
    let output = tokio::task::block_in_place(|| command.output()).unwrap();
    let took = began.elapsed();
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\u{1b}'), "colours go to terminals only");
    // What a reader of the test's output wants to see.
    eprintln!("{text}");
    Checked {
        code: output.status.code(),
        text,
        took,
    }
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

const OTLP: (&str, &str) = ("OTEL_METRICS_EXPORTER", "otlp");
/// What helps if gRPC is sent to a port for HTTP, however that port ends the connection.
const HTTP_PORT: &str = "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf";
const GRPC: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");

#[tokio::test(flavor = "multi_thread")]
async fn what_works_is_ok_in_text_and_json() {
    let stub = small_stub().await;
    let (listener, port) = listener().await;
    let _receiver = Receiver::http(listener).await;
    let endpoint = format!("http://127.0.0.1:{port}");
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("STATE_DIR", folder.path().to_str().unwrap()),
    ];
    let checked = check(&stub.url, &settings).await;
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    let starts = checked.text.lines().map(|line| line.split(' ').next());
    assert!(
        starts.into_iter().all(|start| start == Some("ok")),
        "{}",
        checked.text
    );
    for what in [
        "settings",
        "Prefect",
        "permissions",
        "OTLP traces",
        "OTLP logs",
        "port",
    ] {
        checked.passes(what);
    }
    let nothing_is_left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(nothing_is_left, 0);

    let json = check_with(&stub.url, &settings, &["--format", "json"]).await;
    let json: Value = serde_json::from_str(&json.text).unwrap();
    assert_eq!(json["ok"], true);
    let checks = json["checks"].as_array().unwrap();
    assert_eq!(checks.len(), checked.text.lines().count());
    assert_eq!(checks[1]["check"], "Prefect");
    assert_eq!(checks[1]["status"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_used_are_the_first_line_and_exit_code_2() {
    let more = [("MAX_RETRIES", "many")];
    let checked = check("http://localhost/api", &more).await;
    assert_eq!(checked.code, Some(2));
    let first = checked.text.lines().next().unwrap();
    assert!(
        first.starts_with("FAIL") && first.contains("MAX_RETRIES: \"many\""),
        "{first}"
    );
    assert_eq!(checked.line("Prefect").0, "skipped");
    let json = check_with("http://localhost/api", &more, &["--format", "json"]).await;
    let json: Value = serde_json::from_str(&json.text).unwrap();
    assert_eq!(
        (&json["ok"], &json["checks"][0]["status"]),
        (&false.into(), &"fail".into())
    );
}

/// A real Prefect server and a real collector: each mistake, and its repair.
#[tokio::test(flavor = "multi_thread")]
async fn from_a_wrong_key_url_port_and_collector_to_the_fix_at_real_servers() {
    let Some(programs) =
        programs("from_a_wrong_key_url_port_and_collector_to_the_fix_at_real_servers")
    else {
        return;
    };
    let started = tokio::task::spawn_blocking(move || {
        let protected = [("PREFECT_SERVER_API_AUTH_STRING", "admin:right")];
        (Server::start(&protected), Collector::start(&programs))
    });
    let (prefect, collector) = started.await.unwrap();
    let right = ("PREFECT_API_AUTH_STRING", "admin:right");
    let url = prefect.url.clone();

    let wrong = ("PREFECT_API_AUTH_STRING", "admin:wrong");
    for (given, hint) in [
        (
            &[][..],
            "or PREFECT_API_AUTH_STRING to the server's user:password",
        ),
        (&[wrong], "PREFECT_SERVER_API_AUTH_STRING of the server"),
        (
            &[("PREFECT_API_KEY", "wrong")],
            "uses PREFECT_API_AUTH_STRING instead",
        ),
    ] {
        let checked = failing(&url, given, ["Prefect", "status 401", hint]).await;
        assert_eq!(checked.line("permissions").0, "skipped");
        assert!(!checked.text.contains("wrong"), "{}", checked.text);
    }
    let without_api = url.strip_suffix("/api").unwrap();
    failing(
        without_api,
        &[right],
        ["Prefect", "a web page", &format!("the API is at {url}")],
    )
    .await;
    let other_port = format!("http://127.0.0.1:{}/api", free_port());
    failing(
        &other_port,
        &[right],
        ["Prefect", "Connection refused", "PREFECT_API_URL"],
    )
    .await;
    failing(
        &format!("https{}", &url[4..]),
        &[right],
        ["Prefect", "", "use http:// instead of https://"],
    )
    .await;

    let endpoint = |url: &str| ("OTEL_EXPORTER_OTLP_ENDPOINT", url.to_owned());
    let (name, of_prefect) = endpoint(without_api);
    let checked = failing(
        &url,
        &[right, OTLP, (name, &of_prefect)],
        ["OTLP metrics", "of uvicorn", "this may be Prefect itself"],
    )
    .await;
    checked.passes("Prefect");
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    failing(
        &url,
        &[right, OTLP, (name, &nowhere)],
        [
            "OTLP metrics",
            "Connection refused",
            "is the collector running",
        ],
    )
    .await;
    failing(
        &url,
        &[right, OTLP, (name, &collector.otlp_grpc)],
        ["OTLP metrics", "", "gRPC port"],
    )
    .await;
    failing(
        &url,
        &[right, OTLP, GRPC, (name, &collector.otlp)],
        ["OTLP metrics", "", HTTP_PORT],
    )
    .await;

    let traces = ("OTEL_TRACES_EXPORTER", "otlp");
    for (protocol, to) in [
        ("http/protobuf", &collector.otlp),
        ("grpc", &collector.otlp_grpc),
    ] {
        let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
        let settings = [right, OTLP, protocol, (name, to)];
        let checked = check(&url, &settings).await;
        assert_eq!(checked.code, Some(0), "{}", checked.text);
        for what in [
            "Prefect",
            "version",
            "permissions",
            "clock",
            "page size",
            "OTLP metrics",
        ] {
            checked.passes(what);
        }
        // The project's collector has a pipeline for metrics alone: it says so.
        failing(
            &url,
            &[right, OTLP, protocol, traces, (name, to)],
            ["OTLP traces", "", "set OTEL_TRACES_EXPORTER=none"],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_named() {
    let stub = small_stub().await;
    stub.fault(|request| {
        let refused = request.path.contains("/automations/");
        refused.then(|| garbage(StatusCode::FORBIDDEN, r#"{"detail":"Forbidden"}"#))
    });
    let checked = check(&stub.url, &[]).await;
    checked.fails(
        "permissions",
        "automations",
        "permission to view automations",
    );
    assert!(
        checked.text.contains("can read flow runs, deployments"),
        "{}",
        checked.text
    );
}

#[test]
fn a_version_is_newer_than_tested_if_its_minor_version_is_later_than_that_of_the_tests() {
    let newest = Version::Newest.number();
    assert!(!version::is_newer_than_tested(newest));
    let numbers: Vec<u32> = newest
        .split('.')
        .map(|number| number.parse().unwrap())
        .collect();
    let next = format!("{}.{}.0", numbers[0], numbers[1] + 1);
    assert!(version::is_newer_than_tested(&next));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_prefect_3_is_told_apart() {
    let stub = small_stub().await;
    let version = |text: &'static str| {
        move |request: &crate::support::stub::Request| {
            let asked = request.path.ends_with("/admin/version");
            asked.then(|| axum::Json(text).into_response())
        }
    };
    stub.fault(version("2.20.9"));
    let checked = check(&stub.url, &[]).await;
    checked.fails("version", "Prefect 2.20.9", "3.0.4 or newer");
    assert_eq!(checked.line("permissions").0, "skipped");
    stub.fault(version("3.6.20"));
    let checked = check(&stub.url, &[]).await;
    let (status, detail) = checked.line("version");
    assert_eq!((status, checked.code), ("warn", Some(0)));
    assert!(
        detail.contains("3.6.22") && detail.contains("3.6.23"),
        "{detail}"
    );
    stub.fault(version("3.10.0"));
    let checked = check(&stub.url, &[]).await;
    let (status, detail) = checked.line("version");
    assert_eq!((status, checked.code), ("warn", Some(0)));
    assert!(detail.contains("3.10.0 is newer"), "{detail}");

    stub.fault(|_| {
        let to = [("location", "https://login.example/?next=api")];
        Some((StatusCode::FOUND, to, "").into_response())
    });
    let checked = check(&stub.url, &[]).await;
    checked.fails(
        "Prefect",
        "redirect to https://login.example",
        "a login page",
    );
    stub.fault(|_| Some(garbage(StatusCode::OK, "<!doctype html><title>Log in")));
    let checked = check(&stub.url, &[]).await;
    checked.fails(
        "Prefect",
        "a web page, not the API",
        "Does a proxy require a login?",
    );
    stub.fault(|_| Some(garbage(StatusCode::NOT_FOUND, "Not Found")));
    let checked = check(&stub.url, &[]).await;
    checked.fails("Prefect", "status 404", "ending in /api");

    let checked = check("http://prefect.invalid:4200/api", &[]).await;
    checked.fails(
        "Prefect",
        "lookup",
        "the host name of PREFECT_API_URL cannot be resolved",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn prefect_cloud_which_does_not_tell_its_version_passes() {
    let stub = small_stub().await;
    stub.fault(|request| {
        let asked = request.path.ends_with("/admin/version");
        asked.then(|| garbage(StatusCode::NOT_FOUND, r#"{"detail":"Not Found"}"#))
    });
    let checked = check(&stub.url, &[]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    assert!(checked.line("Prefect").1.contains("Prefect Cloud"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clock_and_a_smaller_page_are_told() {
    let stub = small_stub().await;
    stub.contents().clock_behind = SignedDuration::from_mins(10);
    stub.contents().page_limit = Some(50);
    let checked = check(&stub.url, &[]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    let (status, detail) = checked.line("clock");
    assert!(status == "warn" && detail.contains("s behind"), "{detail}");
    assert!(checked.line("page size").1.contains("the server allows 50"));
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_never_answer_do_not_hold_it_up() {
    // Accepts connections, and nothing more.
    let (silent, port) = listener().await;
    let url = format!("http://127.0.0.1:{port}");
    let settings = [
        OTLP,
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000"),
        ("REQUEST_TIMEOUT_SECONDS", "60"),
        ("MAX_RETRIES", "9"),
    ];
    let checked = run(&mut check_command(&format!("{url}/api"), &settings));
    drop(silent);
    checked.fails("Prefect", "", "did not answer within 5 s");
    checked.fails(
        "OTLP metrics",
        "no answer within 5000 ms",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
    );
    assert!(checked.took < Duration::from_secs(40), "{:?}", checked.took);
}

/// Prefect behind TLS, and a receiver of OTLP behind the same certificate.
async fn behind_tls(certificate: &Certificate) -> (String, String) {
    let of = |listener| TlsListener::new(listener, &certificate.pem, &certificate.key, None);
    let ((prefect, port), (receiver, otlp)) = (listener().await, listener().await);
    let url = format!("https://localhost:{port}/api");
    let stub = Stub::at(url.clone(), of(prefect));
    crate::support::fleet::small(&mut stub.contents());
    let router = axum::Router::new().fallback(|| async {});
    let receiver = of(receiver);
    tokio::spawn(async move { axum::serve(receiver, router).await.unwrap() });
    (url, format!("https://localhost:{otlp}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn from_each_bad_certificate_to_the_fix() {
    let certificates = Certificates::new();
    let issued = certificates.server();
    let other_name = certificates.issue("elsewhere.example", Timestamp::MAX);
    let expired = certificates.issue("localhost", "2020-02-03T00:00:00Z".parse().unwrap());
    let (own, own_authority) = (
        Certificate::self_signed(false),
        Certificate::self_signed(true),
    );
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str, pem: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let authority = save("authority", &certificates.authority);
    let cases = [
        (
            &issued,
            None,
            "signed by an unknown authority",
            "to a PEM file with the certificate of that authority",
        ),
        (&issued, Some(authority.clone()), "", ""),
        (
            &own,
            None,
            "signed by an unknown authority",
            "if it is self-signed",
        ),
        (&own, Some(save("own", &own.pem)), "", ""),
        (
            &own_authority,
            Some(save("ca", &own_authority.pem)),
            "CA:TRUE",
            "basicConstraints=critical,CA:FALSE",
        ),
        (
            &expired,
            Some(authority.clone()),
            "expired on 2020-02-03",
            "renew the certificate",
        ),
        (
            &other_name,
            Some(authority),
            "not for localhost, but for elsewhere.example",
            "to a host name of the certificate",
        ),
    ];
    for (certificate, trusted, reason, hint) in cases {
        let (url, endpoint) = behind_tls(certificate).await;
        for protocol in ["http/protobuf", "grpc"] {
            let mut settings = vec![
                OTLP,
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ];
            if let Some(trusted) = &trusted {
                settings.push(("OTEL_EXPORTER_OTLP_CERTIFICATE", trusted));
                settings.push(("PREFECT_API_SSL_CERT_FILE", trusted));
            }
            let checked = check(&url, &settings).await;
            if reason.is_empty() {
                checked.passes("Prefect");
                // The receiver speaks HTTP alone.
                match protocol {
                    "grpc" => checked.fails("OTLP metrics", "", HTTP_PORT),
                    _ => checked.passes("OTLP metrics"),
                }
                continue;
            }
            checked.fails("Prefect", reason, hint);
            checked.fails("OTLP metrics", reason, hint);
            if hint.contains("PEM") {
                checked.fails("Prefect", reason, "PREFECT_API_SSL_CERT_FILE");
                checked.fails("OTLP metrics", reason, "OTEL_EXPORTER_OTLP_CERTIFICATE");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_logs_a_bad_certificate_once_with_the_hint_and_no_library_does() {
    let (url, _) = behind_tls(&Certificate::self_signed(true)).await;
    let run = move || {
        let agent = AgentProcess::start(&url, &[("MAX_RETRIES", "1")]);
        let line = agent.process.wait_for_line("Prefect cannot be read");
        std::thread::sleep(Duration::from_secs(4));
        (line, agent.process.log())
    };
    let (line, log) = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(
        line.contains("CA:TRUE") && line.contains("PREFECT_API_SSL_CERT_FILE"),
        "{line}"
    );
    assert!(log.iter().all(|line| !line.contains("ERROR")), "{log:#?}");
    let started = log
        .iter()
        .find(|line| line.contains("listening_on"))
        .unwrap();
    assert!(started.contains("exporters=prometheus"), "{started}");
    assert_eq!(log.len(), 2, "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_told_apart_from_a_running_agent() {
    let stub = small_stub().await;
    let (taken, port) = listener().await;
    // Answers no health check.
    tokio::spawn(async move {
        let router = axum::Router::new();
        axum::serve(taken, router).await.unwrap();
    });
    let checked = check(&stub.url, &[("METRICS_PORT", &port.to_string())]).await;
    checked.fails("port", "in use", "METRICS_PORT");
    let checked = check(&stub.url, &[("METRICS_ADDR", "192.0.2.1")]).await;
    checked.fails("port", "192.0.2.1", "METRICS_ADDR");

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let (url, state) = (stub.url.clone(), folder.to_owned());
    let start = move || AgentProcess::start(&url, &[("STATE_DIR", &state)]);
    let agent = tokio::task::spawn_blocking(start).await.unwrap();
    let port = agent.address.port().to_string();
    let checked = check(&stub.url, &[("METRICS_PORT", &port), ("STATE_DIR", folder)]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    for what in ["port", "STATE_DIR"] {
        let (status, detail) = checked.line(what);
        assert!(
            status == "warn" && detail.contains("a running agent"),
            "{detail}"
        );
    }
    tokio::task::spawn_blocking(move || drop(agent))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_although_an_empty_file_can_be_created() {
    if !has_namespaces() {
        left_out("a full disk needs user namespaces");
        return;
    }
    let stub = small_stub().await;
    let folder = tempfile::tempdir().unwrap();
    let command = check_command(&stub.url, &[("STATE_DIR", folder.path().to_str().unwrap())]);
    let full =
        "mount -t tmpfs -o size=8k none $STATE_DIR && head -c 8192 /dev/zero >$STATE_DIR/filler";
    let script = format!("{full} && exec \"$0\" \"$@\"");
    let checked = answered(by_shell(command, true, &script));
    checked.fails("STATE_DIR", "No space left on device", "free space");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_is_writable_and_has_a_checkpoint_of_this_api_or_another() {
    let stub = small_stub().await;
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let checked = check(&stub.url, &[("STATE_DIR", &in_folder("not/there/yet"))]).await;
    checked.passes("STATE_DIR");
    assert!(!Path::new(&in_folder("not")).exists());

    std::fs::write(in_folder("file"), "").unwrap();
    let checked = check(&stub.url, &[("STATE_DIR", &in_folder("file"))]).await;
    checked.fails("STATE_DIR", "is not writable", "set STATE_DIR to a folder");
    std::os::unix::fs::symlink("/nowhere/state", in_folder("link")).unwrap();
    let checked = check(&stub.url, &[("STATE_DIR", &in_folder("link"))]).await;
    let nowhere = "a symbolic link to /nowhere/state, which does not exist";
    checked.fails("STATE_DIR", nowhere, "set STATE_DIR to a folder");
    let checked = check(&stub.url, &[("STATE_DIR", "/proc")]).await;
    checked.fails("STATE_DIR", "/proc is not writable", "STATE_DIR");

    let write = |api: &str| {
        let mut checkpoint = Checkpoint::new(folder.path(), api);
        checkpoint.write(memory(Timestamp::now(), None)).unwrap();
    };
    let here = in_folder("");
    write("http://elsewhere/api");
    let checked = check(&stub.url, &[("STATE_DIR", &here)]).await;
    let (status, detail) = checked.line("STATE_DIR");
    assert!(
        status == "warn" && detail.contains("one for http://elsewhere/api"),
        "{detail}"
    );
    write(&stub.url);
    let checked = check(&stub.url, &[("STATE_DIR", &here)]).await;
    assert!(
        checked
            .line("STATE_DIR")
            .1
            .contains(&format!("has a checkpoint for {}", stub.url))
    );
    let path = Checkpoint::new(folder.path(), &stub.url);
    std::fs::write(path.path(), "{").unwrap();
    let checked = check(&stub.url, &[("STATE_DIR", &here)]).await;
    assert_eq!(checked.line("STATE_DIR").0, "warn");
    assert!(checked.hint("STATE_DIR").contains("will rename the file"));
}
