//! The parts of Prefect's API that the agent reads, and one small request to each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::STEP;
use crate::core::clock::before;
use crate::core::sections::Section;
use crate::metrics::Options;
use crate::prefect::objects::{Objects, Resource};
use crate::prefect::request::{FlowRunFilter, Order, Page, Range, TaskRunFilter};
use crate::prefect::{Answer, Client, Error, Reply, Request};

const ONE: Page = Page {
    offset: 0,
    limit: 1,
};

/// A part of the API that the agent reads.
pub(super) struct Area {
    pub(super) section: Section,
    request: Request,
    /// A second request that depends on the answer.
    then: fn(&Request, &Answer) -> Option<Request>,
}

/// The result of reading an area.
pub(super) struct Tried {
    pub(super) section: Section,
    pub(super) answer: Result<Reply, Error>,
    /// When the request was sent, and how long it took.
    pub(super) sent: Timestamp,
    pub(super) took: Duration,
}

impl Area {
    fn of(section: Section, request: Request) -> Self {
        Area {
            section,
            request,
            then: |_, _| None,
        }
    }

    /// A list, and its count if the API has one.
    fn list(section: Section, resource: Resource) -> Self {
        let page = ONE;
        Area::of(section, Request::List { resource, page }).then(count_of_a_list)
    }

    fn then(self, then: fn(&Request, &Answer) -> Option<Request>) -> Self {
        Area { then, ..self }
    }

    pub(super) async fn try_it(&self, client: &Client) -> Tried {
        let (began, sent) = (Instant::now(), Timestamp::now());
        let mut answer = bounded(client.execute(&self.request)).await;
        let took = began.elapsed();
        let answered = answer.as_ref().ok();
        let next = answered.and_then(|reply| (self.then)(&self.request, &reply.answer));
        if let Some(request) = next
            && let Err(error) = bounded(client.execute(&request)).await
            // The object may have been deleted since, and not every list can be counted.
            && !error.is_not_found()
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

/// Everything that the agent requests with these settings, with the smallest possible answers.
pub(super) fn areas(options: &Options) -> Vec<Area> {
    let now = Timestamp::now();
    let newest_run = Request::FlowRuns {
        filter: FlowRunFilter::default(),
        order: Order::Id,
        limit: 1,
    };
    let ended = FlowRunFilter {
        end_time: Range::after(now),
        ..FlowRunFilter::default()
    };
    let history = Request::RunHistory {
        since: before(now, Duration::from_secs(60)),
        until: now,
    };
    let tasks = Request::TaskRuns {
        filter: TaskRunFilter {
            end_time: Range::after(now),
            ..TaskRunFilter::default()
        },
        page: ONE,
    };
    let mut areas = vec![
        Area::of(Section::ActiveRuns, newest_run).then(states_of_a_run),
        Area::of(Section::FinishedRuns, Request::CountFlowRuns(ended)),
        Area::list(Section::Deployments, Resource::Deployments),
        Area::list(Section::Flows, Resource::Flows),
        Area::list(Section::WorkPools, Resource::WorkPools),
        Area::list(Section::WorkQueues, Resource::WorkQueues),
        Area::list(Section::Workers, Resource::WorkPools).then(workers_of_a_pool),
        Area::list(Section::ConcurrencyLimits, Resource::GlobalLimits),
        Area::list(Section::ConcurrencyLimits, Resource::TagLimits),
        Area::list(Section::Automations, Resource::Automations),
        Area::of(Section::RunHistory, history),
        Area::of(Section::TaskRuns, tasks),
    ];
    let unused = options.unused_sections();
    // The core lists are always read, because events are derived from them.
    areas.retain(|area| match area.section {
        Section::TaskRuns => options.has_task_runs(),
        section => section.matters() || !unused.contains(&section),
    });
    areas
}

fn count_of_a_list(request: &Request, _: &Answer) -> Option<Request> {
    let Request::List { resource, .. } = request else {
        return None;
    };
    resource.count_path().map(|_| Request::Count(*resource))
}

fn states_of_a_run(_: &Request, answer: &Answer) -> Option<Request> {
    let Answer::FlowRuns(runs) = answer else {
        return None;
    };
    let run = runs.items.first()?;
    Some(Request::FlowRunStates(Arc::clone(&run.id)))
}

fn workers_of_a_pool(_: &Request, answer: &Answer) -> Option<Request> {
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

/// The objects in a section, for messages.
pub(super) fn name(section: Section) -> &'static str {
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

/// The result of a request, within a time limit: the client waits as long as the server's
/// `Retry-After` demands.
pub(super) async fn bounded<T>(
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let result = tokio::time::timeout(STEP, request).await;
    result.unwrap_or(Err(Error::Deadline(STEP)))
}
