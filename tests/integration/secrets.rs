//! Secrets: replaced while the agent runs, and never shown.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::http::StatusCode;
use axum::response::IntoResponse as _;

use crate::support::otlp::{Answer, Receiver};
use crate::support::process::{AgentProcess, run_agent as run, wait_for};
use crate::support::stub::{Request, Stub};
use crate::support::tls::{Certificate, Certificates, TlsListener};
use crate::support::{self, pass, small_stub};

/// A file with a secret.
fn file(content: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    file
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn authorization(request: &Request) -> Option<&str> {
    let sent = request.headers.get("authorization")?;
    sent.to_str().ok()
}

/// Waits until the agent reads Prefect.
fn wait_until_up(agent: &AgentProcess) {
    agent.wait_for_page("a cycle", |page| {
        page.value("prefect_up", &[]).filter(|up| *up == 1.0)
    });
}

fn wait_until_reloaded(agent: &AgentProcess, expected: f64) {
    let setting = [("setting", "PREFECT_API_KEY_FILE")];
    agent.wait_for_page("the result of the last reload", |page| {
        let successful = page.value("prefect_agent_last_reload_successful", &setting)?;
        (successful == expected).then_some(())
    });
}

#[test]
fn a_replaced_key_needs_no_restart_and_a_missing_file_changes_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let accepted = Arc::new(Mutex::new("Bearer pnu_first".to_owned()));
    let expected = Arc::clone(&accepted);
    stub.fault(move |request| {
        let sent = authorization(request);
        let is_accepted = sent == Some(expected.lock().unwrap().as_str());
        let refusal = || (StatusCode::UNAUTHORIZED, format!("not {sent:?}")).into_response();
        (!is_accepted).then(refusal)
    });
    let secret = file("pnu_first\n");
    let settings = [
        ("PREFECT_API_KEY_FILE", text(secret.path())),
        ("LOG_LEVEL", "DEBUG"),
    ];
    let agent = AgentProcess::start(&stub.url, &settings);
    wait_until_up(&agent);

    std::fs::write(secret.path(), "pnu_second\n").unwrap();
    "Bearer pnu_second".clone_into(&mut accepted.lock().unwrap());
    agent
        .process
        .wait_for_line("PREFECT_API_KEY_FILE: a new value is used");
    pass(&stub, 2);
    wait_until_up(&agent);
    assert_eq!(agent.process.lines_with("Prefect cannot be read"), 0);
    wait_until_reloaded(&agent, 1.0);

    std::fs::write(secret.path(), "").unwrap();
    let line = agent.process.wait_for_line("the last value is used");
    assert!(line.contains("it is empty"), "{line}");
    wait_until_reloaded(&agent, 0.0);
    let (code, status) = agent.get("/status");
    assert_eq!(code, 200);
    let problem = "PREFECT_API_KEY_FILE: the file cannot be used";
    assert!(status.contains(problem), "{status}");
    std::fs::remove_file(secret.path()).unwrap();
    pass(&stub, 7);
    wait_until_up(&agent);
    assert_eq!(agent.process.lines_with("the last value is used"), 1);

    std::fs::write(secret.path(), "pnu_third").unwrap();
    "Bearer pnu_third".clone_into(&mut accepted.lock().unwrap());
    stub.take_requests();
    wait_for("a request with the third key", || {
        let requests = stub.take_requests();
        let third = |request: &Request| authorization(request) == Some("Bearer pnu_third");
        requests.iter().any(third).then_some(())
    });
    wait_until_up(&agent);
    wait_until_reloaded(&agent, 1.0);
    assert_eq!(agent.process.lines_with("Prefect cannot be read"), 0);
    assert_eq!(
        agent.process.lines_with("pnu_"),
        0,
        "{:?}",
        agent.process.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_token_of_a_receiver_needs_no_restart() {
    let stub = small_stub().await;
    for protocol in ["http/protobuf", "grpc"] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let receiver = match protocol {
            "grpc" => {
                drop(listener);
                Receiver::grpc(address)
            }
            _ => Receiver::http(listener).await,
        };
        let endpoint = format!("http://{address}");
        let secret = file("x-token=first-token\n");
        let settings = [
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_HEADERS_FILE", text(secret.path())),
        ];
        let mut agent = support::agent(&stub.url, &settings).await;
        let first = tokio::task::block_in_place(|| wait_for("a push", || receiver.last()));
        assert_eq!(first.headers["x-token"], "first-token");

        std::fs::write(secret.path(), "x-token=second-token").unwrap();
        receiver.answer([match protocol {
            "grpc" => Answer::Grpc(tonic::Status::unauthenticated("no")),
            _ => Answer::Http(StatusCode::UNAUTHORIZED.into_response()),
        }]);
        receiver.take_pushes();
        let second = loop {
            support::cycle(&mut agent).await;
            let has_new =
                |push: &crate::support::otlp::Received| push.headers["x-token"] == "second-token";
            if let Some(push) = receiver.last().filter(has_new) {
                break push;
            }
        };
        assert_eq!(second.headers["x-token"], "second-token");
        assert!(receiver.has_answered());
    }
}

#[test]
fn a_server_that_repeats_the_request_puts_no_secret_into_logs_and_status() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let mut number = 0;
    stub.fault(move |request| {
        number += 1;
        let headers = format!("{:?} correct-horse-battery", request.headers);
        // The end of what is logged moves through the secrets.
        let page = format!("{}{headers}", "x".repeat(number * 7 % 300));
        let token = request.headers["x-token"].to_str().unwrap();
        Some(match number % 4 {
            0 => (StatusCode::OK, serde_json::json!(page).to_string()).into_response(),
            1 => (StatusCode::OK, page).into_response(),
            2 => {
                let target = format!("https://u:p@login.example/{token}?next={token}");
                (StatusCode::FOUND, [("location", target)]).into_response()
            }
            _ => (StatusCode::INTERNAL_SERVER_ERROR, page).into_response(),
        })
    });
    let headers = file("{\"X-Token\": \"tok-0123456789\"}");
    for format in ["text", "json"] {
        let settings = [
            ("PREFECT_API_AUTH_STRING", "admin:correct-horse-battery"),
            ("PREFECT_CLIENT_CUSTOM_HEADERS_FILE", text(headers.path())),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("LOG_LEVEL", "DEBUG"),
            ("LOG_FORMAT", format),
            ("MAX_RETRIES", "0"),
        ];
        let agent = AgentProcess::start(&stub.url, &settings);
        stub.take_requests();
        wait_for("requests", || {
            (stub.contents().requests.len() > 80).then_some(())
        });
        let (_, status) = agent.get("/status");
        let mut said = agent.process.log();
        assert!(said.iter().any(|line| line.contains("login.example")));
        said.push(status);
        // `YWRtaW46` is the start of `admin:` in Base64.
        for part in ["correct-h", "YWRtaW46", "tok-0123", "u:p@"] {
            let shown = said.iter().find(|line| line.contains(part));
            assert_eq!(shown, None, "{part}");
        }
    }
}

