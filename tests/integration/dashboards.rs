//! The dashboards: valid, provisioned, and correct whether or not Prefect and the agent are up.

mod bars;
mod cases;
mod choices;
mod defects;
mod json;
mod load;
mod queries;
mod shown;
mod situations;
mod whose;
mod workspace;

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::support::stack::{project, project_text, run};
use json::{Dashboard, dashboards};

#[test]
fn dashboards_are_well_made() {
    let mut uids = BTreeSet::new();
    let dashboards = dashboards();
    assert_eq!(dashboards.len(), 5);
    for Dashboard { file, json } in &dashboards {
        assert!(uids.insert(json["uid"].as_str().unwrap()), "{file}");
        for part in ["title", "description"] {
            assert!(!json[part].as_str().unwrap().is_empty(), "{file}");
        }
        let links = json["links"].as_array();
        assert!(links.is_some_and(|links| !links.is_empty()), "{file}");
        let mut cells = BTreeSet::new();
        for panel in json["panels"].as_array().unwrap() {
            let title = &panel["title"];
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{file}: {title}");
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(cells.insert((x, y)), "{file}: {title} lies upon another");
                }
            }
        }
    }
    for dashboard in &dashboards {
        let mut ids = BTreeSet::new();
        for panel in dashboard.placed() {
            assert!(ids.insert(panel.id()), "{}", panel.identity());
        }
        for panel in dashboard.panels() {
            let identity = panel.identity();
            let description = panel.json["description"].as_str().unwrap();
            assert!(description.len() > 10, "{identity}");
            assert!(panel.defaults()["unit"].is_string(), "{identity}");
            let source = |part: &Value| part["datasource"]["uid"] == "${datasource}";
            assert!(
                source(panel.json) && panel.targets().all(source),
                "{identity}"
            );
            if panel.is_tile() || panel.kind() == "table" {
                let nothing = &panel.defaults()["noValue"];
                assert!(
                    nothing.is_string(),
                    "{identity} has no text for missing data"
                );
            }
        }
        let names = dashboard.variable_names();
        assert_eq!(names[0], "datasource");
        let panels = dashboard.json["panels"].to_string();
        for name in &names[1..] {
            let used =
                panels.contains(&format!("${name}")) || panels.contains(&format!("${{{name}"));
            assert!(used, "{}: ${name} is not used", dashboard.file);
        }
    }
}

#[test]
fn dashboards_are_up_to_date_with_their_source() {
    run(Command::new(project("grafana/build")).arg("--check"));
    let folder = tempfile::tempdir().unwrap();
    let mut export = Command::new(project("grafana/build"));
    run(export.arg("--export").arg(folder.path()));
    for dashboard in dashboards() {
        let exported = std::fs::read_to_string(folder.path().join(&dashboard.file)).unwrap();
        let exported: Value = serde_json::from_str(&exported).unwrap();
        let input = &exported["__inputs"][0];
        assert_eq!(input["pluginId"], "prometheus", "{}", dashboard.file);
        assert_eq!(exported["id"], Value::Null);
        assert!(!exported["tags"].as_array().unwrap().is_empty());
        let requires = exported["__requires"].as_array().unwrap();
        for kind in dashboard.panels().map(|panel| panel.kind()) {
            let required = requires.iter().any(|one| one["id"] == kind);
            assert!(required, "{}: {kind} is not required", dashboard.file);
        }
        assert_eq!(exported["panels"], dashboard.json["panels"]);
    }
}

/// A YAML file of the project as JSON.
fn yaml(path: &str) -> Value {
    let file = config::File::from(project(path)).format(config::FileFormat::Yaml);
    let built = config::Config::builder().add_source(file).build().unwrap();
    built.try_deserialize().unwrap()
}

#[test]
fn grafana_is_provisioned_with_existing_files() {
    let dashboards = yaml("grafana/provisioning/dashboards/dashboards.yml");
    assert_eq!(
        dashboards["apiversion"]
            .as_i64()
            .or(dashboards["apiVersion"].as_i64()),
        Some(1)
    );
    let provider = &dashboards["providers"][0];
    assert_eq!(provider["type"], "file");
    let folder = provider["options"]["path"].as_str().unwrap();
    let sources = yaml("grafana/provisioning/datasources/prometheus.yml");
    let source = &sources["datasources"][0];
    assert_eq!(source["type"], "prometheus");
    let compose = project_text("compose.yml");
    assert!(compose.contains(&format!("./grafana/dashboards:{folder}:ro")));
    for part in ["datasources", "dashboards"] {
        let folder = format!("grafana/provisioning/{part}:/etc/grafana/provisioning/{part}:ro");
        assert!(compose.contains(&folder), "{folder}");
    }
    assert!(compose.contains(&format!("HOME_DASHBOARD_PATH: {folder}/overview.json")));
    let host = source["url"]
        .as_str()
        .unwrap()
        .strip_prefix("http://")
        .unwrap();
    let (service, port) = host.split_once(':').unwrap();
    assert!(
        compose.contains(&format!("\n  {service}:\n")) && compose.contains(&format!(":{port}\""))
    );
    // The minimum interval of panels is the scrape interval of Prometheus.
    let prometheus = yaml("prometheus.yml");
    let interval = prometheus["global"]["scrape_interval"].as_str().unwrap();
    assert_eq!(
        source["jsonData"]["timeInterval"]
            .as_str()
            .or(source["jsondata"]["timeinterval"].as_str()),
        Some(interval)
    );
}
