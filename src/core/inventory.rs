//! The inventory: deployments, flows, work pools, work queues, workers, concurrency limits,
//! automations, run history.
//!
//! One entry in `reading` defines how a section is read and where it is stored.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::clock::before;
use super::counters::Place;
use super::listing::Listing;
use super::sections::{Section, Sections};
use super::tags::TagKeys;
use super::tally::{Label, Series};
use crate::prefect::objects::{
    Automation, Deployment, Flow, GlobalLimit, Object, TagLimit, WorkPool, WorkQueue, Worker, null,
};
use crate::prefect::request::Page;
use crate::prefect::runs::{FlowRun, StateCount};
use crate::prefect::{Answer, Error, Id, Request};

/// Workers without a heartbeat for longer than this are left out, because every start of a process
/// worker creates a new one.
const WORKERS_WITHIN: Duration = Duration::from_secs(86_400);

/// The period that the server's counts of runs cover.
const RUN_HISTORY: Duration = Duration::from_secs(86_400);

/// The objects of the workspace that change rarely.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Deployments by id.
    pub deployments: Arc<HashMap<Id, Deployment>>,
    /// Flows by id.
    pub flows: Arc<HashMap<Id, Flow>>,
    /// Work pools.
    pub work_pools: Arc<Vec<WorkPool>>,
    /// Work queues.
    pub work_queues: Arc<Vec<WorkQueue>>,
    /// Workers that sent a heartbeat within the last day.
    pub workers: Arc<Vec<Worker>>,
    /// Global concurrency limits, which may include tag-based ones as `tag:NAME`.
    pub global_limits: Arc<Vec<GlobalLimit>>,
    /// Tag-based concurrency limits.
    pub tag_limits: Arc<Vec<TagLimit>>,
    /// Automations.
    pub automations: Arc<Vec<Automation>>,
    /// Runs of the last 24 hours by state, as counted by the server.
    pub run_history: Arc<Vec<StateCount>>,
}

impl Inventory {
    /// The number of objects of a section that may have very many. Deployments and flows are read
    /// equally often, since the series of a deployment have the name of its flow.
    pub(super) fn size(&self, section: Section) -> usize {
        match section {
            Section::Deployments | Section::Flows => self.deployments.len().max(self.flows.len()),
            _ => 0,
        }
    }

    /// Whether the flow of a deployment is not known yet.
    pub(super) fn lacks_flow(&self, deployment: &Deployment) -> bool {
        let flow = deployment.flow_id.as_ref();
        flow.is_some_and(|id| !self.flows.contains_key(id))
    }

    /// The name of the flow with this id, as a label.
    pub fn flow_name(&self, id: Option<&Id>) -> Label {
        id.and_then(|id| self.flows.get(id))
            .map_or_else(null, |flow| flow.name.label())
    }

    /// The names of a run's deployment and flow, as labels.
    pub fn names(&self, run: &FlowRun) -> (Label, Label) {
        let deployment = run.deployment_id.as_ref();
        let deployment = deployment.and_then(|id| self.deployments.get(id));
        (
            deployment.map_or_else(null, |deployment| deployment.name.label()),
            self.flow_name(run.flow_id.as_ref()),
        )
    }
}

/// How a section of the inventory is read and where it is stored.
fn reading(section: Section) -> Option<Box<dyn Reading>> {
    Some(match section {
        Section::Deployments => list::<Deployment>(|all, items| all.deployments = Arc::new(items)),
        Section::Flows => list::<Flow>(|all, items| all.flows = Arc::new(items)),
        Section::WorkPools => list::<WorkPool>(|all, items| all.work_pools = values(items)),
        Section::WorkQueues => list::<WorkQueue>(|all, items| all.work_queues = values(items)),
        Section::Workers => Box::new(Workers::default()),
        Section::ConcurrencyLimits => Box::new(Both(
            list::<GlobalLimit>(|all, items| all.global_limits = values(items)),
            list::<TagLimit>(|all, items| all.tag_limits = values(items)),
        )),
        Section::Automations => list::<Automation>(|all, items| all.automations = values(items)),
        Section::RunHistory => Box::new(History::default()),
        _ => return None,
    })
}

