//! Problems, and what to do about them. The errors are the same as in the log, with their hints.

use std::time::Duration;

use super::format::{error, millis};
use super::journal::{Failing, culprit};
use super::links;
use super::model::{Problem, Section as SectionRow, SectionCondition, Series, Severity};
use super::{Common, Input};
use crate::failure::Failure;
use crate::secrets::without_query;

/// The agent is catching up if it lags behind more than this, as in the alert
/// PrefectAgentCatchingUp.
const CATCHING_UP: Duration = Duration::from_secs(900);

/// The problems, worst first.
pub(super) fn of(
    input: &Input<'_>,
    common: &Common<'_>,
    sections: &[SectionRow],
    series: &[Series],
) -> Vec<Problem> {
    if !input.view.cycles.any() {
        return Vec::new();
    }
    let mut problems = match input.view.snapshot.up {
        false => vec![down(input)],
        true => unread(sections),
    };
    let failing = common.delivered.iter();
    let failing = failing.filter(|exporter| exporter.failing_since.is_some());
    problems.extend(failing.map(|exporter| {
        Problem {
            detail: exporter.last_error.as_ref().map(|(_, reason)| error(reason)),
            since: exporter.failing_since.map(millis),
            ..problem(
                Severity::Warning,
                format!("The exporter {} cannot deliver metrics to {}", exporter.name, without_query(&exporter.target)),
                "Check OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_PROTOCOL, and the receiver itself. The agent pushes again after every cycle, and counters lose nothing.",
                "PrefectAgentExportFailing",
            )
        }
    }));
    problems.extend(unwritten(input));
    problems.extend(not_reloaded(common));
    problems.extend(counted(sections, series));
    problems
}

/// Prefect cannot be read.
fn down(input: &Input<'_>) -> Problem {
    let journal = input.journal;
    if journal.down_since.is_none() {
        let age = input.view.snapshot.age.as_secs();
        return problem(
            Severity::Critical,
            format!("No cycle has ended for {age} s"),
            "Prefect does not answer in time, or the agent does not get enough CPU time. Gauges are withheld until a cycle ends. REQUEST_TIMEOUT_SECONDS limits the duration of a request.",
            "PrefectAgentCyclesStopped",
        );
    }
    let failing = journal.failing.iter();
    let failing = failing.map(|Failing { section, error, .. }| (*section, error));
    let why = culprit(failing);
    let title = match why {
        Some(error) if error.is_not_prefect() => {
            "PREFECT_API_URL does not point to the API of Prefect 3"
        }
        Some(_) => "Prefect cannot be read",
        None => {
            "Prefect answers, but has no list of runs, deployments, flows, work pools or work queues"
        }
    };
    Problem {
        detail: why.map(|why| error(&why.to_string())),
        since: journal.down_since.map(millis),
        ..problem(
            Severity::Critical,
            title.to_owned(),
            "The agent keeps trying. Until it can read Prefect again, gauges are withheld and counters keep their values. Runs that end in the meantime are counted afterwards.",
            "PrefectUnreachable",
        )
    }
}

/// Parts of Prefect cannot be read.
fn unread(sections: &[SectionRow]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for row in sections {
        let (advice, runbook) = match row.state {
            SectionCondition::Absent | SectionCondition::Fresh => continue,
            SectionCondition::Unread if row.error.is_none() => continue,
            SectionCondition::Failing => (
                "Its metrics keep their last values until they are stale, after three intervals.",
                "PrefectAgentPartialCycles",
            ),
            SectionCondition::Stale | SectionCondition::Unread => (
                "Its metrics are withheld until it can be read.",
                "PrefectAgentStale",
            ),
        };
        problems.push(Problem {
            detail: row.error.clone(),
            since: row.failing_since,
            ..problem(
                Severity::Warning,
                format!("The section {} cannot be read", row.section),
                advice,
                runbook,
            )
        });
    }
    problems
}

/// Checkpoints cannot be written.
fn unwritten(input: &Input<'_>) -> Option<Problem> {
    let checkpoints = input.view.checkpoints?;
    let title = "Checkpoints cannot be written".to_owned();
    let advice = "Nothing is lost while the agent runs. After a restart, counters would resume from the previous checkpoint, or start at zero if there is none. Check the disk and the permissions of STATE_DIR.";
    let runbook = "PrefectAgentCheckpointsFailing";
    let failure = checkpoints.failure.as_ref()?;
    Some(failing(failure, title, advice, runbook))
}

/// Files that have been read at the start and cannot be read or used now.
fn not_reloaded(common: &Common<'_>) -> impl Iterator<Item = Problem> {
    let reloads = common.agent.reloads.iter();
    let advice = "The agent uses the previous content. Correct the file; no restart is needed.";
    reloads.filter_map(move |(setting, failure)| {
        let title = format!("{setting}: the file cannot be used");
        let failure = failure.as_ref()?;
        Some(failing(failure, title, advice, "PrefectAgentReloadFailing"))
    })
}

/// Counts and delays that exceed a limit.
fn counted(sections: &[SectionRow], series: &[Series]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let dropped: u64 = series.iter().map(|series| series.dropped).sum();
    if dropped > 0 {
        let metrics = series.iter().filter(|series| series.dropped > 0).count();
        problems.push(problem(
            Severity::Warning,
            format!("{dropped} series of {metrics} metrics are beyond METRICS_CARDINALITY_LIMIT"),
            "They are aggregated into one series per metric, with otel_metric_overflow=\"true\". Raise the limit, or exclude metrics with METRICS_EXCLUDE.",
            "PrefectAgentSeriesDropped",
        ));
    }
    for row in sections.iter().filter(|row| row.skipped_objects > 0) {
        problems.push(problem(
            Severity::Info,
            format!(
                "{} objects of the section {} could not be decoded",
                row.skipped_objects, row.section
            ),
            "They are missing from all metrics. The log has the first of them and the reason.",
            "PrefectAgentObjectsSkipped",
        ));
    }
    let lagging =
        |row: &&SectionRow| row.lag_seconds.unwrap_or_default() > CATCHING_UP.as_secs_f64();
    for row in sections.iter().filter(lagging) {
        let minutes = row.lag_seconds.unwrap_or_default() / 60.0;
        problems.push(problem(
            Severity::Info,
            format!("The section {} is {minutes:.0} min behind", row.section),
            "The agent is reading what happened while it was down, or while Prefect could not be read. Newer runs are not counted yet.",
            "PrefectAgentCatchingUp",
        ));
    }
    problems
}

fn failing(
    failure: &Failure,
    title: String,
    advice: &'static str,
    runbook: &'static str,
) -> Problem {
    Problem {
        detail: Some(error(&failure.reason)),
        since: Some(millis(failure.since)),
        ..problem(Severity::Warning, title, advice, runbook)
    }
}

fn problem(
    severity: Severity,
    title: String,
    advice: &'static str,
    runbook: &'static str,
) -> Problem {
    let path = format!("docs/runbooks/{runbook}.md");
    Problem {
        severity,
        title,
        detail: None,
        since: None,
        advice,
        runbook_url: links::documentation(&path),
        runbook: path,
    }
}
