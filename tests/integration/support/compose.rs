//! Reads the compose files and the Dockerfile.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Map, Value};

use super::programs::programs;
use super::stack::{project, project_text};

/// The files of the stack with an agent that pushes, and with one that is scraped.
pub(crate) const PUSH: &[&str] = &["compose.yml"];
pub(crate) const PULL: &[&str] = &["compose.yml", "compose.pull.yml"];

/// The files as parsed by the reference implementation of the Compose specification. `None` if it
/// is not installed, which is reported.
pub(crate) fn compose(test: &str, files: &[&str]) -> Option<Value> {
    read(test, files, &[])
}

/// The same, with variables that are not interpolated.
pub(crate) fn with_variables(test: &str, files: &[&str]) -> Option<Value> {
    read(test, files, &["--no-interpolation"])
}

fn read(test: &str, files: &[&str], flags: &[&str]) -> Option<Value> {
    let programs = programs(test)?;
    let output = Command::new(programs.join("compose-spec"))
        .args(["--format", "json"])
        .args(flags)
        .args(files)
        .current_dir(project(""))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{files:?}: {stderr}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

pub(crate) fn services(compose: &Value) -> &Map<String, Value> {
    compose["services"].as_object().unwrap()
}

pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The environment of a service, which the specification allows to be a map or a list.
pub(crate) fn environment(service: &Value) -> BTreeMap<String, String> {
    match &service["environment"] {
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| (name.clone(), text(value).to_owned()))
            .collect(),
        other => list(other)
            .filter_map(|entry| text(entry).split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    }
}

/// The stages of the Dockerfile in order: name, base image, and lines.
pub(crate) fn stages() -> Vec<(String, String, Vec<String>)> {
    let text = project_text("Dockerfile");
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect();
    let mut stages: Vec<(String, String, Vec<String>)> = Vec::new();
    for line in lines.join("\n").replace("\\\n", " ").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["FROM", from, "AS", name] => {
                stages.push(((*name).to_owned(), (*from).to_owned(), Vec::new()));
            }
            _ => stages.last_mut().unwrap().2.push(words.join(" ")),
        }
    }
    stages
}