fn list<T: Object>(store: fn(&mut Inventory, HashMap<Id, T>)) -> Box<dyn Reading> {
    Box::new(List {
        listing: Listing::default(),
        absent: None,
        store,
    })
}

fn values<T>(items: HashMap<Id, T>) -> Arc<Vec<T>> {
    Arc::new(items.into_values().collect())
}

/// The context of a reading.
pub(super) struct Context<'a> {
    /// The server's time, once it is known.
    pub(super) now: Option<Timestamp>,
    /// The number of objects per page.
    pub(super) limit: usize,
    /// Whether only the first page of each list is read.
    pub(super) first_page_only: bool,
    pub(super) sections: &'a Sections,
}

/// The reading of a section.
trait Reading: Send + Sync + Debug {
    /// The requests to send next.
    fn plan(&self, context: &Context<'_>, inventory: &Inventory) -> Vec<Request>;
    /// Processes an answer.
    fn apply(
        &mut self,
        request: &Request,
        answer: Result<Answer, Error>,
        context: &Context<'_>,
    ) -> Result<(), Error>;
    fn is_done(&self, inventory: &Inventory) -> bool;
    /// The error if the API does not have the section.
    fn absent(&self) -> Option<&Error> {
        None
    }
    /// Stores what was read in the inventory.
    fn store(self: Box<Self>, inventory: &mut Inventory);
}

/// The reading of one list.
#[derive(Debug)]
struct List<T> {
    listing: Listing<T>,
    absent: Option<Error>,
    store: fn(&mut Inventory, HashMap<Id, T>),
}

impl<T: Object> Reading for List<T> {
    fn plan(&self, context: &Context<'_>, _: &Inventory) -> Vec<Request> {
        match self.absent {
            Some(_) => Vec::new(),
            None => self.listing.plan(context.limit),
        }
    }

    fn apply(
        &mut self,
        request: &Request,
        answer: Result<Answer, Error>,
        context: &Context<'_>,
    ) -> Result<(), Error> {
        let result = self.listing.apply(request, answer, context.first_page_only);
        match result {
            Err(error) if error.is_not_found() => {
                self.absent = Some(error);
                Ok(())
            }
            result => result,
        }
    }

    fn is_done(&self, _: &Inventory) -> bool {
        self.absent.is_some() || self.listing.is_done()
    }

    fn absent(&self) -> Option<&Error> {
        self.absent.as_ref()
    }

    fn store(self: Box<Self>, inventory: &mut Inventory) {
        (self.store)(inventory, self.listing.into_items());
    }
}

/// Two lists that form one section.
#[derive(Debug)]
struct Both(Box<dyn Reading>, Box<dyn Reading>);

impl Reading for Both {
    fn plan(&self, context: &Context<'_>, inventory: &Inventory) -> Vec<Request> {
        let mut plan = self.0.plan(context, inventory);
        plan.extend(self.1.plan(context, inventory));
        plan
    }

    fn apply(
        &mut self,
        request: &Request,
        answer: Result<Answer, Error>,
        context: &Context<'_>,
    ) -> Result<(), Error> {
        let of_first = matches!(request, Request::List { resource, .. } | Request::Count(resource)
            if *resource == GlobalLimit::RESOURCE);
        let list = if of_first { &mut self.0 } else { &mut self.1 };
        list.apply(request, answer, context)
    }

    fn is_done(&self, inventory: &Inventory) -> bool {
        self.0.is_done(inventory) && self.1.is_done(inventory)
    }

    fn absent(&self) -> Option<&Error> {
        self.0.absent().and(self.1.absent())
    }