#[test]
fn a_receiver_and_a_proxy_that_repeat_secrets_put_none_into_logs_status_and_checks() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let said =
        "Cannot POST /v1/metrics?token=QTok999abc; db http://adm:Zecret99x@db/a; svc-passw0rd";
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
    let listener = listener.unwrap();
    let endpoint = format!(
        "http://{}/v1/metrics?token=QTok999abc",
        listener.local_addr().unwrap()
    );
    let answer = move || async move { (StatusCode::NOT_FOUND, said) };
    let server = axum::Router::new().fallback(answer);
    runtime.spawn(async move { axum::serve(listener, server).await.unwrap() });
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_LOGS_EXPORTER", "console"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", endpoint.as_str()),
        // svc:svc-passw0rd
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Basic%20c3ZjOnN2Yy1wYXNzdzByZA==",
        ),
    ];
    let agent = AgentProcess::start(&stub.url, &settings);
    agent.process.wait_for_line("Cannot POST");
    let (_, status) = agent.get("/status");
    assert!(status.contains("Cannot POST"), "{status}");
    let mut shown = vec![status];
    shown.extend(agent.process.log());
    let port = crate::support::prefect::free_port().to_string();
    let checked = [
        ("PREFECT_API_URL", stub.url.as_str()),
        ("METRICS_PORT", &port),
    ];
    let mut check = crate::support::process::agent_command(&[&settings[..], &checked].concat());
    let output = check.arg("check").output().unwrap();
    shown.push(String::from_utf8(output.stdout).unwrap());
    for part in ["QTok999abc", "Zecret99x", "svc-passw0rd"] {
        let found = shown.iter().find(|text| text.contains(part));
        assert_eq!(found, None, "{part}");
    }
}

