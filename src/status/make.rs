//! Builds the fields of `/status` from the published data.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use super::format::{error, millis, name, seconds};
use super::journal::{Call, Journal, Requests as Counted, WINDOW};
use super::model::{
    Agent, Bar, Condition, Cycles, Exporter, FlowRuns, Links, Prefect, Pushes, Requests,
    Section as SectionRow, SectionCondition, Series, Severity, State, States, Status, Workspace,
};
use super::{Common, Input, Writer, deployments, links, problems};
use crate::core::Outcome;
use crate::core::clock::before;
use crate::core::sections::Section;
use crate::core::snapshot::{SectionState, Snapshot};
use crate::export::Delivered;
use crate::metrics::agent::SERIES_DROPPED;
use crate::metrics::{Reading, View};
use crate::prefect::objects::Worker;
use crate::prefect::runs::{FlowRun, StateType};
use crate::secrets::without_query;

/// Maximum number of states in a list.
const STATES: usize = 20;

const UNFINISHED: &[Section] = &[Section::ActiveRuns, Section::ScheduledRuns];

impl Writer {
    pub(super) fn make(&self, input: &Input<'_>, common: &Common<'_>) -> Status {
        let Input {
            source,
            view,
            journal,
        } = input;
        let Common {
            agent,
            readings,
            delivered,
        } = common;
        let snapshot = view.snapshot;
        let published = Timestamp::try_from(agent.published).unwrap_or_default();
        let sections = sections(snapshot, journal);
        let series = series(readings);
        let problems = problems::of(input, common, &sections, &series);
        let worst = |severity| problems.iter().any(|problem| problem.severity == severity);
        let status = match () {
            () if !view.cycles.any() => Condition::Starting,
            () if worst(Severity::Critical) => Condition::Down,
            () if worst(Severity::Warning) => Condition::Degraded,
            () => Condition::Healthy,
        };
        let uptime = agent.started.elapsed();
        Status {
            status,
            published: millis(published),
            name: source.name.clone(),
            workspaces: Vec::new(),
            agent: Agent {
                version: env!("CARGO_PKG_VERSION"),
                started: millis(before(published, uptime)),
                uptime_seconds: seconds(uptime),
                sample_interval_seconds: seconds(self.interval),
                inventory_interval_seconds: seconds(self.inventory_interval),
                cpu_seconds: agent.process.map(|process| process.cpu_seconds),
                memory_bytes: agent.process.map(|process| process.memory_bytes),
            },
            prefect: Prefect {
                api_url: source.api_url.clone(),
                version: snapshot.version.as_deref().map(name),
                up: snapshot.up,
                down_since: journal.down_since.map(millis),
                time: millis(snapshot.now),
            },
            workspace: workspace(snapshot),
            cycles: cycles(view, journal, published),
            flow_runs: flow_runs(snapshot),
            deployments: deployments::troubled(view, &source.ui),
            requests: requests(journal),
            exporters: delivered.iter().map(exporter).collect(),
            links: Links {
                prefect: source.ui.home(),
                metrics: self.serves_metrics.then_some("/metrics"),
                documentation: links::documentation("README.md"),
            },
            problems,
            sections,
            series,
        }
    }
}

fn sections(snapshot: &Snapshot, journal: &Journal) -> Vec<SectionRow> {
    let enabled = Section::ALL.iter();
    let enabled = enabled.filter_map(|section| Some((*section, snapshot.sections.get(section)?)));
    let row = |(section, state): (Section, &SectionState)| {
        let mut failing = journal.failing.iter();
        let failing = failing.find(|failing| failing.section == section);
        let freshness = state.freshness;
        SectionRow {
            section: section.as_str(),
            state: match () {
                () if state.absent => SectionCondition::Absent,
                // Stale, but not because of its age: it has never been read.
                () if freshness.stale && freshness.age <= state.stale_after => {
                    SectionCondition::Unread
                }
                () if freshness.stale => SectionCondition::Stale,
                () if failing.is_some() => SectionCondition::Failing,
                () => SectionCondition::Fresh,
            },
            age_seconds: seconds(freshness.age),
            stale_after_seconds: seconds(state.stale_after),
            lag_seconds: state.lag.map(seconds),
            errors: state.errors,
            skipped_objects: state.skipped,
            failing_since: failing.map(|failing| millis(failing.since)),
            error: failing.map(|failing| error(&failing.error.to_string())),
        }
    };
    enabled.map(row).collect()
}

fn workspace(snapshot: &Snapshot) -> Workspace {
    let of =
        |sections: &[Section], count: &dyn Fn() -> usize| snapshot.is_fresh(sections).then(count);
    let inventory = &snapshot.inventory;
    let online = || {
        let online = |worker: &&Worker| &*worker.status.label() == "ONLINE";
        inventory.workers.iter().filter(online).count()
    };
    let active = |run: &&Arc<FlowRun>| {
        let state = run.state_type;
        state.is_some_and(|state| StateType::ACTIVE.contains(&state)) || run.start_time.is_some()
    };
    let late = || {
        snapshot
            .unfinished
            .iter()
            .filter(|run| run.is_late())
            .count()
    };
    Workspace {
        deployments: of(&[Section::Deployments], &|| inventory.deployments.len()),
        flows: of(&[Section::Flows], &|| inventory.flows.len()),
        work_pools: of(&[Section::WorkPools], &|| inventory.work_pools.len()),
        work_queues: of(&[Section::WorkQueues], &|| inventory.work_queues.len()),
        workers_online: of(&[Section::Workers], &online),
        workers: of(&[Section::Workers], &|| inventory.workers.len()),
        active_runs: of(UNFINISHED, &|| {
            snapshot.unfinished.iter().filter(active).count()
        }),
        late_runs: of(&[Section::ScheduledRuns], &late),
    }
}

