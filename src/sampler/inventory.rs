//! The inventory: deployments, flows, work pools and queues, workers, limits, automations.
//! It changes rarely, so it is read on an interval of its own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{OptionFuture, join, join4, try_join, try_join_all};
use serde_json::json;
use tracing::Instrument as _;

use super::{Report, span, within};
use crate::prefect::list::{Order, Resource};
use crate::prefect::{Client, Error, filter};
use crate::snapshot::{
    Automation, Deployment, Flow, FlowRun, GlobalLimit, Section, StateCount, TagLimit, WorkPool,
    WorkQueue, Worker, before, null,
};

/// Workers silent for longer are left out: every start of a process worker makes a new one.
const WORKERS_WITHIN: Duration = Duration::from_secs(86_400);

/// What the server's own counts of runs cover.
const RUN_HISTORY: Duration = Duration::from_secs(86_400);

#[derive(Default)]
pub(super) struct Inventory {
    pub(super) deployments: Arc<HashMap<Arc<str>, Deployment>>,
    pub(super) flows: Arc<HashMap<Arc<str>, Flow>>,
    pub(super) work_pools: Arc<Vec<WorkPool>>,
    pub(super) work_queues: Arc<Vec<WorkQueue>>,
    pub(super) workers: Arc<Vec<Worker>>,
    pub(super) global_limits: Arc<Vec<GlobalLimit>>,
    pub(super) tag_limits: Arc<Vec<TagLimit>>,
    pub(super) automations: Arc<Vec<Automation>>,
    pub(super) run_history: Arc<Vec<StateCount>>,
    /// Since when it is complete; a failure leaves it due.
    complete_at: Option<Instant>,
    /// Ids that runs name and that the server does not have: deleted, so not asked for again.
    gone: HashSet<Arc<str>>,
    /// Sections that nobody shows.
    left_out: Vec<Section>,
}

impl Inventory {
    pub(super) fn new(left_out: Vec<Section>) -> Self {
        Inventory {
            left_out,
            ..Inventory::default()
        }
    }

    /// Whether a section is asked for; those that name others always are.
    pub(super) fn is_wanted(&self, section: Section) -> bool {
        const DETAILS: [Section; 4] = [
            Section::Workers,
            Section::ConcurrencyLimits,
            Section::Automations,
            Section::RunHistory,
        ];
        !(DETAILS.contains(&section) && self.left_out.contains(&section))
    }

    pub(super) fn is_due(&self, interval: Duration) -> bool {
        // A tick comes a little early or late: half a second must not cost a whole interval.
        let slack = Duration::from_millis(500);
        self.complete_at
            .is_none_or(|at| at.elapsed() + slack >= interval)
    }

    /// Reads it, when it is due.
    pub(super) async fn refresh(
        &mut self,
        client: &Client,
        interval: Duration,
        deadline: Duration,
    ) -> Report {
        let mut report = Report::default();
        if !self.is_due(interval) {
            return report;
        }
        let started = Instant::now();
        let (deployments, flows, work_pools, work_queues) = join4(
            all::<Deployment>(client, Section::Deployments, deadline),
            all::<Flow>(client, Section::Flows, deadline),
            all::<WorkPool>(client, Section::WorkPools, deadline),
            all::<WorkQueue>(client, Section::WorkQueues, deadline),
        )
        .await;
        if let Some(deployments) = report.take(Section::Deployments, deployments) {
            self.deployments = Arc::new(by_id(deployments));
        }
        if let Some(flows) = report.take(Section::Flows, flows) {
            self.flows = Arc::new(by_id(flows));
        }
        if let Some(work_pools) = report.take(Section::WorkPools, work_pools) {
            self.work_pools = Arc::new(work_pools);
        }
        if let Some(work_queues) = report.take(Section::WorkQueues, work_queues) {
            self.work_queues = Arc::new(work_queues);
        }
        if report.errors.is_empty() {
            self.complete_at = Some(started);
        }
        // A key may lack the permission for one of them for good: the rest is not read more
        // often for it.
        self.refresh_details(client, deadline, &mut report).await;
        report
    }

    /// What is not needed to name anything, and only read where it is shown.
    async fn refresh_details(&mut self, client: &Client, deadline: Duration, report: &mut Report) {
        let wanted = |section: Section| self.is_wanted(section);
        let pools = Arc::clone(&self.work_pools);
        let (workers, limits, automations, run_history) = join4(
            OptionFuture::from(wanted(Section::Workers).then(|| {
                let workers = within(deadline, workers(client, &pools));
                workers.instrument(span(Section::Workers))
            })),
            OptionFuture::from(wanted(Section::ConcurrencyLimits).then(|| {
                try_join(
                    optional::<GlobalLimit>(client, Section::ConcurrencyLimits, deadline),
                    optional::<TagLimit>(client, Section::ConcurrencyLimits, deadline),
                )
            })),
            OptionFuture::from(
                wanted(Section::Automations)
                    .then(|| optional::<Automation>(client, Section::Automations, deadline)),
            ),
            OptionFuture::from(wanted(Section::RunHistory).then(|| {
                let history = within(deadline, client.run_history(RUN_HISTORY));
                history.instrument(span(Section::RunHistory))
            })),
        )
        .await;
        if let Some(workers) = workers.and_then(|read| report.take(Section::Workers, read)) {
            self.workers = Arc::new(workers);
        }
        if let Some((global, tags)) =
            limits.and_then(|read| report.take(Section::ConcurrencyLimits, read))
        {
            self.global_limits = Arc::new(global);
            self.tag_limits = Arc::new(tags);
        }
        if let Some(read) = automations.and_then(|read| report.take(Section::Automations, read)) {
            self.automations = Arc::new(read);
        }
        if let Some(read) = run_history.and_then(|read| report.take(Section::RunHistory, read)) {
            self.run_history = Arc::new(read);
        }
    }

