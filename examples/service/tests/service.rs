//! Tests of the running service.

// A test ends by panicking; the lint's own exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

/// A running service; it ends with the test.
struct Service {
    child: Child,
    url: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Service {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_numbers"))
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .env("NUMBERS_ADDR", "127.0.0.1:0")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        stderr.read_line(&mut line).unwrap();
        let address = line.trim().split('=').nth(1).unwrap();
        let url = format!("http://{address}");
        Service { child, url }
    }

    async fn get(&self, path: &str, user: Option<&str>) -> (u16, String) {
        let request = reqwest::Client::new().get(format!("{}{path}", self.url));
        let request = match user {
            Some(user) => request.header("user", user),
            None => request,
        };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

#[tokio::test]
async fn it_answers_users_that_it_knows() {
    let service = Service::start();
    let ann = Some("ann");
    let square = service.get("/square?num=-20", ann).await;
    assert_eq!(square, (200, r#"{"num":-20,"square":400}"#.to_owned()));
    let even = service.get("/even?num=7", ann).await;
    assert_eq!(even, (200, r#"{"num":7,"even":false}"#.to_owned()));
    assert_eq!(service.get("/treecounter", ann).await.1, "1\n");
    assert_eq!(service.get("/treecounter", ann).await.1, "2\n");
    assert_eq!(service.get("/", None).await.0, 200);
    assert_eq!(service.get("/square?num=20", None).await.0, 401);
    assert_eq!(service.get("/even?num=20", Some("mallory")).await.0, 401);
    assert_eq!(service.get("/square?num=many", ann).await.0, 400);
    assert_eq!(service.get("/nowhere", ann).await.0, 404);
}

#[tokio::test]
async fn it_measures_every_route_but_two_and_no_path_of_a_request() {
    let service = Service::start();
    for number in 0..5 {
        service
            .get(&format!("/even?num={number}"), Some("bob"))
            .await;
        service.get(&format!("/nowhere/{number}"), None).await;
        service.get("/healthz", None).await;
    }
    let (_, page) = service.get("/metrics", None).await;
    for line in [
        r#"numbers_requests_total{http_request_method="GET",http_response_status_code="200",http_route="/even"} 5"#,
        r#"numbers_requests_total{http_request_method="GET",http_response_status_code="404",http_route="none"} 5"#,
        r#"numbers_authentications_total{outcome="success"} 5"#,
        "numbers_even_numbers_total 3",
        r#"http_server_active_requests{http_route="/even"} 0"#,
        r#"http_server_request_duration_seconds_count{http_route="/even"} 5"#,
    ] {
        assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
    }
    assert!(!page.contains("healthz") && !page.contains("/metrics") && !page.contains("bob"));
}

#[tokio::test]
async fn a_health_check_asks_the_running_service() {
    let service = Service::start();
    let port = service.url.rsplit(':').next().unwrap().to_owned();
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_numbers"));
        let address = format!("0.0.0.0:{port}");
        let command = command.arg("health").env("NUMBERS_ADDR", address);
        command.stderr(Stdio::null()).status().unwrap()
    };
    assert!(check().success());
    drop(service);
    assert!(!check().success());
}

/// Exit code, stdout and stderr.
fn run(arguments: &[&str], address: &str) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_numbers"))
        .args(arguments)
        .env("NUMBERS_ADDR", address)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn help_is_printed_on_request() {
    let (code, help, errors) = run(&["--help"], "127.0.0.1:0");
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    for name in [
        "numbers health",
        "NUMBERS_ADDR",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ] {
        assert!(help.contains(name), "{help}");
    }
    let (code, _, errors) = run(&["--frobnicate"], "127.0.0.1:0");
    assert_eq!(code, Some(1));
    assert!(errors.contains("--frobnicate") && errors.contains("--help"));
}

#[test]
fn a_port_in_use_is_one_line_that_names_the_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, errors) = run(&[], &address);
    assert_eq!(code, Some(1));
    assert_eq!(errors.lines().count(), 1, "{errors}");
    let expected = format!("Error: cannot listen on {address}: Address already in use");
    assert!(errors.starts_with(&expected), "{errors}");
}
