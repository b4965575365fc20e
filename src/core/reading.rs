//! How one section of the inventory is read.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::clock::before;
use super::inventory::Inventory;
use super::listing::Listing;
use super::sections::Sections;
use crate::prefect::objects::{GlobalLimit, Object};
use crate::prefect::runs::StateCount;
use crate::prefect::{Answer, Error, Id, Request};

/// The period that the server's counts of runs cover.
const RUN_HISTORY: Duration = Duration::from_secs(86_400);

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
pub(super) trait Reading: Send + Sync + Debug {
    /// The requests to send next.
    fn plan(&self, context: &Context<'_>, inventory: &Inventory) -> Vec<Request>;
    /// Processes an answer.
    fn apply(
        &mut self,
        request: &Request,
        answer: Result<Answer, Error>,
        context: &Context<'_>,
    ) -> Result<(), Error>;
    /// Whether nothing is left to be read.
    fn is_done(&self, context: &Context<'_>, inventory: &Inventory) -> bool;
    /// The error if the API does not have the section.
    fn absent(&self) -> Option<&Error> {
        None
    }
    /// Stores what was read in the inventory.
    fn store(self: Box<Self>, context: &Context<'_>, inventory: &mut Inventory);
}

/// The reading of one list.
#[derive(Debug)]
pub(super) struct List<T> {
    listing: Listing<T>,
    absent: Option<Error>,
    store: fn(&mut Inventory, HashMap<Id, T>),
}

impl<T: Object> List<T> {
    /// A reading that `store`s the objects by their ids.
    pub(super) fn new(store: fn(&mut Inventory, HashMap<Id, T>)) -> Self {
        List {
            listing: Listing::default(),
            absent: None,
            store,
        }
    }
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

    fn is_done(&self, _: &Context<'_>, _: &Inventory) -> bool {
        self.absent.is_some() || self.listing.is_done()
    }

    fn absent(&self) -> Option<&Error> {
        self.absent.as_ref()
    }

    fn store(self: Box<Self>, _: &Context<'_>, inventory: &mut Inventory) {
        (self.store)(inventory, self.listing.into_items());
    }
}

/// Two lists that form one section.
#[derive(Debug)]
pub(super) struct Both(pub(super) Box<dyn Reading>, pub(super) Box<dyn Reading>);

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

    fn is_done(&self, context: &Context<'_>, inventory: &Inventory) -> bool {
        self.0.is_done(context, inventory) && self.1.is_done(context, inventory)
    }

    fn absent(&self) -> Option<&Error> {
        self.0.absent().and(self.1.absent())
    }

    fn store(self: Box<Self>, context: &Context<'_>, inventory: &mut Inventory) {
        self.0.store(context, inventory);
        self.1.store(context, inventory);
    }
}
/// The server's counts of runs.
#[derive(Debug, Default)]
pub(super) struct History {
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

    fn is_done(&self, _: &Context<'_>, _: &Inventory) -> bool {
        self.counts.is_some() || self.absent.is_some()
    }

    fn absent(&self) -> Option<&Error> {
        self.absent.as_ref()
    }

    fn store(self: Box<Self>, _: &Context<'_>, inventory: &mut Inventory) {
        inventory.run_history = Arc::new(self.counts.unwrap_or_default());
    }
}
