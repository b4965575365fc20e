//! The process: start, endpoints, signals, shutdown.

use std::time::Duration;

use opentelemetry_proto::tonic::metrics::v1::NumberDataPoint;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;

use crate::support::otlp::{Received, Receiver};
use crate::support::process::{AgentProcess, agent_command, wait_for, with_default_signals};
use crate::support::stack::project;
use crate::support::stub::{Stub, recorded_error};
use crate::support::tls::{Certificates, TlsListener};
use crate::support::{fleet, small_stub};

/// Runs blocking code while the stub is served.
fn blocking<T>(run: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(run)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_signal_stops_it_within_five_seconds_with_a_last_push() {
    for signal in ["-TERM", "-INT", "-HUP"] {
        let stub = small_stub().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let receiver = Receiver::http(listener).await;
        blocking(|| {
            let settings = [
                ("OTEL_METRICS_EXPORTER", "otlp"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
                ("SAMPLE_INTERVAL_SECONDS", "3600"),
            ];
            let mut agent = AgentProcess::start_as(&stub.url, &settings, with_default_signals);
            let pushes = || receiver.pushes.lock().unwrap().len();
            // One push at the start and one after the first cycle.
            wait_for("the cycle's push", || (pushes() == 2).then_some(()));
            let status = agent.process.ends_in_time(signal, "all is well");
            assert!(status.success(), "{status}");
            assert_eq!(pushes(), 3, "the last push");
            // Gauges end with the process, as on the page; counters keep their last values.
            let last = receiver.last().unwrap();
            assert!(points_of(&last, "prefect.info.flows").all(|point| point.flags == 1));
            assert!(points_of(&last, "prefect.info.flows").next().is_some());
            assert!(points_of(&last, "prefect.flow_runs.finished").all(|point| point.flags == 0));
            assert!(
                points_of(&last, "prefect.flow_runs.finished")
                    .next()
                    .is_some()
            );
        });
    }
}

/// The points of a gauge or a sum in a push.
fn points_of<'a>(
    push: &'a Received,
    name: &'a str,
) -> impl Iterator<Item = &'a NumberDataPoint> + 'a {
    let scopes = push.metrics.resource_metrics.iter();
    let scopes = scopes.flat_map(|resource| &resource.scope_metrics);
    let metrics = scopes.flat_map(|scope| &scope.metrics);
    metrics
        .filter(move |metric| metric.name == name)
        .flat_map(|metric| match metric.data.as_ref().unwrap() {
            Data::Gauge(gauge) => &gauge.data_points,
            Data::Sum(sum) => &sum.data_points,
            other => panic!("{other:?}"),
        })
}

/// How long the end may take where it is not the subject of the test.
const IN_TIME: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_in_time_although_nothing_answers() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}/api", listener.local_addr().unwrap());
    blocking(|| {
        let settings = [
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", silent.as_str()),
            ("OTEL_TRACES_EXPORTER", "otlp"),
        ];
        let mut agent = AgentProcess::start(&silent, &settings);
        std::thread::sleep(Duration::from_millis(500));
        let nothing = "Prefect and the collector are silent";
        assert!(agent.process.ends_in_time("-TERM", nothing).success());
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_answer_as_documented() {
    let stub = small_stub().await;
    stub.fault(|_| Some(recorded_error("error_unauthorized")));
    blocking(|| {
        let agent = AgentProcess::start(&stub.url, &[]);
        assert_eq!(agent.get("/healthz").0, 200, "the process lives");
        assert_eq!(agent.get("/readyz").0, 503, "no good cycle yet");
        assert_eq!(agent.get("/anything").0, 404);
        assert_eq!(agent.get("/").0, 200);
        agent.process.wait_for_line("Prefect cannot be read");
        stub.heal();
        wait_for("readiness", || {
            (agent.get("/readyz").0 == 200).then_some(())
        });
        agent.process.wait_for_line("Prefect can be read");
        stub.fault(|_| Some(recorded_error("error_unauthorized")));
        wait_for("staleness", || {
            (agent.get("/readyz").0 == 503).then_some(())
        });
        assert_eq!(
            agent.process.lines_with("Prefect cannot be read"),
            2,
            "{:#?}",
            agent.process.log()
        );
        // A cycle during which the server changed logs the failure of each section.
        let log = agent.process.log();
        let why = log.iter().filter(|line| {
            line.contains("Prefect cannot be read") && line.contains("check PREFECT_API_KEY")
        });
        assert_eq!(why.count(), 2);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_its_content_type_and_gzip_on_request() {
    let stub = small_stub().await;
    blocking(|| {
        let agent = AgentProcess::start(&stub.url, &[]);
        let client = reqwest::blocking::Client::builder()
            .no_gzip()
            .build()
            .unwrap();
        let url = format!("http://{}/metrics", agent.address);
        let plain = client.get(&url).send().unwrap();
        assert_eq!(
            plain.headers()["content-type"],
            "text/plain; version=0.0.4; charset=utf-8"
        );
        assert!(plain.headers().get("content-encoding").is_none());
        let packed = client
            .get(&url)
            .header("accept-encoding", "gzip")
            .send()
            .unwrap();
        assert_eq!(packed.headers()["content-encoding"], "gzip");
        let mut text = String::new();
        let body = packed.bytes().unwrap();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*body), &mut text)
            .unwrap();
        assert!(text.contains("# TYPE"));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_prometheus_exporter_there_are_only_health_endpoints() {
    let stub = small_stub().await;
    blocking(|| {
        let agent = AgentProcess::start(&stub.url, &[("OTEL_METRICS_EXPORTER", "none")]);
        assert_eq!(agent.get("/metrics").0, 404);
        assert_eq!(agent.get("/healthz").0, 200);
        wait_for("readiness", || {
            (agent.get("/readyz").0 == 200).then_some(())
        });
    });
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let settings = [
        ("METRICS_ADDR", "127.0.0.1"),
        ("METRICS_PORT", port.as_str()),
    ];
    let output = agent_command(&settings).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("METRICS_PORT") && message.contains(&port),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_can_be_json_and_contain_no_secret() {
    let stub = small_stub().await;
    blocking(|| {
        let settings = [
            ("LOG_FORMAT", "json"),
            ("LOG_LEVEL", "TRACE"),
            ("PREFECT_API_KEY", "hunter2"),
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2"),
        ];
        let mut agent = AgentProcess::start(&stub.url, &settings);
        agent.process.wait_for_line("pushes fail");
        agent.process.signal("-TERM");
        assert!(agent.process.wait(IN_TIME).success());
        for line in agent.process.log() {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert!(line["level"].is_string());
        }
        assert_eq!(agent.process.lines_with("hunter2"), 0);
        assert!(
            agent.process.lines_with("\"cycle\"") > 0,
            "a line for each cycle"
        );
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_failure_and_the_recovery_of_a_section_are_one_line_each() {
    let stub = small_stub().await;
    stub.fault(|request| {
        let broken = request.path == "/work_pools/filter";
        broken.then(|| crate::support::stub::garbage(axum::http::StatusCode::OK, "<html>"))
    });
    blocking(|| {
        let agent = AgentProcess::start(&stub.url, &[]);
        let line = agent.process.wait_for_line("a section cannot be read");
        for part in [
            "WARN",
            "work_pools",
            "/work_pools/filter",
            "a web page, not the API",
            "<html>",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        let partial = |count: f64| {
            agent.wait_for_page("partial cycles", |page| {
                let cycles = page.value("prefect_agent_cycles_total", &[("outcome", "partial")]);
                cycles.filter(|cycles| *cycles >= count)
            })
        };
        partial(3.0);
        assert_eq!(agent.process.lines_with("a section cannot be read"), 1);
        stub.heal();
        agent.process.wait_for_line("the section can be read again");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_exporter_prints() {
    let stub = small_stub().await;
    blocking(|| {
        let settings = [
            ("PREFECT_API_URL", stub.url.as_str()),
            ("METRICS_ADDR", "127.0.0.1"),
            ("METRICS_PORT", "0"),
            ("OTEL_METRICS_EXPORTER", "console"),
        ];
        let mut command = agent_command(&settings);
        let mut child = command
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut lines = std::io::BufRead::lines(stdout).map_while(Result::ok);
        assert!(lines.any(|line| line.contains("prefect.deployments.total")));
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_do_not_block_others() {
    let stub = small_stub().await;
    blocking(|| {
        let mut agent = AgentProcess::start(&stub.url, &[]);
        let silent: Vec<_> = (0..40)
            .map(|_| std::net::TcpStream::connect(agent.address).unwrap())
            .collect();
        assert_eq!(agent.get("/healthz").0, 200);
        // They do not delay the shutdown either.
        agent.process.signal("-TERM");
        assert!(agent.process.wait(IN_TIME).success());
        drop(silent);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn prefect_can_have_a_certificate_of_a_private_authority() {
    let certificates = Certificates::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}/api",
        listener.local_addr().unwrap().port()
    );
    let (certificate, key) = &certificates.server;
    let stub = Stub::at(url, TlsListener::new(listener, certificate, key, None));
    fleet::small(&mut stub.contents());
    blocking(|| {
        let ca = certificates.path("ca");
        let agent = AgentProcess::start(&stub.url, &[("SSL_CERT_FILE", ca.as_str())]);
        agent.wait_for_page("a cycle", |page| {
            page.value("prefect_up", &[]).filter(|up| *up == 1.0)
        });
        let agent = AgentProcess::start(&stub.url, &[("MAX_RETRIES", "0")]);
        let line = agent.process.wait_for_line("Prefect cannot be read");
        assert!(line.to_lowercase().contains("certificate"), "{line}");
    });
}

/// Runs the health check of a container, for the agent on `port`.
fn health(port: &str, arguments: &[&str]) -> (Option<i32>, String) {
    health_with(&[("METRICS_PORT", port)], arguments)
}

fn health_with(settings: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = agent_command(settings);
    let output = command.arg("health").args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), stderr)
}

#[test]
fn a_health_check_queries_the_running_agent() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let agent = AgentProcess::start(&stub.url, &[]);
    let port = agent.address.port().to_string();
    agent.wait_for_page("a cycle", |page| page.value("prefect_up", &[]));
    assert_eq!(health(&port, &[]).0, Some(0));
    assert_eq!(health(&port, &["--ready"]).0, Some(0));
    drop(agent);
    let (code, stderr) = health(&port, &[]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("no answer from http://127.0.0.1:"),
        "{stderr}"
    );
}

#[test]
fn a_secret_that_cannot_be_read_any_more_does_not_make_a_running_agent_unhealthy() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "pnu_0123").unwrap();
    let secret = ("PREFECT_API_KEY_FILE", key.to_str().unwrap());
    let agent = AgentProcess::start(&stub.url, &[secret]);
    let port = agent.address.port().to_string();
    let settings = [secret, ("METRICS_PORT", port.as_str())];
    assert_eq!(health_with(&settings, &[]).0, Some(0));
    std::fs::write(&key, "").unwrap();
    assert_eq!(health_with(&settings, &[]).0, Some(0), "empty");
    std::fs::remove_file(&key).unwrap();
    assert_eq!(health_with(&settings, &[]).0, Some(0), "missing");
    let pipe = std::process::Command::new("mkfifo").arg(&key).status();
    assert!(pipe.unwrap().success());
    assert_eq!(health_with(&settings, &[]).0, Some(0), "a pipe");
}

#[test]
fn the_health_check_of_the_image_does_not_follow_an_outage_of_prefect() {
    let agent = AgentProcess::start("http://127.0.0.1:9/api", &[("MAX_RETRIES", "0")]);
    let port = agent.address.port().to_string();
    agent.process.wait_for_line("Prefect cannot be read");
    let (code, stderr) = health(&port, &["--ready"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("no cycle has read Prefect"), "{stderr}");
    // The command of the image.
    let dockerfile = std::fs::read_to_string(project("Dockerfile")).unwrap();
    let (_, agent_stage) = dockerfile.rsplit_once("\nFROM ").unwrap();
    let (_, check) = agent_stage.split_once("prefect-otel-agent\", ").unwrap();
    let (arguments, _) = check.split_once(']').unwrap();
    let arguments: Vec<&str> = arguments
        .split(", ")
        .map(|word| word.trim_matches('"'))
        .collect();
    assert_eq!(arguments[0], "health", "{arguments:?}");
    let (code, stderr) = health(&port, &arguments[1..]);
    assert_eq!(code, Some(0), "{stderr}");
}