#[test]
fn no_command_shows_the_password_of_a_url() {
    for (name, value) in [
        ("PREFECT_API_URL", "user:Hunter2@host/api"),
        ("PREFECT_API_URL", "http:\\\\user:Hunter2@host/api"),
        ("PREFECT_API_URL", "http://host/api?token=Hunter2"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "user:Hunter2@host:4317"),
    ] {
        for command in [&[][..], &["check"], &["config"], &["once"]] {
            let environment = [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), (name, value)];
            let (code, stdout, stderr) = run(command, &environment);
            assert_eq!(code, Some(2), "{command:?}: {stderr}");
            assert!(!stdout.contains("Hunter2"), "{command:?}: {stdout}");
            assert!(!stderr.contains("Hunter2"), "{command:?}: {stderr}");
        }
    }
}

#[test]
fn an_empty_file_of_a_secret_and_a_bad_certificate_are_exit_code_2() {
    let (empty, garbage) = (file(""), file("-----BEGIN CERTIFICATE-----\nAAAA\n"));
    for (name, path) in [
        ("PREFECT_API_KEY_FILE", empty.path()),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", garbage.path()),
    ] {
        for protocol in ["http/protobuf", "grpc"] {
            let environment = [
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                (name, text(path)),
            ];
            let (code, _, stderr) = run(&[], &environment);
            assert_eq!(code, Some(2), "{stderr}");
            assert!(stderr.contains(&format!("{name}: ")), "{stderr}");
            assert!(stderr.contains(text(path)), "{stderr}");
        }
    }
}

#[test]
fn a_proxy_that_cannot_be_reached_is_named_instead_of_prefect_and_the_receiver() {
    let settings = [
        ("HTTP_PROXY", "http://user:hunter2-proxy@127.0.0.1:9"),
        ("OTEL_METRICS_EXPORTER", "otlp"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://collector.example:4318",
        ),
        ("LOG_LEVEL", "DEBUG"),
        ("MAX_RETRIES", "0"),
    ];
    let agent = AgentProcess::start("http://prefect.example/api", &settings);
    for text in ["Prefect cannot be read", "push"] {
        let line = wait_for(text, || {
            let log = agent.process.log().into_iter();
            let mut lines = log.filter(|line| line.contains("WARN") && line.contains(text));
            lines.next()
        });
        assert!(line.contains("the proxy http://127.0.0.1:9: "), "{line}");
        assert!(line.contains("NO_PROXY"), "{line}");
    }
    assert_eq!(agent.process.lines_with("hunter2"), 0);
}

/// A stub behind TLS, and its port.
fn over_tls(
    runtime: &tokio::runtime::Runtime,
    server: &Certificate,
    clients_of: Option<&str>,
) -> Stub {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
    let listener = listener.unwrap();
    let url = format!(
        "https://localhost:{}/api",
        listener.local_addr().unwrap().port()
    );
    let _guard = runtime.enter();
    Stub::at(
        url,
        TlsListener::new(listener, &server.pem, &server.key, clients_of),
    )
}

#[test]
fn a_certificate_is_not_verified_on_request_with_a_warning() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = over_tls(&runtime, &Certificate::self_signed(false), None);
    let skip = ("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "True");
    let agent = AgentProcess::start(&stub.url, &[skip]);
    wait_until_up(&agent);
    let line = agent.process.wait_for_line("NOT VERIFIED");
    assert!(line.contains("WARN") && line.contains(skip.0), "{line}");
    assert_eq!(agent.process.lines_with("NOT VERIFIED"), 1);
}

#[test]
fn a_client_certificate_is_sent_to_prefect() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let certificates = Certificates::new();
    let authority = certificates.authority.as_str();
    let stub = over_tls(&runtime, &certificates.server(), Some(authority));
    let (ca, certificate, key) = (
        certificates.path("ca"),
        certificates.path("cert"),
        certificates.path("key"),
    );
    let trusted = ("PREFECT_API_SSL_CERT_FILE", ca.as_str());
    let own = [
        trusted,
        ("PREFECT_API_CLIENT_CERTIFICATE", certificate.as_str()),
        ("PREFECT_API_CLIENT_KEY", key.as_str()),
    ];
    wait_until_up(&AgentProcess::start(&stub.url, &own));
    let agent = AgentProcess::start(&stub.url, &[trusted, ("MAX_RETRIES", "0")]);
    let line = agent.process.wait_for_line("Prefect cannot be read");
    assert!(line.contains("PREFECT_API_CLIENT_CERTIFICATE"), "{line}");
}
