//! Cases that involve several agents or take a long time. Their history is written to Prometheus,
//! each with its own job.

use std::fmt::Write as _;

use super::json::{Dashboard, dashboards, none};
use super::shown::{Look, Shown, Tile, is_green, is_grey, is_red, now, packages, show};
use super::workspace::of_deployment;
use crate::support::programs::programs;
use crate::support::stack::with_history;

const SCRAPE: u64 = 15;
const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;

/// Samples by metric name, since the format requires them to be grouped.
#[derive(Default)]
struct History(std::collections::BTreeMap<String, String>);

impl History {
    /// Adds samples of a gauge for a time span.
    fn add(&mut self, name: &str, labels: &str, span: (u64, u64), value: impl Fn(u64) -> u64) {
        let text = self.0.entry(name.to_owned()).or_default();
        for time in (span.0..=span.1).step_by(SCRAPE as usize) {
            writeln!(text, "{name}{{{labels}}} {} {time}", value(time)).unwrap();
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, samples) in &self.0 {
            write!(text, "# TYPE {name} gauge\n{samples}").unwrap();
        }
        text + "# EOF\n"
    }
}

/// The dashboards with this job selected.
struct Case<'a> {
    dashboards: &'a [Dashboard],
    shown: &'a [Shown],
}

impl Case<'_> {
    fn tile(&self, file: &str, title: &str) -> &Tile {
        let mut all = self.dashboards.iter().zip(self.shown);
        let (dashboard, shown) = all.find(|(dashboard, _)| dashboard.file == file).unwrap();
        let panel = dashboard.panels().find(|panel| panel.title() == title);
        &shown.panel(panel.unwrap()).tiles[0]
    }

    /// The texts of a column of the table of deployments.
    fn column(&self, name: &str) -> Vec<&str> {
        let mut all = self.dashboards.iter().zip(self.shown);
        let (dashboard, shown) = all.find(|(one, _)| one.file == "overview.json").unwrap();
        let panel = dashboard
            .panels()
            .find(|panel| panel.title() == "Deployments");
        let table = shown.panel(panel.unwrap());
        let index = table.columns.iter().position(|column| column.name == name);
        let cells = table
            .rows
            .iter()
            .map(|row| row[index.unwrap()].text.as_str());
        cells.collect()
    }
}

/// Writes the history of each of `jobs`. `check` returns what is wrong with the dashboards.
fn cases(
    test: &str,
    jobs: &[&str],
    write: impl Fn(&mut History, &str, u64),
    check: impl Fn(&str, Case<'_>) -> Vec<String>,
) {
    let (Some(programs), Some(packages)) = (programs(test), packages(test)) else {
        return;
    };
    let end = now() as u64 / MINUTE * MINUTE;
    let mut history = History::default();
    for job in jobs {
        write(&mut history, job, end);
    }
    let prometheus = with_history(&programs, &history.text());
    let all: Vec<Dashboard> = { dashboards().into_iter() }
        .filter(Dashboard::of_prefect)
        .collect();
    let look = |dashboard: &Dashboard, job: &str| {
        let mut look = of_deployment(&dashboard.file, "one", "one").with("job", job);
        look.to = Some(end);
        look
    };
    let looks: Vec<Look> = { jobs.iter() }
        .flat_map(|job| all.iter().map(|dashboard| look(dashboard, job)))
        .collect();
    let shown = show(&packages, &prometheus, &looks);
    let mut wrong = Vec::new();
    for (job, shown) in jobs.iter().zip(shown.chunks(all.len())) {
        let dashboards = &all;
        let found = check(job, Case { dashboards, shown });
        wrong.extend(found.into_iter().map(|what| format!("{job}: {what}")));
    }
    none(wrong);
}

const SECTIONS: [&str; 8] = [
    "deployments",
    "flows",
    "work_pools",
    "work_queues",
    "workers",
    "active_runs",
    "scheduled_runs",
    "finished_runs",
];
const PLACE: &str = r#"flow_name="one",deployment_name="one",work_pool_name="one","#;

/// One hour of an agent that reads all sections except `unread`, in a workspace with a deployment,
/// a pool of this type, and a queue.
fn agent(history: &mut History, job: &str, end: u64, unread: &str, pool: &str) {
    let own = format!("instance=\"one\",job={job:?}");
    let span = (end - HOUR, end);
    let mut add = |name: &str, labels: &str, needs: &[&str], value: u64| {
        if !needs.contains(&unread) {
            history.add(name, &format!("{labels}{own}"), span, |_| value);
        }
    };
    add("prefect_up", "", &[], 1);
    for section in SECTIONS {
        let age = if section == unread { 200 } else { 5 };
        let label = format!("section={section:?},");
        add("prefect_agent_section_age_seconds", &label, &[], age);
    }
    let named = ["deployments", "flows"];
    add("prefect_info_deployment", PLACE, &named, 1);
    let label = format!("work_pool_name=\"one\",type={pool:?},is_paused=\"False\",");
    add("prefect_info_work_pools", &label, &["work_pools"], 1);
    let label = r#"work_pool_name="one",work_queue_name="one",healthy="True",is_paused="False","#;
    let needs = ["work_queues", "scheduled_runs"];
    add("prefect_info_work_queues", label, &needs, 1);
}

/// Tiles that are zero, and the sections that this depends on.
const ZERO: [(&str, &str, &[&str]); 9] = [
    ("overview.json", "Late runs", UNFINISHED),
    ("overview.json", "Active runs", UNFINISHED),
    (
        "overview.json",
        "Workers online",
        &["workers", "work_pools", "deployments", "flows"],
    ),
    ("deployment.json", "Late runs", UNFINISHED),
    ("deployment.json", "Active runs", UNFINISHED),
    ("work-pools.json", "Late runs", UNFINISHED),
    (
        "work-pools.json",
        "Workers online",
        &["workers", "work_pools"],
    ),
    (
        "work-pools.json",
        "Unhealthy queues",
        &["work_queues", "scheduled_runs"],
    ),
    (
        "work-pools.json",
        "Paused",
        &["work_pools", "work_queues", "scheduled_runs"],
    ),
];
const UNFINISHED: &[&str] = &["active_runs", "scheduled_runs", "deployments", "flows"];

#[test]
fn a_value_that_depends_on_a_section_is_unknown_while_that_cannot_be_read() {
    let jobs = [&["all"], &SECTIONS[..]].concat();
    let write = |history: &mut History, job: &str, end| agent(history, job, end, job, "process");
    let check = |job: &str, case: Case<'_>| {
        let mut wrong = Vec::new();
        for (file, title, needs) in ZERO {
            let tile = case.tile(file, title);
            let known = !needs.contains(&job);
            let fine = match known {
                true => tile.text == "0",
                false => tile.text == "?" && is_grey(tile.color.as_deref()),
            };
            if !fine {
                wrong.push(format!("{file}: {title} is {:?}", tile.text));
            }
        }
        let next = case.tile("deployment.json", "Next run in").text.as_str();
        let scheduled = ["scheduled_runs", "deployments", "flows"];
        let expected = if scheduled.contains(&job) {
            "?"
        } else {
            "none"
        };
        if next != expected {
            wrong.push(format!("deployment.json: Next run in is {next:?}"));
        }
        // Without these two, there is no row.
        let columns = [
            ("Late", "0", &UNFINISHED[..2]),
            ("Active", "0", &UNFINISHED[..2]),
            ("Next run in", "none", &["scheduled_runs"]),
            ("Last success", "never", &["finished_runs"]),
        ];
        for (name, zero, needs) in columns {
            if ["deployments", "flows"].contains(&job) {
                continue;
            }
            let expected = if needs.contains(&job) { "?" } else { zero };
            let cells = case.column(name);
            if cells != [expected] {
                wrong.push(format!("Deployments: {name} is {cells:?}"));
            }
        }
        wrong
    };
    let test = "a_value_that_depends_on_a_section_is_unknown_while_that_cannot_be_read";
    cases(test, &jobs, write, check);
}

