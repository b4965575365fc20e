//! Alerts, recording rules and the mixin, with the real promtool and the real Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::process::wait_for;
use crate::support::programs::{Prometheus, programs};
use crate::support::stack::{project, project_text, run};

/// The files with rules.
const RULES: [&str; 2] = ["alerts.yml", "examples/slo-rules.yml"];

/// The labels that distinguish workspaces.
const IDENTITY: [&str; 3] = ["job", "instance", "prefect_workspace"];

/// The test files for `promtool test rules`, with their contents.
fn tests() -> Vec<(PathBuf, String)> {
    let folder = std::fs::read_dir(project("tests/alerts")).unwrap();
    let mut paths: Vec<_> = folder.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let text = |path: PathBuf| (path.clone(), std::fs::read_to_string(path).unwrap());
    paths.into_iter().map(text).collect()
}

/// The alerts of a file: name and text, up to the next rule.
fn alerts(rules: &str) -> Vec<(&str, &str)> {
    const START: &str = "      - alert: ";
    let alert = |(at, _): (usize, &str)| {
        let rest = &rules[at..];
        let text = rest.split_once("\n\n").map_or(rest, |(text, _)| text);
        let name = text[START.len()..].lines().next().unwrap();
        (name, text)
    };
    rules.match_indices(START).map(alert).collect()
}

#[test]
fn the_rules_are_valid_and_alerts_fire_when_they_should() {
    let Some(programs) = programs("the_rules_are_valid") else {
        return;
    };
    for file in RULES {
        run(Command::new(programs.join("promtool"))
            .args(["check", "rules"])
            .arg(project(file)));
    }
    std::thread::scope(|scope| {
        for (file, _) in tests() {
            let promtool = programs.join("promtool");
            scope.spawn(move || run(Command::new(promtool).args(["test", "rules"]).arg(file)));
        }
    });
}

#[test]
fn every_alert_has_a_runbook_a_firing_and_a_silent_case() {
    let tests: String = tests().into_iter().map(|(_, text)| text).collect();
    let mut names = BTreeSet::new();
    for rules in RULES.map(project_text) {
        for (name, alert) in alerts(&rules) {
            names.insert(name.to_owned());
            for part in ["expr:", "for:", "severity:", "summary:", "description:"] {
                assert!(alert.contains(part), "{name} has no {part}");
            }
            let link = format!(
                "runbook_url: '{{{{ or $externalLabels.prefect_runbooks \"docs/runbooks\" }}}}/{name}.md'"
            );
            assert!(alert.contains(&link), "{name}");
            let silent = format!("alertname: {name}}}");
            let firing = format!("alertname: {name}\n        exp_alerts:");
            assert!(tests.contains(&silent), "{name} has no silent case");
            assert!(tests.contains(&firing), "{name} has no firing case");
        }
    }
    assert!(names.len() > 18, "{names:?}");
    // Every runbook belongs to an alert, and the documentation mentions each of them.
    let folder = std::fs::read_dir(project("docs/runbooks")).unwrap();
    let runbooks = folder.map(|file| file.unwrap().path());
    let runbooks = runbooks.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    assert_eq!(names, runbooks.collect());
    let documentation = project_text("docs/deployment.md");
    for name in names {
        assert!(documentation.contains(&format!("`{name}`")), "{name}");
        let runbook = project_text(&format!("docs/runbooks/{name}.md"));
        assert!(runbook.starts_with(&format!("# {name}\n")), "{name}");
        for part in ["What it means", "What to look at", "What to do"] {
            assert!(
                runbook.contains(&format!("\n## {part}\n")),
                "{name}: {part}"
            );
        }
    }
}