fn cycles(view: &View<'_>, journal: &Journal, published: Timestamp) -> Cycles {
    let counts = view.cycles;
    let since = before(published, WINDOW);
    let bars = journal.bars.iter().filter(|bar| bar.ended >= since);
    Cycles {
        success: counts.of(Outcome::Success),
        partial: counts.of(Outcome::Partial),
        failure: counts.of(Outcome::Failure),
        entry_seconds: seconds(journal.bar_length()),
        last_hour: bars
            .map(|bar| Bar {
                ended: millis(bar.ended),
                success: bar.counts.of(Outcome::Success),
                partial: bar.counts.of(Outcome::Partial),
                failure: bar.counts.of(Outcome::Failure),
                duration_seconds: seconds(bar.duration),
            })
            .collect(),
    }
}

fn flow_runs(snapshot: &Snapshot) -> FlowRuns {
    let unfinished = snapshot.is_fresh(UNFINISHED).then(|| {
        let runs = snapshot.unfinished.iter();
        states(runs.map(|run| (run.state_type, run.state_name.label(), 1)))
    });
    let last_24_hours = snapshot.is_fresh(&[Section::RunHistory]).then(|| {
        let counts = snapshot.inventory.run_history.iter();
        states(counts.map(|count| (count.state_type, count.state_name.label(), count.count_runs)))
    });
    FlowRuns {
        unfinished,
        last_24_hours,
    }
}

/// The sum of numbers from a server, which may be any.
fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

/// Runs by state, in descending order of their number.
fn states(runs: impl Iterator<Item = (Option<StateType>, Arc<str>, u64)>) -> States {
    let mut counts: BTreeMap<_, u64> = BTreeMap::new();
    for (kind, name, count) in runs {
        let known = counts.entry((kind, name)).or_default();
        *known = known.saturating_add(count);
    }
    let mut counts: Vec<_> = counts.into_iter().filter(|(_, runs)| *runs > 0).collect();
    counts.sort_by_key(|(_, runs)| Reverse(*runs));
    let left_out = counts.split_off(counts.len().min(STATES));
    let state = |((kind, state_name), runs): ((Option<StateType>, _), u64)| State {
        state_type: kind.map_or("null", StateType::as_str),
        state_name: name(&state_name),
        runs,
    };
    States {
        states: counts.into_iter().map(state).collect(),
        omitted_states: left_out.len(),
        omitted_runs: sum(left_out.iter().map(|(_, runs)| *runs)),
    }
}

fn requests(journal: &Journal) -> Vec<Requests> {
    let row = |((method, path), requests): (&Call, &Counted)| {
        let last = requests.last_error.clone();
        Requests {
            method: method.clone(),
            path: path.clone(),
            requests: requests.count,
            errors: requests.errors,
            mean_seconds: seconds(requests.duration.div_f64(requests.count.max(1) as f64)),
            last_error_time: last.as_ref().map(|(time, _)| millis(*time)),
            last_error: last.map(|(_, kind)| kind),
        }
    };
    let mut rows: Vec<_> = journal.calls.iter().map(row).collect();
    rows.sort_by_key(|row| Reverse(row.requests));
    rows
}

fn exporter(delivered: &Delivered) -> Exporter {
    let pushes = delivered.pushes.map(|[success, failure, skipped]| Pushes {
        success,
        failure,
        skipped,
    });
    let last_error = delivered.last_error.as_ref();
    Exporter {
        exporter: delivered.name,
        target: without_query(&delivered.target).to_owned(),
        failing: delivered.failing_since.is_some(),
        pushes,
        last_success: delivered.last_success.map(millis),
        last_error_time: last_error.map(|(time, _)| millis(*time)),
        last_error: last_error.map(|(_, reason)| error(reason)),
    }
}

fn series(readings: &[Reading]) -> Vec<Series> {
    let beyond = readings.iter();
    let beyond = beyond.filter(|reading| reading.family.name == SERIES_DROPPED.name);
    let dropped: HashMap<String, f64> = beyond
        .flat_map(|reading| reading.points.iter())
        .filter_map(|point| Some((point.attributes.first()?.value.to_string(), point.value)))
        .collect();
    let of = |reading: &Reading| Series {
        metric: reading.family.prometheus_name(),
        series: reading.points.len(),
        dropped: dropped
            .get(reading.family.name)
            .map_or(0, |dropped| *dropped as u64),
    };
    readings.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_beyond_the_range_are_the_largest_number() {
        let twice = [(None, Arc::from("a"), u64::MAX), (None, Arc::from("a"), 1)];
        let shown = states(twice.into_iter());
        assert_eq!(shown.states.first().map(|state| state.runs), Some(u64::MAX));
        let many = (0..STATES + 3).map(|name| (None, Arc::from(name.to_string()), u64::MAX));
        let shown = states(many);
        assert_eq!((shown.omitted_states, shown.omitted_runs), (3, u64::MAX));
    }
}
