//! Reads the workers of all work pools: one request per pool, since the API has no common list.
//!
//! A pool has the status NOT_READY until one of its workers sends a heartbeat
//! (`models/workers.py` `record_worker_heartbeat`), which also changes its time of the last update.
//! Until then, a pool without workers has none, and is not asked for them again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::clock::before;
use super::inventory::{Inventory, Vacant};
use super::reading::{Context, Reading};
use super::sections::Section;
use super::tally::Label;
use crate::prefect::objects::{Field, WorkPool, Worker};
use crate::prefect::request::Page;
use crate::prefect::{Answer, Error, Id, Request};

/// Workers without a heartbeat for longer than this are left out, because every start of a process
/// worker creates a new one.
const WITHIN: Duration = Duration::from_secs(86_400);

/// How often a pool that had no workers is asked again, regardless of its status.
const AGAIN: Duration = Duration::from_secs(3600);

/// The reading of the workers, which begins once the pools have been read.
#[derive(Debug, Default)]
pub(super) struct Workers {
    workers: Vec<Worker>,
    /// The ids of the workers read so far.
    seen: HashSet<Id>,
    /// The offset of the next page by pool; `None` once the pool has been read.
    pools: HashMap<Label, Option<usize>>,
}

impl Reading for Workers {
    fn plan(&self, context: &Context<'_>, inventory: &Inventory) -> Vec<Request> {
        let Some(now) = context.now else {
            return Vec::new();
        };
        if context.sections.is_pending(Section::WorkPools) {
            return Vec::new();
        }
        let open = wanted(context, inventory).filter_map(|(_, name)| match self.pools.get(name) {
            None => Some((name, 0)),
            Some(Some(offset)) => Some((name, *offset)),
            Some(None) => None,
        });
        open.map(|(pool, offset)| Request::Workers {
            pool: Arc::clone(pool),
            since: before(now, WITHIN),
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
                work_pool_name: Field::Value(Arc::clone(pool)),
                ..worker
            }));
        Ok(())
    }

    fn is_done(&self, context: &Context<'_>, inventory: &Inventory) -> bool {
        let mut wanted = wanted(context, inventory);
        wanted.all(|(_, name)| matches!(self.pools.get(name), Some(None)))
    }

    fn store(self: Box<Self>, context: &Context<'_>, inventory: &mut Inventory) {
        let now = context.now.unwrap_or(Timestamp::MAX);
        let mut vacant = HashMap::new();
        for (pool, name) in named(inventory) {
            let found = match self.pools.contains_key(name) {
                true => self.vacant(pool, now),
                false => inventory.vacant.get(&pool.id).cloned(),
            };
            vacant.extend(found.map(|found| (Arc::clone(&pool.id), found)));
        }
        inventory.workers = Arc::new(self.workers);
        inventory.vacant = Arc::new(vacant);
    }
}

impl Workers {
    /// The pool as it was read, if it has no workers.
    fn vacant(&self, pool: &WorkPool, now: Timestamp) -> Option<Vacant> {
        let of_pool = |worker: &Worker| worker.work_pool_name.value() == pool.name.value();
        let is_vacant = is_not_ready(pool) && !self.workers.iter().any(of_pool);
        let updated = pool.updated.filter(|_| is_vacant)?;
        Some(Vacant { updated, read: now })
    }
}

/// The pools with a name.
fn named(inventory: &Inventory) -> impl Iterator<Item = (&WorkPool, &Label)> {
    let pools = inventory.work_pools.iter();
    pools.filter_map(|pool| Some((pool, pool.name.value()?)))
}

/// The pools whose workers are to be read, with their names.
fn wanted<'a>(
    context: &'a Context<'_>,
    inventory: &'a Inventory,
) -> impl Iterator<Item = (&'a WorkPool, &'a Label)> {
    let is_known = context.sections.has_read(Section::WorkPools);
    let same = move |pool: &WorkPool| {
        let vacant = inventory.vacant.get(&pool.id);
        let (Some(vacant), Some(now)) = (vacant.filter(|_| is_known), context.now) else {
            return false;
        };
        let age = Duration::try_from(now.duration_since(vacant.read));
        let is_recent = age.is_ok_and(|age| age < AGAIN);
        is_not_ready(pool) && pool.updated == Some(vacant.updated) && is_recent
    };
    named(inventory).filter(move |(pool, _)| !same(pool))
}

fn is_not_ready(pool: &WorkPool) -> bool {
    pool.status
        .value()
        .is_some_and(|status| **status == *"NOT_READY")
}
