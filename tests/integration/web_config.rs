//! TLS and authentication of the agent's own endpoints.

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use reqwest::blocking::{Client, ClientBuilder, Response};
use reqwest::{Certificate, Identity};

use crate::support::page::Page;
use crate::support::process::{AgentProcess, PATIENCE, run_agent, wait_for};
use crate::support::programs::{Prometheus, programs};
use crate::support::small_stub;
use crate::support::tls::Certificates;

/// The password of `alice`.
const PASSWORD: &str = "pass:wörd";

fn hash(password: &str) -> String {
    let parts = bcrypt::hash_with_salt(password, 5, [3; 16]).unwrap();
    parts.format_for_version(bcrypt::Version::TwoY)
}

/// A folder with a web configuration file and what it refers to.
struct Config {
    folder: tempfile::TempDir,
    certificates: Certificates,
}

impl Config {
    fn new(text: &str) -> Self {
        let config = Config {
            folder: tempfile::tempdir().unwrap(),
            certificates: Certificates::new(),
        };
        let (certificate, key) = &config.certificates.server;
        config.write("server.crt", certificate);
        config.write("server.key", key);
        config.write("ca.crt", &config.certificates.authority);
        config.write("web.yml", text);
        config
    }

    /// With TLS and the user `alice`.
    fn secured() -> Self {
        Config::new(&format!(
            "{TLS}basic_auth_users: {{alice: {}}}\n",
            hash(PASSWORD)
        ))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self) -> String {
        self.path("web.yml").to_str().unwrap().to_owned()
    }

    /// Replaces a file at once.
    fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }
}

const TLS: &str = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n";

/// The agent with this configuration, and how to reach it.
struct Agent {
    process: AgentProcess,
    authority: Certificate,
}

impl Agent {
    fn start(url: &str, config: &Config, more: &[(&str, &str)]) -> Self {
        let file = config.file();
        let mut settings = vec![("WEB_CONFIG_FILE", file.as_str())];
        settings.extend(more);
        Agent {
            process: AgentProcess::start(url, &settings),
            authority: Certificate::from_pem(config.certificates.authority.as_bytes()).unwrap(),
        }
    }

    /// A client that verifies the agent's certificate.
    fn client(&self) -> ClientBuilder {
        Client::builder()
            .tls_certs_only([self.authority.clone()])
            .resolve("localhost", self.process.address)
            .pool_max_idle_per_host(0)
            .no_proxy()
            .timeout(PATIENCE)
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.process.address.port())
    }

    fn get(&self, path: &str) -> Response {
        let client = self.client().build().unwrap();
        client.get(self.url(path)).send().unwrap()
    }

    fn get_as(&self, user: &str, password: &str) -> u16 {
        let client = self.client().build().unwrap();
        let request = client.get(self.url("/metrics"));
        let answer = request.basic_auth(user, Some(password)).send().unwrap();
        answer.status().as_u16()
    }
}

