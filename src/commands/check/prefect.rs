//! Whether Prefect can be read, and all of it.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};

use super::report::{Line, Report};
use super::{PATIENCE, bounded};
use crate::core::sections::Section;
use crate::core::version;
use crate::metrics::Options;
use crate::prefect::objects::{Objects, Resource};
use crate::prefect::request::{FlowRunFilter, Order, Page, Range, TaskRunFilter};
use crate::prefect::{Answer, Client, Error, Reply, Request, RequestObserver, RequestRecord};
use crate::settings::{Prefect, Settings};

/// `Date` has whole seconds, and an answer takes its time.
const SAME_TIME: SignedDuration = SignedDuration::from_secs(3);

const ONE: Page = Page {
    offset: 0,
    limit: 1,
};

const REST: [&str; 4] = ["version", "permissions", "clock", "page size"];

/// Measures nothing.
struct Unobserved;

impl RequestObserver for Unobserved {
    fn on_request(&self, _: &RequestRecord<'_>) {}
}

pub(super) async fn check<W: Write>(settings: &Settings, report: &mut Report<W>) -> io::Result<()> {
    let url = &settings.prefect.api_url;
    let options = match Options::new(settings) {
        Ok(options) => options,
        Err(error) => {
            report.add(Line::fail("settings", error.to_string()))?;
            return skip(report, "Prefect", "the settings cannot be used");
        }
    };
    let short = Prefect {
        max_retries: 0,
        request_timeout: settings.prefect.request_timeout.min(PATIENCE),
        ..settings.prefect.clone()
    };
    let client = match Client::new(&short, Arc::new(Unobserved)) {
        Ok(client) => client,
        Err(error) => {
            report.add(failed("Prefect", &error))?;
            return skip(report, "", CANNOT_BE_READ);
        }
    };
    let (began, sent) = (Instant::now(), Timestamp::now());
    let answer = match bounded(client.execute(&Request::Version)).await {
        Ok(answer) => answer,
        Err(late) => {
            let request = format!("GET {url}/admin/version");
            report.add(Line::fail("Prefect", format!("{request}: {late}")))?;
            return skip(report, "", CANNOT_BE_READ);
        }
    };
    let took = began.elapsed();
    let answer = match answer {
        Err(error) if !is_undecided(&error) => {
            report.add(failed("Prefect", &error))?;
            return skip(report, "", CANNOT_BE_READ);
        }
        answer => answer,
    };
    let areas = areas(settings, &options);
    let results = match bounded(join_all(areas.iter().map(|area| area.try_it(&client)))).await {
        Ok(results) => results,
        Err(late) => {
            report.add(Line::fail("Prefect", format!("{url}: {late}")))?;
            return skip(report, "", CANNOT_BE_READ);
        }
    };
    if let Some(error) = not_prefect(&results) {
        report.add(failed("Prefect", error))?;
        return skip(report, "", CANNOT_BE_READ);
    }
    let name = match answer.as_ref().map(|reply| &reply.answer) {
        Ok(Answer::Version(version)) => format!("Prefect {version}"),
        _ => "an API without a version, such as Prefect Cloud,".to_owned(),
    };
    let milliseconds = took.as_millis();
    let detail = format!("{name} at {url} answers in {milliseconds} ms");
    report.add(Line::ok("Prefect", detail))?;
    if !report.add(version_line(answer.as_ref().ok()))? {
        return skip(report, "version", "this version cannot be read");
    }
    permissions(&results, report)?;
    let dated = answer.ok().and_then(|reply| reply.date);
    let dated = dated.map(|date| (date, sent, took));
    report.add(clock(dated, &results))?;
    report.add(page_size(&client, settings.prefect.pagination_limit).await)?;
    Ok(())
}

const CANNOT_BE_READ: &str = "Prefect cannot be read";

/// Skips what comes after `last`.
fn skip<W: Write>(report: &mut Report<W>, last: &str, since: &str) -> io::Result<()> {
    let position = REST.iter().position(|name| *name == last);
    for name in &REST[position.map_or(0, |position| position + 1)..] {
        report.add(Line::skipped(name, since))?;
    }
    Ok(())
}

fn failed(what: &'static str, error: &Error) -> Line {
    Line::fail(what, error.problem()).hint_if(error.hint())
}

/// Prefect Cloud does not tell its version, and a key may lack the permission: the lists decide.
fn is_undecided(error: &Error) -> bool {
    matches!(
        error,
        Error::Status {
            status: 403..=405,
            ..
        }
    )
}

/// A part of the API that the agent reads.
struct Area {
    section: Section,
    request: Request,
    /// Asked next, of an object in the answer.
    then: Option<fn(&Answer) -> Option<Request>>,
}

/// How reading it went.
struct Tried {
    section: Section,
    answer: Result<Reply, Error>,
    /// When it was asked, and how long that took.
    sent: Timestamp,
    took: Duration,
}

impl Area {
    async fn try_it(&self, client: &Client) -> Tried {
        let (began, sent) = (Instant::now(), Timestamp::now());
        let mut answer = client.execute(&self.request).await;
        let took = began.elapsed();
        let answered = answer.as_ref().ok().map(|reply| &reply.answer);
        let next = self
            .then
            .zip(answered)
            .and_then(|(then, answer)| then(answer));
        if let Some(request) = next
            && let Err(error) = client.execute(&request).await
        {
            answer = Err(error);
        }
        Tried {
            section: self.section,
            answer,
            sent,
            took,
        }
    }
}

/// Everything that the agent asks with these settings, as small as can be.
fn areas(settings: &Settings, options: &Options) -> Vec<Area> {
    let now = Timestamp::now();
    let list = |section, resource| Area {
        section,
        request: Request::List {
            resource,
            page: ONE,
        },
        then: None,
    };
    let counted = |section, resource, then| Area {
        then: Some(then),
        ..list(section, resource)
    };
    let single = |section, request| Area {
        section,
        request,
        then: None,
    };
    let ended = FlowRunFilter {
        end_time: Range::after(now),
        ..FlowRunFilter::default()
    };
    let newest_run = Request::FlowRuns {
        filter: FlowRunFilter::default(),
        order: Order::Id,
        limit: 1,
    };
    let mut areas = vec![
        Area {
            section: Section::ActiveRuns,
            request: newest_run,
            then: Some(states_of_a_run),
        },
        single(Section::FinishedRuns, Request::CountFlowRuns(ended)),
        counted(Section::Deployments, Resource::Deployments, |_| {
            Some(Request::Count(Resource::Deployments))
        }),
        counted(Section::Flows, Resource::Flows, |_| {
            Some(Request::Count(Resource::Flows))
        }),
        counted(Section::WorkPools, Resource::WorkPools, |_| {
            Some(Request::Count(Resource::WorkPools))
        }),
        list(Section::WorkQueues, Resource::WorkQueues),
        Area {
            section: Section::Workers,
            then: Some(workers_of_a_pool),
            ..list(Section::Workers, Resource::WorkPools)
        },
        list(Section::ConcurrencyLimits, Resource::GlobalLimits),
        list(Section::ConcurrencyLimits, Resource::TagLimits),
        counted(Section::Automations, Resource::Automations, |_| {
            Some(Request::Count(Resource::Automations))
        }),
        single(
            Section::RunHistory,
            Request::RunHistory {
                since: now - SignedDuration::from_secs(60),
                until: now,
            },
        ),
    ];
    if settings.sampling.task_runs {
        let filter = TaskRunFilter {
            end_time: Range::after(now),
            ..TaskRunFilter::default()
        };
        let request = Request::TaskRuns { filter, page: ONE };
        areas.push(single(Section::TaskRuns, request));
    }
    let unused = options.unused_sections();
    // Flow runs are read in any case: events come from them.
    areas.retain(|area| area.section.matters() || !unused.contains(&area.section));
    areas
}

fn states_of_a_run(answer: &Answer) -> Option<Request> {
    let Answer::FlowRuns(runs) = answer else {
        return None;
    };
    let run = runs.items.first()?;
    Some(Request::FlowRunStates(Arc::clone(&run.id)))
}

fn workers_of_a_pool(answer: &Answer) -> Option<Request> {
    let Answer::Objects(Objects::WorkPools(pools)) = answer else {
        return None;
    };
    let pool = pools.items.first()?.name.value()?;
    Some(Request::Workers {
        pool: Arc::clone(pool),
        since: Timestamp::now(),
        page: ONE,
    })
}

/// Why none of the lists that every server has can be read.
fn not_prefect(results: &[Tried]) -> Option<&Error> {
    let lists = results.iter().filter(|tried| tried.section.matters());
    let errors: Option<Vec<_>> = lists.map(|tried| tried.answer.as_ref().err()).collect();
    let errors = errors?;
    let wrong = |error: &&&Error| error.is_not_prefect() || error.concerns_whole_server();
    errors.iter().find(wrong).copied()
}

fn version_line(reply: Option<&Reply>) -> Line {
    let Some(Answer::Version(text)) = reply.map(|reply| &reply.answer) else {
        return Line::ok(
            "version",
            "not reported; Prefect Cloud is always recent enough",
        );
    };
    if let Some(error) = version::unsupported(text) {
        return failed("version", &error);
    }
    let missing = version::missing(text);
    match missing.is_empty() {
        true => Line::ok(
            "version",
            format!("{text} has everything that the agent reads"),
        ),
        false => Line::warn("version", format!("{text} lacks {}", missing.join("; ")))
            .hint("the other metrics are complete"),
    }
}

fn permissions<W: Write>(results: &[Tried], report: &mut Report<W>) -> io::Result<()> {
    let mut readable = Vec::new();
    for tried in results {
        let name = name(tried.section);
        match &tried.answer {
            Ok(_) => readable.push(name),
            // An older server; the agent leaves out what it would tell.
            Err(error) if error.is_not_found() && !tried.section.matters() => {
                let detail = format!("{}: this server does not have them", name);
                report.add(Line::warn("permissions", detail).hint(error.problem()))?;
            }
            // Before 3.6.22 without this filter: the agent does without it.
            Err(error) if error.is_refused() && tried.section == Section::TaskRuns => {
                readable.push(name);
            }
            Err(error @ Error::Status { status: 403, .. }) => {
                let detail = format!("{name}: {}", error.problem());
                let hint = format!(
                    "the key needs the permission to view {name}; in Prefect Cloud, the workspace role Viewer has it"
                );
                report.add(Line::fail("permissions", detail).hint(hint))?;
            }
            Err(error) => {
                let detail = format!("{name}: {}", error.problem());
                report.add(Line::fail("permissions", detail).hint_if(error.hint()))?;
            }
        }
    }
    readable.dedup();
    if !readable.is_empty() {
        let detail = format!("can read {}", readable.join(", "));
        report.add(Line::ok("permissions", detail))?;
    }
    Ok(())
}

fn name(section: Section) -> &'static str {
    match section {
        Section::ActiveRuns
        | Section::ScheduledRuns
        | Section::FinishedRuns
        | Section::FailedRuns => "flow runs",
        Section::Server => "the version",
        Section::Deployments => "deployments",
        Section::Flows => "flows",
        Section::WorkPools => "work pools",
        Section::WorkQueues => "work queues",
        Section::Workers => "workers",
        Section::ConcurrencyLimits => "concurrency limits",
        Section::Automations => "automations",
        Section::RunHistory => "the run history",
        Section::TaskRuns => "task runs",
    }
}