    fn store(self: Box<Self>, inventory: &mut Inventory) {
        self.0.store(inventory);
        self.1.store(inventory);
    }
}

/// The workers of every work pool: one request per pool, once the pools have been read.
#[derive(Debug, Default)]
struct Workers {
    workers: Vec<Worker>,
    /// The ids of the workers read so far.
    seen: HashSet<Id>,
    /// The offset of the next page by pool; `None` once the pool has been read.
    pools: HashMap<Label, Option<usize>>,
    ready: bool,
}

impl Reading for Workers {
    fn plan(&self, context: &Context<'_>, inventory: &Inventory) -> Vec<Request> {
        let Some(now) = context.now else {
            return Vec::new();
        };
        if context.sections.is_pending(Section::WorkPools) {
            return Vec::new();
        }
        let names = inventory
            .work_pools
            .iter()
            .filter_map(|pool| pool.name.value());
        let open = names.filter_map(|name| match self.pools.get(name) {
            None => Some((name, 0)),
            Some(Some(offset)) => Some((name, *offset)),
            Some(None) => None,
        });
        open.map(|(pool, offset)| Request::Workers {
            pool: Arc::clone(pool),
            since: before(now, WORKERS_WITHIN),
            page: Page {
                offset,
                limit: context.limit,
            },
        })
        .collect()
    }

