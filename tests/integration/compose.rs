//! The rules that compose.yml and compose.pull.yml follow.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::compose::{
    PULL, PUSH, compose, environment, list, services, stages, text, with_variables,
};
use crate::support::process::Process;
use crate::support::programs::{left_out, programs};
use crate::support::stack::{Collector, project, project_text};

/// Images that define a user other than root.
const OWN_USER: [&str; 3] = [
    "otel/opentelemetry-collector-contrib",
    "prom/prometheus",
    "grafana/grafana",
];

/// Grafana updates plugins in its image when it starts.
const WRITABLE: [&str; 1] = ["grafana"];

/// The collector's image has no program for a health check; `collector-ready` checks it, and exits.
const WITHOUT_HEALTH_CHECK: [&str; 2] = ["otel-collector", "collector-ready"];

#[test]
fn every_service_is_limited_and_confined() {
    let Some(compose) = compose("every_service_is_limited_and_confined", PUSH) else {
        return;
    };
    for (name, service) in services(&compose) {
        for limit in ["mem_limit", "pids_limit", "restart"] {
            assert!(!service[limit].is_null(), "{name} has no {limit}");
        }
        assert!(
            list(&service["cap_drop"]).any(|dropped| dropped == "ALL"),
            "{name}"
        );
        assert!(
            list(&service["security_opt"]).any(|option| option == "no-new-privileges:true"),
            "{name}"
        );
        assert!(
            service["logging"]["options"]["max-size"].is_string(),
            "{name}"
        );
        assert_eq!(
            service["read_only"] == true,
            !WRITABLE.contains(&name.as_str()),
            "{name}"
        );
        let image = text(&service["image"]);
        // The images of the Dockerfile run as the user of distroless.
        let unprivileged = !service["build"].is_null()
            || OWN_USER.iter().any(|own| image.starts_with(own))
            || text(&service["user"])
                .split(':')
                .all(|id| id.parse().is_ok_and(|id: u32| id > 0));
        assert!(unprivileged, "{name} runs as root");
        let of_image = |stage: &(String, String, Vec<String>)| {
            stage.0 == text(&service["build"]["target"])
                && stage.2.iter().any(|line| line.starts_with("HEALTHCHECK"))
        };
        assert_eq!(
            service["healthcheck"].is_object() || stages().iter().any(of_image),
            !WITHOUT_HEALTH_CHECK.contains(&name.as_str()),
            "{name}: health check"
        );
        for volume in list(&service["volumes"]).filter(|volume| volume["type"] == "bind") {
            let source = Path::new(text(&volume["source"]));
            assert!(source.exists(), "{name}: {source:?}");
            assert_eq!(volume["read_only"], true, "{name}: {source:?}");
            // The mount must not hide a directory of the image that has other content.
            assert_ne!(volume["target"], "/etc/grafana/provisioning");
        }
    }
    // The tests use the same collector version as the stack.
    let tests = project_text("tests/tools/collector.yaml");
    let (_, version) = tests.split_once("version: ").unwrap();
    let version = version.lines().next().unwrap();
    let image = text(&services(&compose)["otel-collector"]["image"]);
    assert!(
        image.contains(&format!(":{version}@")),
        "{image}, {version}"
    );
}

#[test]
fn ports_are_on_loopback_and_published_once() {
    for files in [PUSH, PULL] {
        let Some(compose) = compose("ports_are_on_loopback_and_published_once", files) else {
            return;
        };
        let mut published = BTreeSet::new();
        for (name, service) in services(&compose) {
            for port in list(&service["ports"]) {
                assert_eq!(port["host_ip"], "127.0.0.1", "{name}");
                let number = text(&port["published"]).to_owned();
                assert!(published.insert(number), "{name}: {port}");
            }
        }
        assert!(services(&compose)["postgres"]["ports"].is_null());
    }
}

/// With a single service, `down` stops either agent, and two agents cannot use the same port.
#[test]
fn push_and_pull_are_one_service() {
    let test = "push_and_pull_are_one_service";
    let (Some(push), Some(pull)) = (compose(test, PUSH), compose(test, PULL)) else {
        return;
    };
    let names = |compose: &Value| services(compose).keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&push), names(&pull));
    for (name, service) in services(&push) {
        assert!(
            service["profiles"].is_null(),
            "{name}: down leaves a profile's service"
        );
        let mut pulled = services(&pull)[name].clone();
        if name == "prometheus" {
            assert_ne!(*service, pulled, "{name} is not replaced");
            pulled["volumes"] = service["volumes"].clone();
        }
        if name != "agent" {
            assert_eq!(*service, pulled, "{name}");
        }
    }
    let agents: Vec<_> = services(&push)
        .iter()
        .filter(|(_, service)| text(&service["image"]).starts_with("prefect-otel-agent:"))
        .collect();
    assert_eq!(agents.len(), 1, "{agents:?}");
    let (pushes, pulled) = (&services(&push)["agent"], &services(&pull)["agent"]);
    for part in ["ports", "volumes", "image", "build", "mem_limit"] {
        assert_eq!(pushes[part], pulled[part], "{part}");
    }
    let mut expected = environment(pushes);
    expected.insert("OTEL_METRICS_EXPORTER".to_owned(), "prometheus".to_owned());
    assert_eq!(environment(pulled), expected);
}