fn blocking<T>(run: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(run)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_probes_are_answered_without_credentials() {
    let stub = small_stub().await;
    blocking(|| {
        let headers = "http_server_config: {headers: {X-Frame-Options: deny}}\n";
        let users = format!("basic_auth_users: {{alice: {}}}\n", hash(PASSWORD));
        let config = Config::new(&format!("{TLS}{headers}{users}"));
        let agent = Agent::start(&stub.url, &config, &[]);
        assert_eq!(agent.get("/healthz").status(), 200);
        wait_for("readiness", || {
            (agent.get("/readyz").status() == 200).then_some(())
        });
        for path in ["/metrics", "/status", "/"] {
            let answer = agent.get(path);
            assert_eq!(answer.status(), 401, "{path}");
            let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
            assert!(challenge.starts_with("Basic realm="), "{challenge}");
            assert_eq!(answer.headers()["x-frame-options"], "deny");
            assert!(!answer.text().unwrap().contains("prefect_"));
        }
        assert_eq!(agent.get_as("alice", PASSWORD), 200);
        assert_eq!(agent.get_as("alice", "other"), 401);
        assert_eq!(agent.get_as("bob", PASSWORD), 401);
        let plain = format!("http://{}/healthz", agent.process.address);
        let plain = reqwest::blocking::get(plain).unwrap();
        assert_eq!(plain.status(), 400);
        assert!(plain.text().unwrap().contains("https://"));
        let log = agent.process.process.log().join("\n");
        assert!(
            log.contains("TLS 1.2 and 1.3, basic authentication (1 user)"),
            "{log}"
        );
        assert!(!log.contains("$2y$"), "{log}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_delay_neither_probes_nor_a_known_user() {
    let stub = small_stub().await;
    let parts = bcrypt::hash_with_salt(PASSWORD, 10, [3; 16]).unwrap();
    let config = Config::new(&format!("{TLS}basic_auth_users: {{alice: {parts}}}\n"));
    blocking(|| {
        let agent = Agent::start(&stub.url, &config, &[]);
        assert_eq!(agent.get_as("alice", PASSWORD), 200);
        std::thread::scope(|scope| {
            let guesses: Vec<_> = (0..20)
                .map(|number| {
                    let agent = &agent;
                    scope.spawn(move || agent.get_as("alice", &format!("guess {number}")))
                })
                .collect();
            let started = std::time::Instant::now();
            assert_eq!(agent.get("/healthz").status(), 200);
            assert_eq!(agent.get_as("alice", PASSWORD), 200);
            println!("beside 20 guesses: {:?}", started.elapsed());
            for guess in guesses {
                let status = guess.join().unwrap();
                assert!([401, 429].contains(&status), "{status}");
            }
        });
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_token_is_read_from_a_file_and_follows_it() {
    let stub = small_stub().await;
    blocking(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "first\n").unwrap();
        let settings = [("METRICS_BEARER_TOKEN_FILE", path.to_str().unwrap())];
        let agent = AgentProcess::start(&stub.url, &settings);
        let scrape = |token: &str| {
            let client = Client::builder()
                .no_proxy()
                .timeout(PATIENCE)
                .build()
                .unwrap();
            let request = client.get(format!("http://{}/metrics", agent.address));
            request.bearer_auth(token).send().unwrap()
        };
        let get = |token: &str| scrape(token).status().as_u16();
        let setting = [("setting", "METRICS_BEARER_TOKEN_FILE")];
        let reloaded = |token: &str, expected: f64| {
            wait_for("the result of the last reload", || {
                let page = Page::parse(&scrape(token).text().unwrap());
                let successful = page.value("prefect_agent_last_reload_successful", &setting)?;
                (successful == expected).then_some(())
            });
        };
        assert_eq!(agent.get("/healthz").0, 200);
        assert_eq!(agent.get("/metrics").0, 401);
        assert_eq!(get("first"), 200);
        assert_eq!(get("second"), 401);
        reloaded("first", 1.0);
        // An empty file does not make the page public.
        std::fs::write(&path, "").unwrap();
        agent.process.wait_for_line("the previous one stays in use");
        assert_eq!(agent.get("/metrics").0, 401);
        assert_eq!(get("first"), 200);
        reloaded("first", 0.0);
        std::fs::write(&path, "second").unwrap();
        wait_for("the new token", || (get("second") == 200).then_some(()));
        reloaded("second", 1.0);
        assert_eq!(get("first"), 401);
        assert_eq!(agent.process.lines_with("the previous one stays in use"), 1);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_served_and_a_bad_one_is_not() {
    let stub = small_stub().await;
    blocking(|| {
        let config = Config::secured();
        let agent = Agent::start(&stub.url, &config, &[]);
        assert_eq!(agent.get_as("alice", PASSWORD), 200);
        // Between two writes, the key does not belong to the certificate.
        let year = SignedDuration::from_hours(24 * 365);
        let renewed = config
            .certificates
            .issue("renewed", Timestamp::now() + year);
        config.write("server.crt", &renewed.pem);
        agent
            .process
            .process
            .wait_for_line("the previous one stays in use");
        assert_eq!(
            agent.get("/healthz").status(),
            200,
            "the previous certificate"
        );
        config.write("server.key", &renewed.key);
        agent
            .process
            .process
            .wait_for_line("the web configuration has changed");
        wait_for("the new certificate", || {
            let client = agent.client().resolve("renewed", agent.process.address);
            let url = agent.url("/healthz").replace("localhost", "renewed");
            client.build().unwrap().get(url).send().ok()
        });
        assert!(
            agent
                .client()
                .build()
                .unwrap()
                .get(agent.url("/healthz"))
                .send()
                .is_err()
        );
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn users_follow_the_file_but_protection_is_never_lost() {
    let stub = small_stub().await;
    blocking(|| {
        let config = Config::secured();
        let agent = Agent::start(&stub.url, &config, &[]);
        let process = &agent.process.process;
        assert_eq!(agent.get_as("alice", PASSWORD), 200);
        for (text, reason) in [
            ("", "tls_server_config was removed"),
            (TLS, "authentication was removed"),
            (
                "tls_server_config: {cert_filse: a}\n",
                "unknown field `cert_filse`",
            ),
        ] {
            config.write("web.yml", text);
            process.wait_for_line(reason);
            assert_eq!(agent.get("/metrics").status(), 401, "{reason}");
            assert_eq!(agent.get_as("alice", PASSWORD), 200, "{reason}");
        }
        config.write(
            "web.yml",
            &format!("{TLS}basic_auth_users: {{bob: {}}}\n", hash("new")),
        );
        wait_for("the new user", || {
            (agent.get_as("bob", "new") == 200).then_some(())
        });
        assert_eq!(agent.get_as("alice", PASSWORD), 401);
        assert_eq!(process.lines_with("the previous one stays in use"), 3);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_required_except_by_probes() {
    let stub = small_stub().await;
    blocking(|| {
        let with = |more: &str| {
            Config::new(&format!(
                "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n{more}"
            ))
        };
        let identity = |certificates: &Certificates| {
            let read = |name| std::fs::read_to_string(certificates.path(name)).unwrap();
            Identity::from_pem((read("cert") + &read("key")).as_bytes()).unwrap()
        };
        let config = with("");
        let agent = Agent::start(&stub.url, &config, &[]);
        assert_eq!(agent.get("/healthz").status(), 200);
        let refused = agent.get("/metrics");
        assert_eq!(refused.status(), 403);
        assert!(refused.text().unwrap().contains("client certificate"));
        let get = |agent: &Agent, identity| {
            let client = agent.client().identity(identity).build().unwrap();
            let answer = client.get(agent.url("/metrics")).send();
            answer.map(|answer| answer.status().as_u16()).ok()
        };
        assert_eq!(get(&agent, identity(&config.certificates)), Some(200));
        let others = Certificates::new();
        assert_eq!(get(&agent, identity(&others)), None, "another authority");
        // The client's certificate is for `agent`.
        for (name, expected) in [("agent", 200), ("prometheus", 403)] {
            let config = with(&format!("  client_allowed_sans: [127.0.0.1, {name}]\n"));
            let agent = Agent::start(&stub.url, &config, &[]);
            assert_eq!(
                get(&agent, identity(&config.certificates)),
                Some(expected),
                "{name}"
            );
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_check_use_the_same_configuration() {
    let stub = small_stub().await;
    blocking(|| {
        let config = Config::secured();
        let agent = Agent::start(&stub.url, &config, &[]);
        let (file, port) = (config.file(), agent.process.address.port().to_string());
        let environment = [
            ("PREFECT_API_URL", stub.url.as_str()),
            ("METRICS_ADDR", "127.0.0.1"),
            ("METRICS_PORT", port.as_str()),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            ("WEB_CONFIG_FILE", file.as_str()),
        ];
        assert_eq!(run_agent(&["health"], &environment).0, Some(0));
        let (code, report, _) = run_agent(&["check"], &environment);
        assert_eq!(code, Some(0), "{report}");
        assert!(
            report.contains("TLS 1.2 and 1.3, basic authentication (1 user)"),
            "{report}"
        );
        assert!(report.contains("is in use by a running agent"), "{report}");
        let (_, shown, _) = run_agent(&["config"], &environment);
        assert!(shown.contains(&file), "{shown}");
        // The agent keeps running with the previous file.
        config.write("web.yml", "tls_server_config: {cert_filse: a}\n");
        assert_eq!(run_agent(&["health"], &environment).0, Some(0));
        let (code, report, _) = run_agent(&["check"], &environment);
        assert_eq!(code, Some(1));
        assert!(report.contains("unknown field `cert_filse`"), "{report}");
    });
}

#[test]
fn an_unusable_file_stops_the_start_and_names_the_field() {
    let config = Config::new("");
    let others = Certificates::new();
    config.write("other.key", &others.server.1);
    config.write("empty", "");
    let tls = |more: &str| format!("tls_server_config: {{cert_file: server.crt, {more}}}");
    let with_key = |more: &str| tls(&format!("key_file: server.key, {more}"));
    let file = config.file();
    for (text, parts) in [
        (
            tls("key_file: other.key"),
            &["server.crt", "other.key", "KeyMismatch"][..],
        ),
        (
            tls("key_file: nothing.key"),
            &["key_file (nothing.key)", "No such file"],
        ),
        (
            tls("key_file: empty"),
            &["key_file (empty)", "no PEM private key"],
        ),
        (tls(""), &["key_file is missing"]),
        (with_key("min_version: TLS111"), &["min_version", "TLS111"]),
        (with_key("max_version: TLS11"), &["max_version"]),
        (
            with_key("client_ca_file: ca.crt"),
            &["client_ca_file", "client_auth_type"],
        ),
        (
            with_key("client_auth_type: RequireAnyClientCert"),
            &["client_auth_type", "RequireAndVerifyClientCert"],
        ),
        (
            with_key("client_auth_type: RequireAndVerifyClientCert"),
            &["client_ca_file"],
        ),
        (
            with_key("cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]"),
            &[
                "TLS_RSA_WITH_RC4_128_SHA",
                "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            ],
        ),
        (
            with_key("curve_preferences: [CurveP257]"),
            &["CurveP257", "X25519"],
        ),
        (
            "basic_auth_users: {alice: doe}".to_owned(),
            &["basic_auth_users.alice", "bcrypt"],
        ),
        ("junk".to_owned(), &["web.yml"]),
    ] {
        config.write("web.yml", &text);
        let settings = [("WEB_CONFIG_FILE", file.as_str()), ("METRICS_PORT", "0")];
        let (code, _, message) = run_agent(&["run"], &settings);
        assert_eq!(code, Some(2), "{text}: {message}");
        let message = message.lines().last().unwrap();
        for part in parts.iter().chain(&["WEB_CONFIG_FILE"]) {
            assert!(message.contains(part), "{part} in {message} for {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn older_versions_and_other_ciphers_are_refused() {
    let stub = small_stub().await;
    blocking(|| {
        let text = "tls_server_config: {cert_file: server.crt, key_file: server.key, min_version: TLS13, curve_preferences: [CurveP384]}\n";
        let agent = Agent::start(&stub.url, &Config::new(text), &[]);
        assert_eq!(agent.get("/metrics").status(), 200);
        let old = agent
            .client()
            .tls_version_max(reqwest::tls::Version::TLS_1_2);
        assert!(
            old.build()
                .unwrap()
                .get(agent.url("/metrics"))
                .send()
                .is_err()
        );
        let text = "tls_server_config: {cert_file: server.crt, key_file: server.key, max_version: TLS12, cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]}\n";
        let agent = Agent::start(&stub.url, &Config::new(text), &[]);
        assert_eq!(agent.get("/metrics").status(), 200);
    });
}

/// The block of docs/deployment.md that begins with `first`.
fn documented(first: &str) -> String {
    let text = crate::support::stack::project_text("docs/deployment.md");
    let mut blocks = text.split("```yaml\n").skip(1);
    let block = blocks.find(|block| block.starts_with(first)).unwrap();
    block.split("```").next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_scrapes_the_documented_configuration() {
    let Some(programs) = programs("a_real_prometheus_scrapes_the_documented_configuration") else {
        return;
    };
    let stub = small_stub().await;
    blocking(|| {
        let text = documented("tls_server_config:");
        let (before, _) = text.split_once("$2").unwrap();
        let config = Config::new(&format!("{before}{}\n", hash(PASSWORD)));
        let agent = Agent::start(&stub.url, &config, &[("METRICS_BEARER_TOKEN", "token")]);
        let jobs = scrape_configs(&config, agent.process.address.port());
        config.write("prometheus.yml", &jobs);
        let prometheus = Prometheus::start(&programs, &config.path("prometheus.yml"), &[]);
        for (job, expected) in [("prefect-otel-agent", 1.0), ("token", 1.0), ("guess", 0.0)] {
            let up = format!("up{{job=\"{job}\"}}");
            wait_for(&up, || (prometheus.value(&up)? == expected).then_some(()));
        }
        let value = "prefect_up{job=\"prefect-otel-agent\"}";
        wait_for(value, || (prometheus.value(value)? == 1.0).then_some(()));
    });
}

/// The documented job, one with a token, and one with a wrong password.
fn scrape_configs(config: &Config, port: u16) -> String {
    config.write("password", PASSWORD);
    let path = |name: &str| config.path(name).to_str().unwrap().to_owned();
    let documented = documented("scrape_configs:");
    for part in [
        "agent.example.com:8000",
        "/etc/prometheus/ca.crt",
        "/etc/prometheus/password",
    ] {
        assert!(documented.contains(part), "{part}");
    }
    let job = documented
        .replace("agent.example.com:8000", &format!("localhost:{port}"))
        .replace("/etc/prometheus/ca.crt", &path("ca.crt"))
        .replace("/etc/prometheus/password", &path("password"));
    let other = |name: &str, credentials: &str| {
        format!(
            "  - job_name: {name}\n    scheme: https\n    {credentials}\n    tls_config: {{ca_file: '{}'}}\n    static_configs: [{{targets: ['localhost:{port}']}}]\n",
            path("ca.crt")
        )
    };
    let token = other("token", "authorization: {credentials: token}");
    let guess = other("guess", "basic_auth: {username: alice, password: guess}");
    format!("global: {{scrape_interval: 1s}}\n{job}{token}{guess}")
}

#[test]
fn a_file_that_does_not_exist_is_named() {
    let (code, _, message) = run_agent(&["run"], &[("WEB_CONFIG_FILE", "/nowhere/web.yml")]);
    assert_eq!(code, Some(2), "{message}");
    let expected = "WEB_CONFIG_FILE: cannot use the file /nowhere/web.yml: No such file";
    assert!(message.contains(expected), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_its_next_answer_after_a_change() {
    let stub = small_stub().await;
    blocking(|| {
        let config = Config::secured();
        let agent = Agent::start(&stub.url, &config, &[]);
        let client = agent.client().pool_max_idle_per_host(1).build().unwrap();
        let closes = || {
            let answer = client.get(agent.url("/healthz")).send().unwrap();
            let header = answer.headers().get("connection").cloned();
            // The connection is used again only if all has been read.
            assert_eq!(answer.text().unwrap(), "ok\n");
            header.is_some_and(|header| header == "close")
        };
        assert!(!closes());
        assert!(!closes());
        config.write(
            "web.yml",
            &format!("{TLS}basic_auth_users: {{bob: {}}}\n", hash("new")),
        );
        let change = "the web configuration has changed";
        agent.process.process.wait_for_line(change);
        assert!(closes());
        assert!(!closes(), "a new connection");
    });
}
