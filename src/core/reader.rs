//! Reads the inventory.
//!
//! One entry in `reading` defines how a section is read and where it is stored.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::counters::Place;
use super::inventory::Inventory;
use super::reading::{Both, Context, History, List, Reading};
use super::sections::{Section, Sections};
use super::tags::TagKeys;
use super::tally::{Label, Series};
use super::workers::Workers;
use crate::prefect::objects::{
    Automation, Deployment, Flow, GlobalLimit, Object, TagLimit, WorkPool, WorkQueue, null,
};
use crate::prefect::runs::FlowRun;
use crate::prefect::{Answer, Error, Id, Request};

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
    Box::new(List::new(store))
}

fn values<T>(items: HashMap<Id, T>) -> Arc<Vec<T>> {
    Arc::new(items.into_values().collect())
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
            if waits
                || !context.sections.is_pending(section)
                || !reading.is_done(context, &self.inventory)
            {
                self.readings.push((section, reading));
                continue;
            }
            if let Some(error) = reading.absent() {
                self.not_found.push((section, error.clone()));
                continue;
            }
            complete.push(section);
            reading.store(context, &mut self.inventory);
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