    /// The names of a run's deployment and flow, as labels; `None` while one of them has not
    /// been looked up.
    pub(super) fn names(&self, client: &Client, run: &FlowRun) -> Option<(Arc<str>, Arc<str>)> {
        let name = |id: Option<&Arc<str>>, known: Option<Arc<str>>| match (id, known) {
            (_, Some(name)) => Some(name),
            (None, None) => Some(null()),
            (Some(id), None) => {
                let settled = self.gone.contains(id) || !client.reads_every_page();
                settled.then(null)
            }
        };
        let (deployment, flow) = (run.deployment_id.as_ref(), run.flow_id.as_ref());
        let deployment_name = deployment.and_then(|id| self.deployments.get(id));
        let flow_name = flow.and_then(|id| self.flows.get(id));
        Some((
            name(deployment, deployment_name.map(|found| found.name.label()))?,
            name(flow, flow_name.map(|found| found.name.label()))?,
        ))
    }

    /// Fetches, by id, the deployments and flows that runs name and the inventory lacks.
    pub(super) async fn fetch_missing(
        &mut self,
        client: &Client,
        deployments: HashSet<Arc<str>>,
        flows: HashSet<Arc<str>>,
        deadline: Duration,
    ) {
        if !client.reads_every_page() {
            // What is left out is left out on purpose.
            return;
        }
        self.gone
            .retain(|id| deployments.contains(id) || flows.contains(id));
        let missing = |named: HashSet<Arc<str>>, known: &dyn Fn(&str) -> bool| -> Vec<Arc<str>> {
            named
                .into_iter()
                .filter(|id| !known(id) && !self.gone.contains(id))
                .collect()
        };
        let deployments = missing(deployments, &|id| self.deployments.contains_key(id));
        let flows = missing(flows, &|id| self.flows.contains_key(id));
        let (found_deployments, found_flows) = join(
            some::<Deployment>(client, "deployments", &deployments, deadline),
            some::<Flow>(client, "flows", &flows, deadline),
        )
        .await;
        // A failure costs names for one cycle; the next one asks again.
        if let Some(found) = found_deployments {
            self.add(&deployments, found, |inventory| &mut inventory.deployments);
        }
        if let Some(found) = found_flows {
            self.add(&flows, found, |inventory| &mut inventory.flows);
        }
    }

    fn add<T: Resource + Clone>(
        &mut self,
        asked: &[Arc<str>],
        found: Vec<T>,
        of: impl Fn(&mut Self) -> &mut Arc<HashMap<Arc<str>, T>>,
    ) {
        let found = by_id(found);
        self.gone
            .extend(asked.iter().filter(|id| !found.contains_key(*id)).cloned());
        if !found.is_empty() {
            Arc::make_mut(of(self)).extend(found);
        }
    }
}

async fn all<T: Resource>(
    client: &Client,
    section: Section,
    deadline: Duration,
) -> Result<Vec<T>, Error> {
    let filter = json!({});
    within(deadline, client.list(&filter, Order::Default))
        .instrument(span(section))
        .await
}

/// The same of something that an older or another API may not have.
async fn optional<T: Resource>(
    client: &Client,
    section: Section,
    deadline: Duration,
) -> Result<Vec<T>, Error> {
    or_none(all(client, section, deadline).await)
}

fn or_none<T>(result: Result<Vec<T>, Error>) -> Result<Vec<T>, Error> {
    match result {
        Err(Error::Status {
            status: 404 | 405, ..
        }) => Ok(Vec::new()),
        result => result,
    }
}

/// The workers of every pool: one request each.
async fn workers(client: &Client, pools: &[WorkPool]) -> Result<Vec<Worker>, Error> {
    let since = before(client.clock().now(), WORKERS_WITHIN);
    let of_pool = |pool: &WorkPool| {
        let name = pool.name.clone();
        async move {
            let Some(pool) = name.value() else {
                return Ok(Vec::new());
            };
            // A pool may be deleted meanwhile.
            let mut workers = or_none(client.workers(pool, since).await)?;
            for worker in &mut workers {
                worker.work_pool_name = name.clone();
            }
            Ok(workers)
        }
    };
    let workers = try_join_all(pools.iter().map(of_pool)).await?;
    Ok(workers.into_iter().flatten().collect())
}

async fn some<T: Resource>(
    client: &Client,
    name: &str,
    ids: &[Arc<str>],
    deadline: Duration,
) -> Option<Vec<T>> {
    let body = |ids: &[Arc<str>]| filter::by_id(name, ids.iter().map(|id| &**id));
    within(deadline, client.by_id(ids, body))
        .await
        .inspect_err(|error| tracing::debug!(%error, name, "unknown ids could not be looked up"))
        .ok()
}

fn by_id<T: Resource>(items: Vec<T>) -> HashMap<Arc<str>, T> {
    items
        .into_iter()
        .map(|item| (Arc::clone(item.id()), item))
        .collect()
}