/// Compares the server's clock with this machine's, by an answer that has a date.
fn clock(dated: Option<(Timestamp, Timestamp, Duration)>, results: &[Tried]) -> Line {
    let mut others = results.iter().filter_map(|tried| {
        let date = tried.answer.as_ref().ok()?.date?;
        Some((date, tried.sent, tried.took))
    });
    let Some((date, sent, took)) = dated.or_else(|| others.next()) else {
        return Line::ok(
            "clock",
            "the server does not report its time; this machine's is used",
        );
    };
    let ahead = date.duration_since(sent) - SignedDuration::try_from(took / 2).unwrap_or_default();
    if ahead.abs() <= SAME_TIME + SignedDuration::try_from(took).unwrap_or_default() {
        return Line::ok("clock", "the server's clock agrees with this machine's");
    }
    let (seconds, side) = (
        ahead.abs().as_secs(),
        if ahead.is_positive() {
            "ahead of"
        } else {
            "behind"
        },
    );
    let detail = format!("the server's clock is {seconds} s {side} this machine's");
    Line::warn("clock", detail).hint("the agent follows the server's clock, but points have the time of this machine: synchronize both clocks (NTP)")
}

async fn page_size(client: &Client, wanted: usize) -> Line {
    // No run has none of these ids: an empty page, whatever its limit.
    let request = Request::FlowRuns {
        filter: FlowRunFilter::of_ids([]),
        order: Order::Id,
        limit: wanted,
    };
    let answer = match bounded(client.execute(&request)).await {
        Ok(answer) => answer,
        Err(late) => return Line::fail("page size", late),
    };
    match answer {
        Ok(_) => Line::ok("page size", format!("{wanted} objects per page")),
        Err(error) => match error.page_limit() {
            Some(limit) => {
                let detail = format!(
                    "the server allows {limit} objects per page, less than PAGINATION_LIMIT ({wanted}); the agent uses {limit}"
                );
                Line::ok("page size", detail)
            }
            None => failed("page size", &error),
        },
    }
}
