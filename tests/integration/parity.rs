//! The page of the Python exporter and that of the agent, family by family and label by label, on
//! the real Prefect server that `end_to_end` fills.
//!
//! The exporter is not a package that tests could install, so its page is recorded. To record it
//! again, for another release, give the command that starts the exporter:
//!
//! ```sh
//! PREFECT_EXPORTER="python CHECKOUT/main.py" cargo test --test integration parity
//! ```
//!
//! Ids of flow runs are replaced by the names that the test has for these runs, and the page is
//! otherwise unchanged. While recording, values that depend on the moment are compared, too.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Instant;

use crate::end_to_end::{World, create};
use crate::support::page::{Labels, Page};
use crate::support::prefect::{Server, free_port};
use crate::support::process::{AgentProcess, Process, fetch, wait_for};
use crate::support::stack::{project, project_text};

const RECORDED: &str = "tests/parity/prometheus-prefect-exporter-3.6.1.txt";
/// Long enough for every run of the test to be within it.
const OFFSET: (&str, &str) = ("OFFSET_MINUTES", "30");
/// One of the exporter's series per run, all with the same labels; one of the agent's per
/// deployment and flow, with another label.
const RUN_TIME: &str = "prefect_flow_runs_total_run_time";
const ONGOING: &str = "prefect_flow_runs_ongoing_run_time";

/// Every sample of a family: its labels, and its value if that is the same at any moment.
type Samples = BTreeSet<(Labels, Option<u64>)>;

/// Ids of runs as their names.
fn with_names(page: String, world: &World) -> String {
    let runs = world.runs.iter();
    runs.fold(page, |page, (name, id)| page.replace(id, name))
}

/// The page of the exporter that `command` starts.
fn exporter(command: &str, world: &World) -> String {
    let port = free_port();
    let mut words = command.split_whitespace();
    let mut exporter = Command::new(words.next().unwrap());
    exporter
        .args(words)
        .env("PREFECT_API_URL", &world.server.url)
        .env("METRICS_ADDR", "127.0.0.1")
        .env("METRICS_PORT", port.to_string())
        .envs([OFFSET]);
    let _process = Process::start(&mut exporter);
    let page = wait_for("the exporter", || {
        let page = fetch(&format!("http://127.0.0.1:{port}/metrics")).ok()?;
        page.text()
            .ok()
            .filter(|page| page.contains("prefect_info_flow_runs{"))
    });
    with_names(page, world)
}

/// The types of the exporter's families, and their samples.
fn read(page: &str) -> (BTreeMap<&str, &str>, BTreeMap<String, Samples>) {
    let types = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut samples: BTreeMap<String, Samples> = BTreeMap::new();
    // Line by line: the exporter's page has duplicates.
    for line in page.lines().filter(|line| line.starts_with("prefect_")) {
        let (series, value) = Page::parse(line).series.pop_first().unwrap();
        let (family, mut labels) = series;
        let value = match family.as_str() {
            RUN_TIME => {
                labels.remove("deployment_name");
                None
            }
            ONGOING => None,
            _ => Some(value as u64),
        };
        // The agent shows a count at 0 before its series ends; the exporter has no such zeros.
        if family != "prefect_info_flow_runs" || value != Some(0) {
            samples.entry(family).or_default().insert((labels, value));
        }
    }
    (types.collect(), samples)
}

/// What is different, one line each.
fn differences(theirs: &str, ours: &str) -> Vec<String> {
    let ((their_types, theirs), (our_types, ours)) = (read(theirs), read(ours));
    let mut found = Vec::new();
    for (family, theirs) in theirs {
        let kind = our_types.get(family.as_str());
        if kind != their_types.get(family.as_str()) {
            found.push(format!("type: {family} is {kind:?}"));
        }
        let ours = ours.get(&family).cloned().unwrap_or_default();
        let missing = theirs.difference(&ours);
        found.extend(missing.map(|sample| format!("missing: {family} {sample:?}")));
        let more = ours.difference(&theirs);
        found.extend(more.map(|sample| format!("in addition: {family} {sample:?}")));
    }
    found
}

/// Run times are among those of the exporter; runs that have not ended are as old.
fn compare_moments(theirs: &str, ours: &Page) {
    let theirs = theirs.lines().filter(|line| line.starts_with(RUN_TIME));
    let theirs: Vec<f64> = theirs
        .map(|line| *Page::parse(line).series.values().next().unwrap())
        .collect();
    for (labels, value) in ours.family(RUN_TIME) {
        let equal = |their: &f64| (their - value).abs() < 1e-9;
        assert!(theirs.iter().any(equal), "{labels:?}: {value}");
    }
}

#[test]
fn the_fourteen_families_are_those_of_the_python_exporter() {
    let world = create(Server::start(&[]));
    let settings = [OFFSET, ("SCHEDULED_LOOKAHEAD_MINUTES", "all")];
    let agent = AgentProcess::start(&world.server.url, &settings);
    let page = || with_names(agent.get("/metrics").1, &world);
    let command = std::env::var("PREFECT_EXPORTER").ok();
    let theirs = match &command {
        Some(command) => {
            let theirs = exporter(command, &world);
            std::fs::write(project(RECORDED), &theirs).unwrap();
            theirs
        }
        None => project_text(RECORDED),
    };
    assert_eq!(read(&theirs).1.len(), 14);
    let started = Instant::now();
    loop {
        let differences = differences(&theirs, &page());
        if differences.is_empty() {
            break;
        }
        assert!(started.elapsed().as_secs() < 60, "{differences:#?}");
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    if command.is_some() {
        compare_moments(&theirs, &agent.page());
    }
}

#[test]
fn a_difference_from_the_python_exporter_is_found() {
    let theirs = project_text(RECORDED);
    assert!(differences(&theirs, &theirs).is_empty());
    let label = theirs.replace("state_name=\"TimedOut\"", "state_name=\"Failed\"");
    let value = theirs.replace(
        "prefect_deployments_total 3.0",
        "prefect_deployments_total 4.0",
    );
    let kind = theirs.replace(
        "# TYPE prefect_flows_total gauge",
        "# TYPE prefect_flows_total counter",
    );
    for changed in [label, value, kind] {
        assert_ne!(changed, theirs);
        assert!(!differences(&theirs, &changed).is_empty());
    }
}

#[test]
fn the_guide_for_migration_names_every_metric_of_the_python_exporter() {
    let guide = project_text("docs/migration.md");
    let page = project_text(RECORDED);
    let families = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    for family in families {
        let python = family.starts_with("python_") && guide.contains("`python_*`");
        let named = guide.contains(&format!("`{family}`"));
        assert!(
            python || named,
            "docs/migration.md does not mention {family}"
        );
    }
}