#[test]
fn no_worker_is_bad_only_where_a_pool_needs_one() {
    let types = ["process", "kubernetes", "ecs:push", "prefect:managed"];
    let write = |history: &mut History, job: &str, end| agent(history, job, end, "none", job);
    let check = |job: &str, case: Case<'_>| {
        let mut wrong = Vec::new();
        for file in ["overview.json", "work-pools.json"] {
            let tile = case.tile(file, "Workers online");
            let color = tile.color.as_deref();
            let fine = match job.contains(':') {
                true => tile.text == "?" && is_grey(color),
                false => tile.text == "0" && is_red(color),
            };
            if !fine {
                wrong.push(format!("{file}: {:?} in {color:?}", tile.text));
            }
        }
        wrong
    };
    let test = "no_worker_is_bad_only_where_a_pool_needs_one";
    cases(test, &types, write, check);
}

/// The cases, and whether the tile is red.
const AGENTS: [(&str, bool); 7] = [
    ("one-alive", true),
    ("one-young", true),
    ("one-dead", false),
    ("two-alive", true),
    ("two-one-dead", false),
    ("two-one-replaced", true),
    ("two-both-dead", false),
];

#[test]
fn an_agent_that_stopped_is_shown_although_another_one_is_running() {
    let write = |history: &mut History, job: &str, end: u64| {
        let died = end - 20 * MINUTE;
        let hours = end - 3 * HOUR;
        let spans: &[(u64, u64)] = match job {
            "one-alive" => &[(hours, end)],
            "one-young" => &[(end - MINUTE, end)],
            "one-dead" => &[(hours, died)],
            "two-alive" => &[(hours, end), (hours, end)],
            "two-one-dead" => &[(hours, died), (hours, end)],
            "two-one-replaced" => &[(hours, died), (died + MINUTE, end)],
            _ => &[(hours, died), (hours, died)],
        };
        for (number, span) in spans.iter().enumerate() {
            let labels = format!("job={job:?},instance=\"{number}\"");
            let published = "prefect_agent_last_published_time_seconds";
            history.add(published, &labels, *span, |time| time);
            let labels = format!("{labels},section=\"server\"");
            let age = "prefect_agent_section_age_seconds";
            history.add(age, &labels, *span, |_| 1);
        }
    };
    let check = |job: &str, case: Case<'_>| {
        let (_, alive) = AGENTS.iter().find(|(name, _)| *name == job).unwrap();
        let files = case.dashboards.iter().map(|one| one.file.as_str());
        let tiles = files.map(|file| (file, case.tile(file, "Agent")));
        let wrong = tiles.filter(|(_, tile)| {
            let color = tile.color.as_deref();
            !(if *alive {
                is_green(color)
            } else {
                is_red(color)
            })
        });
        wrong
            .map(|(file, tile)| format!("{file}: {:?} in {:?}", tile.text, tile.color))
            .collect()
    };
    let test = "an_agent_that_stopped_is_shown_although_another_one_is_running";
    let jobs = AGENTS.map(|(job, _)| job);
    cases(test, &jobs, write, check);
}