    fn apply(
        &mut self,
        request: &Request,
        answer: Result<Answer, Error>,
        context: &Context<'_>,
    ) -> Result<(), Error> {
        let Request::Workers { pool, page, .. } = request else {
            return Ok(());
        };
        self.ready = true;
        let listed = match answer {
            Ok(Answer::Workers(listed)) => listed,
            Ok(_) => return Ok(()),
            // The pool existed when the pools were read, so it has been deleted since.
            Err(error) if error.is_not_found() && context.sections.has_read(Section::WorkPools) => {
                self.pools.insert(Arc::clone(pool), None);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let seen_before = self.seen.len();
        let ids = listed.items.iter().map(|worker| &worker.id);
        let skipped = listed.skipped.iter().map(|skipped| &skipped.id);
        self.seen.extend(ids.chain(skipped).cloned());
        // A server that ignores the offset would answer with the same page for ever.
        let full = listed.len() >= page.limit && self.seen.len() > seen_before;
        let full = full && !context.first_page_only;
        let next = full.then_some(page.offset.saturating_add(page.limit));
        self.pools.insert(Arc::clone(pool), next);
        self.workers
            .extend(listed.items.into_iter().map(|worker| Worker {
                work_pool_name: crate::prefect::objects::Field::Value(Arc::clone(pool)),
                ..worker
            }));
        Ok(())
    }

    fn is_done(&self, inventory: &Inventory) -> bool {
        let mut names = inventory
            .work_pools
            .iter()
            .filter_map(|pool| pool.name.value());
        (self.ready || inventory.work_pools.is_empty())
            && names.all(|name| matches!(self.pools.get(name), Some(None)))
    }

    fn store(self: Box<Self>, inventory: &mut Inventory) {
        inventory.workers = Arc::new(self.workers);
    }
}

/// The server's counts of runs.
#[derive(Debug, Default)]
struct History {
    counts: Option<Vec<StateCount>>,
    absent: Option<Error>,
}

impl Reading for History {
    fn plan(&self, context: &Context<'_>, _: &Inventory) -> Vec<Request> {
        let until = context
            .now
            .filter(|_| self.counts.is_none() && self.absent.is_none());
        let request = |until| Request::RunHistory {
            since: before(until, RUN_HISTORY),
            until,
        };
        until.map(request).into_iter().collect()
    }

    fn apply(
        &mut self,
        _: &Request,
        answer: Result<Answer, Error>,
        _: &Context<'_>,
    ) -> Result<(), Error> {
        match answer {
            Ok(Answer::RunHistory(counts)) => self.counts = Some(counts),
            Ok(_) => {}
            Err(error) if error.is_not_found() => self.absent = Some(error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn is_done(&self, _: &Inventory) -> bool {
        self.counts.is_some() || self.absent.is_some()
    }

    fn absent(&self) -> Option<&Error> {
        self.absent.as_ref()
    }

    fn store(self: Box<Self>, inventory: &mut Inventory) {
        inventory.run_history = Arc::new(self.counts.unwrap_or_default());
    }
}

/// Reads the inventory, and the deployments and flows that it lacks but runs refer to.
#[derive(Debug, Default)]
pub(super) struct Reader {
    inventory: Inventory,
    readings: Vec<(Section, Box<dyn Reading>)>,
    /// Sections that answered "not found" in this cycle.
    not_found: Vec<(Section, Error)>,
    /// Ids that runs refer to and that the server does not have. They are not requested again.
    gone: HashSet<Id>,
    /// Whether a lookup by id failed in this cycle.
    names_failed: bool,
    tag_keys: TagKeys,
}

/// The names of a run's deployment and flow when it is counted, as labels.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) deployment: Label,
    pub(super) flow: Label,
    /// The values of the deployment's tags, one per key.
    pub(super) tags: Series,
}

impl Reader {
    /// A reader with an empty inventory.
    pub(super) fn new(tag_keys: TagKeys) -> Self {
        Reader {
            tag_keys,
            ..Reader::default()
        }
    }

    /// The inventory as last read.
    pub(super) fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Begins a cycle: sections that are due are read from their first page.
    pub(super) fn begin(&mut self, sections: &Sections) {
        let due = Section::ALL
            .iter()
            .filter(|section| sections.is_pending(**section));
        self.readings = due
            .filter_map(|section| Some((*section, reading(*section)?)))
            .collect();
        self.not_found.clear();
        self.names_failed = false;
    }

    /// Adds a section to those that are read in this cycle.
    pub(super) fn add(&mut self, section: Section) {
        let reading = reading(section).map(|reading| (section, reading));
        self.readings.extend(reading);
    }

    /// The requests to send next.
    pub(super) fn plan(&self, context: &Context<'_>) -> Vec<(Section, Request)> {
        let wanted = |(section, _): &&(Section, _)| context.sections.is_pending(*section);
        let plan = |(section, reading): &(Section, Box<dyn Reading>)| {
            let requests = reading.plan(context, &self.inventory);
            requests
                .into_iter()
                .map(|request| (*section, request))
                .collect::<Vec<_>>()
        };
        self.readings.iter().filter(wanted).flat_map(plan).collect()
    }

    /// Processes an answer. Returns the result of the section's reading, if it has ended.
    pub(super) fn apply(
        &mut self,
        section: Section,
        request: &Request,
        answer: Result<Answer, Error>,
        context: &Context<'_>,
    ) -> Option<Result<(), Error>> {
        let found = self
            .readings
            .iter_mut()
            .find(|(other, _)| *other == section);
        let (_, reading) = found?;
        reading.apply(request, answer, context).err().map(Err)
    }

    /// Stores the sections that have been read completely, and returns them.
    pub(super) fn complete(&mut self, context: &Context<'_>) -> Vec<Section> {
        let mut complete = Vec::new();
        // Workers are requested by work pool, so the pools must be known.
        let pools = context.sections.status(Section::WorkPools);
        let no_pools = pools.is_none_or(|pools| pools.read_at.is_none());
        let no_pools = no_pools || context.sections.is_pending(Section::WorkPools);
        for (section, reading) in std::mem::take(&mut self.readings) {
            let waits = section == Section::Workers && no_pools;
            if waits || !context.sections.is_pending(section) || !reading.is_done(&self.inventory) {
                self.readings.push((section, reading));
                continue;
            }
            if let Some(error) = reading.absent() {
                self.not_found.push((section, error.clone()));
                continue;
            }
            complete.push(section);
            reading.store(&mut self.inventory);
        }
        complete
    }

    /// The sections that the API reported as not found in this cycle.
    pub(super) fn take_not_found(&mut self) -> Vec<(Section, Error)> {
        std::mem::take(&mut self.not_found)
    }

    /// The labels of a deployment.
    pub(super) fn place(&self, deployment: &Deployment) -> Place {
        Place {
            deployment: deployment.name.label(),
            flow: self.inventory.flow_name(deployment.flow_id.as_ref()),
            work_pool: deployment.work_pool_name.label(),
            work_queue: deployment.work_queue_name.label(),
            tags: self.tag_keys.values(Some(deployment)),
        }
    }

    /// The names that a run is counted under; `None` while one of them has not been looked up.
    pub(super) fn names(&self, run: &FlowRun, first_page_only: bool) -> Option<Names> {
        let name = |id: Option<&Id>, known: Option<Label>| match (id, known) {
            (_, Some(name)) => Some(name),
            (None, None) => Some(null()),
            // If only first pages are read, other names are left out on purpose.
            (Some(id), None) => (self.gone.contains(id) || first_page_only).then(null),
        };
        let (deployment, flow) = (run.deployment_id.as_ref(), run.flow_id.as_ref());
        let found = deployment.and_then(|id| self.inventory.deployments.get(id));
        let flow_name = flow.and_then(|id| self.inventory.flows.get(id));
        Some(Names {
            deployment: name(deployment, found.map(|found| found.name.label()))?,
            flow: name(flow, flow_name.map(|found| found.name.label()))?,
            tags: self.tag_keys.values(found),
        })
    }

    /// The requests by id for deployments and flows that `runs` refer to and the inventory lacks.
    pub(super) fn plan_names<'a>(
        &mut self,
        runs: impl Iterator<Item = &'a FlowRun>,
        context: &Context<'_>,
    ) -> Vec<Request> {
        let wanted = |section| context.sections.is_pending(section);
        let reading = wanted(Section::Deployments) || wanted(Section::Flows);
        if context.first_page_only || self.names_failed || reading {
            return Vec::new();
        }
        let (mut deployments, mut flows) = (BTreeSet::new(), BTreeSet::new());
        let mut gone = HashSet::new();
        for run in runs {
            let inventory = &self.inventory;
            let deployment = run.deployment_id.as_ref();
            let deployment = deployment.filter(|id| !inventory.deployments.contains_key(*id));
            let flow = run.flow_id.as_ref();
            let flow = flow.filter(|id| !inventory.flows.contains_key(*id));
            for (id, missing) in [(deployment, &mut deployments), (flow, &mut flows)] {
                let Some(id) = id else { continue };
                match self.gone.contains(id) {
                    true => gone.insert(Arc::clone(id)),
                    false => missing.insert(Arc::clone(id)),
                };
            }
        }
        self.gone = gone;
        let requests = |resource, ids: BTreeSet<Id>| {
            let ids: Vec<Id> = ids.into_iter().collect();
            let chunks = ids.chunks(context.limit.max(1));
            let request = |ids: &[Id]| Request::ByIds {
                resource,
                ids: ids.to_vec(),
            };
            chunks.map(request).collect::<Vec<_>>()
        };
        let mut plan = requests(Deployment::RESOURCE, deployments);
        plan.extend(requests(Flow::RESOURCE, flows));
        plan
    }

    /// Processes the answer to a lookup by id. After a failure, the names are missing for one
    /// cycle.
    pub(super) fn apply_names(&mut self, request: &Request, answer: Result<Answer, Error>) {
        let (Request::ByIds { ids, .. }, Ok(Answer::Objects(objects))) = (request, answer) else {
            self.names_failed = true;
            return;
        };
        // An object that exists but cannot be decoded has no name either.
        self.gone.extend(ids.iter().cloned());
        if let Some(found) = Deployment::of(objects.clone()) {
            insert(&mut self.inventory.deployments, &mut self.gone, found.items);
        } else if let Some(found) = Flow::of(objects) {
            insert(&mut self.inventory.flows, &mut self.gone, found.items);
        }
    }
}

fn insert<T: Object>(into: &mut Arc<HashMap<Id, T>>, gone: &mut HashSet<Id>, found: Vec<T>) {
    for item in &found {
        gone.remove(item.id());
    }
    if !found.is_empty() {
        let found = found.into_iter().map(|item| (Arc::clone(item.id()), item));
        Arc::make_mut(into).extend(found);
    }
}