/// The project file that is mounted at `target` in a service, and the other mounts.
fn mounted<'a>(service: &'a Value, target: &str) -> (String, Vec<&'a Value>) {
    let (there, others): (Vec<_>, Vec<_>) =
        list(&service["volumes"]).partition(|volume| volume["target"] == target);
    assert_eq!(there.len(), 1, "{target}");
    let file = Path::new(text(&there[0]["source"])).canonicalize().unwrap();
    let root = project("").canonicalize().unwrap();
    let file = file.strip_prefix(root).unwrap();
    (file.to_str().unwrap().to_owned(), others)
}

/// Prometheus must not resolve the name of an agent that does not exist. Pushed series get `job`
/// and `instance` from the resource, scraped ones from the scrape file. They are the same, so that
/// the series continue after a change.
#[test]
fn the_agent_is_scraped_only_with_the_pull_file_and_is_the_same_instance() {
    let test = "the_agent_is_scraped_only_with_the_pull_file";
    let (Some(push), Some(pull)) = (compose(test, PUSH), compose(test, PULL)) else {
        return;
    };
    let prometheus = project_text("prometheus.yml");
    assert!(prometheus.contains("\nscrape_config_files:\n  - scrape.yml\n"));
    let target = "/etc/prometheus/scrape.yml";
    let (pushed, pushed_others) = mounted(&services(&push)["prometheus"], target);
    let (pulled, pulled_others) = mounted(&services(&pull)["prometheus"], target);
    assert_eq!(pushed_others, pulled_others);
    // Other services push to the collector in both cases.
    for (file, expected) in [
        (&pushed, vec!["otel-collector:8889"]),
        (&pulled, vec!["otel-collector:8889", "agent:8000"]),
    ] {
        let scrape = project_text(file);
        let targets: Vec<_> = scrape
            .lines()
            .filter_map(|line| {
                line.trim()
                    .strip_prefix("- targets: [\"")?
                    .strip_suffix("\"]")
            })
            .collect();
        assert_eq!(targets, expected, "{file}");
        assert!(!scrape.contains("dns_sd"), "{file}");
        for target in targets {
            let (host, _) = target.split_once(':').unwrap();
            assert!(services(&push).contains_key(host), "{file}: {host}");
        }
    }
    let pulled = project_text(&pulled);
    let (_, instance) = pulled.split_once("labels: {instance: ").unwrap();
    let (instance, _) = instance.split_once('}').unwrap();
    let attributes = environment(&services(&pull)["agent"])["OTEL_RESOURCE_ATTRIBUTES"].clone();
    assert!(
        attributes
            .split(',')
            .any(|pair| pair == format!("service.instance.id={instance}")),
        "{attributes}: not {instance}"
    );
}

#[test]
fn prefect_is_on_postgresql_whose_data_is_kept() {
    let Some(compose) = compose("prefect_is_on_postgresql_whose_data_is_kept", PUSH) else {
        return;
    };
    let (database, server) = (
        &services(&compose)["postgres"],
        &services(&compose)["prefect"],
    );
    let (created, used) = (environment(database), environment(server));
    for (created_as, used_as) in [
        ("POSTGRES_DB", "NAME"),
        ("POSTGRES_USER", "USER"),
        ("POSTGRES_PASSWORD", "PASSWORD"),
    ] {
        let used_as = format!("PREFECT_SERVER_DATABASE_{used_as}");
        assert!(!created[created_as].is_empty());
        assert_eq!(created[created_as], used[&used_as]);
    }
    assert_eq!(used["PREFECT_SERVER_DATABASE_HOST"], "postgres");
    assert_eq!(used["PREFECT_SERVER_DATABASE_DRIVER"], "postgresql+asyncpg");
    assert_eq!(
        server["depends_on"]["postgres"]["condition"],
        "service_healthy"
    );
    // PostgreSQL 18 changed the directory for its data.
    let image = text(&database["image"]).strip_prefix("postgres:").unwrap();
    let major: u32 = image.split('.').next().unwrap().parse().unwrap();
    let kept = if major < 18 {
        "/var/lib/postgresql/data"
    } else {
        "/var/lib/postgresql"
    };
    let volumes: Vec<_> = list(&database["volumes"]).collect();
    assert_eq!(volumes.len(), 1);
    assert_eq!(volumes[0]["target"], kept);
    assert_eq!(volumes[0]["type"], "volume");
    assert!(compose["volumes"][text(&volumes[0]["source"])].is_object());
    // On a slow machine, the first start takes minutes.
    for service in ["prefect", "worker"] {
        let check = &services(&compose)[service]["healthcheck"];
        assert_eq!(check["start_period"], "180s", "{service}");
    }
}

