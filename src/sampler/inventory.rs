//! The inventory: deployments, flows, work pools, work queues. It changes rarely, so it is
//! read on an interval of its own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join, join4};
use serde_json::json;
use tracing::Instrument as _;

use super::{Report, span, within};
use crate::prefect::list::{Order, Resource};
use crate::prefect::{Client, Error, filter};
use crate::snapshot::{Deployment, Flow, Section, WorkPool, WorkQueue};

#[derive(Default)]
pub(super) struct Inventory {
    pub(super) deployments: Arc<HashMap<Arc<str>, Deployment>>,
    pub(super) flows: Arc<HashMap<Arc<str>, Flow>>,
    pub(super) work_pools: Arc<Vec<WorkPool>>,
    pub(super) work_queues: Arc<Vec<WorkQueue>>,
    /// Since when it is complete; a failure leaves it due.
    complete_at: Option<Instant>,
    /// Ids that runs name and that the server does not have: deleted, so not asked for again.
    gone: HashSet<Arc<str>>,
}

impl Inventory {
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
        report
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