/// The output of promtool if `change` is applied to every alert, and the alerts that it changes.
/// Alerts are independent, so each is judged by the messages about it.
fn with_changed(programs: &Path, change: impl Fn(&str) -> String) -> (String, BTreeSet<String>) {
    let folder = tempfile::tempdir().unwrap();
    let mut names = BTreeSet::new();
    let mut tests = tests();
    for file in RULES {
        let rules = project_text(file);
        let mut text = rules.clone();
        for (name, alert) in alerts(&rules) {
            let changed = change(alert);
            if changed != alert {
                names.insert(name.to_owned());
                text = text.replacen(alert, &changed, 1);
            }
        }
        let path = folder.path().join(file.replace('/', "-"));
        std::fs::write(&path, text).unwrap();
        for (_, test) in &mut tests {
            *test = test.replace(&format!("../../{file}"), path.to_str().unwrap());
        }
    }
    let run = |(path, text): &(PathBuf, String)| {
        let test = folder.path().join(path.file_name().unwrap());
        std::fs::write(&test, text).unwrap();
        let output = Command::new(programs.join("promtool"))
            .args(["test", "rules"])
            .arg(test)
            .output()
            .unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let messages = std::thread::scope(|scope| {
        let runs: Vec<_> = tests
            .iter()
            .map(|test| scope.spawn(move || run(test)))
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    (messages, names)
}

/// Whether an expectation about this alert fails, in `alert_rule_test` or about `ALERTS`.
fn fails(messages: &str, name: &str) -> bool {
    let own = |line: &str| -> BTreeSet<String> {
        let series = line.split('{').skip(1).map(str::to_owned);
        series
            .filter(|series| series.contains(&format!("alertname=\"{name}\"")))
            .map(|series| series.trim_end_matches([',', ' ']).to_owned())
            .collect()
    };
    let mut expected = messages.split("exp: ").skip(1);
    let differs = |rest: &str| {
        let (expected, got) = rest.split_once("got: ").unwrap();
        own(expected) != own(got.lines().next().unwrap())
    };
    messages.contains(&format!("alertname: {name}, time")) || expected.any(differs)
}

#[test]
fn an_alert_that_is_removed_fails_its_tests() {
    let Some(programs) = programs("an_alert_that_is_removed_fails_its_tests") else {
        return;
    };
    let (messages, names) = with_changed(&programs, |_| String::new());
    assert!(names.len() > 18, "{names:?}");
    for name in names {
        assert!(fails(&messages, &name), "{name}");
    }
    // These four share a name.
    for window in ["1h", "6h", "1d", "3d"] {
        assert!(messages.contains(&format!("long=\"{window}\"")), "{window}");
    }
}

#[test]
fn an_alert_that_merges_two_workspaces_fails_its_tests() {
    let Some(programs) = programs("an_alert_that_takes_two_workspaces_for_one") else {
        return;
    };
    let change = |alert: &str| alert.replace(", prefect_workspace", "");
    let (messages, names) = with_changed(&programs, change);
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(fails(&messages, &name), "{name}");
    }
}

#[test]
fn an_alert_on_data_that_is_not_refreshed_fails_its_tests() {
    let Some(programs) = programs("an_alert_on_data_that_is_not_refreshed") else {
        return;
    };
    let change = |alert: &str| {
        let lines = alert.lines().map(|line| {
            let guard = line.contains("prefect_agent_section_age_seconds");
            match line.strip_suffix(" < 300").filter(|_| guard) {
                Some(line) => format!("{line} >= 0\n"),
                None => format!("{line}\n"),
            }
        });
        lines.collect::<String>().trim_end().to_owned()
    };
    let (messages, names) = with_changed(&programs, change);
    assert!(names.len() > 9, "{names:?}");
    for name in names {
        assert!(fails(&messages, &name), "{name}");
    }
}

/// A Prometheus with these rule files.
fn with_rules(
    programs: &Path,
    files: &[PathBuf],
    variables: &[(&str, &str)],
) -> (Prometheus, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let files: String = files
        .iter()
        .map(|file| format!("  - {}\n", file.display()))
        .collect();
    // As in the stack, but without scrape targets.
    let config = project_text("prometheus.yml");
    let (config, _) = config.split_once("scrape_configs:").unwrap();
    let config = config
        .replace("  - alerts.yml\n", &files)
        .replace("evaluation_interval: 15s", "evaluation_interval: 1s");
    let path = folder.path().join("prometheus.yml");
    std::fs::write(&path, config).unwrap();
    let prometheus = Prometheus::start_with(programs, &path, &[], variables);
    (prometheus, folder)
}

/// The rules of a file by group and its interval.
type Groups = BTreeMap<String, Vec<Value>>;

/// The rules of a file as Prometheus has parsed them, without their state.
fn read(prometheus: &Prometheus, file: &Path) -> Groups {
    const DEFINITION: [&str; 7] = [
        "type",
        "name",
        "query",
        "duration",
        "keepFiringFor",
        "labels",
        "annotations",
    ];
    let answer = prometheus.get("/api/v1/rules", &[]).unwrap();
    let groups = answer["groups"].as_array().unwrap().iter();
    let groups = groups.filter(|group| Path::new(group["file"].as_str().unwrap()) == file);
    let definition = |rule: &Value| {
        DEFINITION
            .map(|key| (key, rule[key].clone()))
            .into_iter()
            .collect()
    };
    let group = |group: &Value| {
        let rules = group["rules"].as_array().unwrap().iter();
        (
            format!("{}, {}", group["name"], group["interval"]),
            rules.map(definition).collect(),
        )
    };
    groups.map(group).collect()
}

/// The rules of one type, without empty groups.
fn of_kind(groups: &Groups, kind: &str) -> Groups {
    let mut groups = groups.clone();
    for rules in groups.values_mut() {
        rules.retain(|rule| rule["type"] == kind);
    }
    groups.retain(|_, rules| !rules.is_empty());
    groups
}

/// The aggregations and matches of an expression that lose a label of the identity.
fn losing(expression: &Value, found: &mut Vec<String>) {
    let names = |labels: &Value| -> BTreeSet<String> {
        serde_json::from_value(labels.clone()).unwrap_or_default()
    };
    let keeps = |labels: &Value, listed: bool| {
        let labels = names(labels);
        IDENTITY
            .iter()
            .all(|label| labels.contains(*label) == listed)
    };
    match expression {
        Value::Object(node) => {
            if node.get("type").is_some_and(|kind| kind == "aggregation") {
                let without = node["without"] == true;
                if !keeps(&node["grouping"], !without) {
                    found.push(format!("{} {}", node["op"], node["grouping"]));
                }
            }
            if let Some(matching) = node.get("matching").filter(|matching| !matching.is_null())
                && !keeps(&matching["labels"], matching["on"] == true)
            {
                found.push(format!("{} {}", node["op"], matching["labels"]));
            }
            node.values().for_each(|value| losing(value, found));
        }
        Value::Array(nodes) => nodes.iter().for_each(|node| losing(node, found)),
        _ => {}
    }
}

#[test]
fn every_aggregation_and_match_keeps_job_instance_and_workspace() {
    let Some(programs) = programs("every_aggregation_and_match_keeps") else {
        return;
    };
    let files = RULES.map(project);
    let (prometheus, _folder) = with_rules(&programs, &files, &[]);
    let losing = |query: &str| {
        let parsed = prometheus
            .get("/api/v1/parse_query", &[("query", query)])
            .unwrap();
        let mut found = Vec::new();
        losing(&parsed, &mut found);
        found
    };
    let mut count = 0;
    let groups = files.iter().flat_map(|file| read(&prometheus, file));
    for rule in groups.flat_map(|(_, rules)| rules) {
        let found = losing(rule["query"].as_str().unwrap());
        // These two find the instance that has replaced an agent by its job only.
        let by_job = if rule["name"] == "PrefectAgentAbsent" {
            2
        } else {
            0
        };
        assert_eq!(found.len(), by_job, "{}: {found:?}", rule["name"]);
        count += 1;
    }
    assert!(count > 40, "{count}");
    // The check finds such expressions.
    for (query, wrong) in [
        ("sum(a)", 1),
        ("sum by (job, instance) (a)", 1),
        ("sum by (job, instance, prefect_workspace) (a)", 0),
        ("sum without (instance) (a)", 1),
        ("sum without (state) (a)", 0),
        ("a and on (job, instance) b", 1),
        (
            "-(a unless on (instance, job, prefect_workspace, c) b) > 1",
            0,
        ),
        ("a / ignoring (prefect_workspace) b", 1),
        ("a / ignoring (kind) b", 0),
        ("abs(max by (job) (rate(a[5m])) or count(b))", 2),
    ] {
        assert_eq!(losing(query).len(), wrong, "{query}");
    }
}

#[test]
fn the_address_of_the_runbooks_is_one_setting() {
    let Some(programs) = programs("the_address_of_the_runbooks") else {
        return;
    };
    for (address, link) in [
        (
            "https://example.com/kb",
            "https://example.com/kb/PrefectMetricsAbsent.md",
        ),
        ("", "docs/runbooks/PrefectMetricsAbsent.md"),
    ] {
        let variables = [("PREFECT_RUNBOOKS", address)];
        let (prometheus, _folder) = with_rules(&programs, &[project("alerts.yml")], &variables);
        // Nothing is scraped, so the agent is absent.
        let alert = wait_for("an alert", || {
            let answer = prometheus.get("/api/v1/alerts", &[]).unwrap();
            answer["alerts"].as_array().unwrap().first().cloned()
        });
        assert_eq!(alert["annotations"]["runbook_url"], link);
        assert_eq!(alert["labels"].get("prefect_runbooks"), None);
    }
}

/// Evaluates a jsonnet expression.
fn jsonnet(programs: &Path, expression: &str) -> String {
    let output = Command::new(programs.join("jsonnet"))
        .args(["-e", expression])
        .current_dir(project(""))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A part of the mixin, with these fields of its `_config`.
fn mixin(programs: &Path, config: &str, part: &str) -> String {
    let mixin = format!("(import 'mixin/mixin.libsonnet') + {{_config+:: {{{config}}}}}");
    jsonnet(programs, &format!("({mixin}).{part}"))
}

#[test]
fn the_mixin_contains_the_rules_and_the_dashboards() {
    let Some(programs) = programs("the_mixin_contains_the_rules_and_the_dashboards") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, config: &str, expression: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, mixin(&programs, config, expression)).unwrap();
        run(Command::new(programs.join("promtool"))
            .args(["check", "rules"])
            .arg(&path));
        path
    };
    let slo = "slo: true";
    let made = [
        write("alerts.json", "", "prometheusAlerts"),
        write("rules.json", "", "prometheusRules"),
        write("slo-alerts.json", slo, "prometheusAlerts"),
        write("slo-rules.json", slo, "prometheusRules"),
    ];
    let files: Vec<_> = RULES.map(project).into_iter().chain(made.clone()).collect();
    let (prometheus, _folder) = with_rules(&programs, &files, &[]);
    let read = |file: &Path| read(&prometheus, file);
    let [alerts, objectives] = RULES.map(|file| read(&project(file)));
    let [made_alerts, made_rules, with_slo, rules_with_slo] = made.map(|file| read(&file));
    assert_eq!((alerts.len(), objectives.len()), (3, 2));
    assert!(made_alerts == alerts, "{made_alerts:#?}");
    assert!(made_rules.is_empty(), "{made_rules:#?}");
    let mut all = of_kind(&objectives, "alerting");
    all.extend(alerts);
    assert!(with_slo == all, "{with_slo:#?}");
    let recording = of_kind(&objectives, "recording");
    assert!(rules_with_slo == recording, "{rules_with_slo:#?}");

    let config = "slo: true, runbooks: 'https://example.com/kb'";
    let linked = mixin(&programs, config, "prometheusAlerts");
    let expected = all.values().flatten().count();
    let links = linked.matches("\"runbook_url\": \"https://example.com/kb/Prefect");
    assert_eq!(links.count(), expected);

    let dashboards = mixin(&programs, "", "grafanaDashboards");
    let dashboards: BTreeMap<String, Value> = serde_json::from_str(&dashboards).unwrap();
    let folder = std::fs::read_dir(project("grafana/dashboards")).unwrap();
    let names = folder.map(|file| file.unwrap().file_name().into_string().unwrap());
    // The dashboard of the example service is not about Prefect.
    let names: BTreeSet<String> = names.filter(|name| name != "numbers.json").collect();
    assert_eq!(dashboards.into_keys().collect::<BTreeSet<_>>(), names);
    for name in names {
        let dashboard = mixin(&programs, "", &format!("grafanaDashboards['{name}']"));
        let file = jsonnet(&programs, &format!("import 'grafana/dashboards/{name}'"));
        assert!(dashboard == file, "{name}");
    }
}