#[test]
fn passwords_are_variables() {
    let Some(compose) = with_variables("passwords_are_variables", PUSH) else {
        return;
    };
    let mut passwords = 0;
    for (name, service) in services(&compose) {
        for (variable, value) in environment(service) {
            if variable.contains("PASSWORD") {
                assert!(value.starts_with("${"), "{name}: {variable}");
                passwords += 1;
            }
        }
    }
    assert_eq!(passwords, 3);
    // The file with the values of the variables is not committed.
    assert!(
        project_text(".gitignore")
            .lines()
            .any(|line| line == "/.env")
    );
}

/// Prometheus warns about an empty variable in its configuration.
#[test]
fn no_variable_is_empty() {
    let Some(compose) = compose("no_variable_is_empty", PUSH) else {
        return;
    };
    for (name, service) in services(&compose) {
        for (variable, value) in environment(service) {
            assert!(!value.is_empty(), "{name}: {variable}");
        }
    }
}

/// Every address in an environment variable is the name of a service.
#[test]
fn services_reach_each_other_by_name() {
    let Some(compose) = compose("services_reach_each_other_by_name", PUSH) else {
        return;
    };
    for (name, service) in services(&compose) {
        for (variable, value) in environment(service) {
            let Some((_, address)) = value.split_once("://") else {
                continue;
            };
            let host = address.split([':', '/']).next().unwrap();
            // The address for the browser.
            let known = host == "localhost" || services(&compose).contains_key(host);
            assert!(known, "{name}: {variable}={value}");
        }
    }
}

/// Runs the script of `collector-ready` for the health endpoint at `url`.
fn wait_for_collector(compose: &Value, url: &str, seconds: &str) -> (bool, Vec<String>) {
    let service = &services(compose)["collector-ready"];
    let words: Vec<&str> = list(&service["command"]).map(text).collect();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .env("HEALTH_URL", url)
        .env("WAIT_SECONDS", seconds);
    let mut process = Process::start(&mut command);
    let status = process.wait(Duration::from_secs(60));
    // The reader of stderr ends with the process.
    std::thread::sleep(Duration::from_millis(200));
    (status.success(), process.log())
}

#[test]
fn a_broken_collector_configuration_ends_the_start_with_a_message() {
    let test = "a_broken_collector_configuration_ends_the_start";
    let (Some(compose), Some(programs)) = (compose(test, PUSH), programs(test)) else {
        return;
    };
    if Command::new("wget").arg("--version").output().is_err() {
        left_out(test, "wget; on Debian and Ubuntu install wget");
        return;
    }
    let seconds = &environment(&services(&compose)["collector-ready"])["WAIT_SECONDS"];
    assert!(
        (10..=120).contains(&seconds.parse::<u32>().unwrap()),
        "{seconds}"
    );
    let collector = Collector::start(&programs);
    let (healthy, log) = wait_for_collector(&compose, &collector.health, "30");
    assert!(healthy, "{log:?}");
    // A collector with an invalid configuration exits immediately, so nothing listens.
    let health = collector.health.clone();
    drop(collector);
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("config.yaml");
    let config = project_text("otel-collector.yaml").replace("processors: [", "processors: [x, ");
    std::fs::write(&broken, config).unwrap();
    let output = Command::new(programs.join("otelcol"))
        .arg("--config")
        .arg(&broken)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let (healthy, log) = wait_for_collector(&compose, &health, "3");
    assert!(!healthy);
    let message = "docker compose logs otel-collector";
    assert!(log.iter().any(|line| line.contains(message)), "{log:?}");
    // Services that need the collector wait for this service.
    for service in ["agent", "numbers", "prometheus"] {
        let condition = &services(&compose)[service]["depends_on"]["collector-ready"]["condition"];
        assert_eq!(condition, "service_completed_successfully", "{service}");
    }
}
