//! Reads a complete list of objects by offset, since these lists have no key to resume from.
//!
//! After a full first page, the objects are counted, so that the other pages can be requested
//! concurrently and none of them is empty. An object that moves while pages are read may be seen
//! twice and is kept once. If fewer distinct objects were seen than counted, the list is read
//! again.
//!
//! Whatever the server answers, the number of requests and of objects is bounded: a page without
//! another object ends the list, and so does its size.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::prefect::objects::{Object, Objects};
use crate::prefect::request::Page;
use crate::prefect::{Answer, Error, Id, Request};

/// A list is read again at most this many times.
const MOST_REREADS: u32 = 2;

/// More objects are not plausible, and not read: a workspace has some thousands of each kind.
const MOST_OBJECTS: usize = 500_000;

/// How many pages are requested concurrently.
const CONCURRENT_PAGES: usize = 32;

/// Reads the list of `T`.
#[derive(Debug)]
pub(super) struct Listing<T> {
    items: HashMap<Id, T>,
    /// The distinct objects seen, decodable or not.
    seen: HashSet<Id>,
    /// Those seen since the list was last read from its beginning.
    seen_this_time: HashSet<Id>,
    stage: Stage,
    rereads: u32,
}

#[derive(Debug)]
enum Stage {
    /// The first page.
    First,
    /// The number of objects, after a full first page of this length.
    Count(usize),
    /// The pages at these offsets, of a list with this many objects.
    Offsets(Vec<usize>, usize),
    /// Page by page until one is not full.
    UntilShort(usize),
    Done,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Listing {
            items: HashMap::new(),
            seen: HashSet::new(),
            seen_this_time: HashSet::new(),
            stage: Stage::First,
            rereads: 0,
        }
    }
}

impl<T: Object> Listing<T> {
    /// The requests to send next; none once the list is complete.
    pub(super) fn plan(&self, limit: usize) -> Vec<Request> {
        let page = |offset: usize| Request::List {
            resource: T::RESOURCE,
            page: Page { offset, limit },
        };
        match &self.stage {
            Stage::First => vec![page(0)],
            Stage::Count(_) => vec![Request::Count(T::RESOURCE)],
            Stage::Offsets(offsets, _) => {
                let offsets = offsets.iter().take(CONCURRENT_PAGES);
                offsets.map(|offset| page(*offset)).collect()
            }
            Stage::UntilShort(offset) => vec![page(*offset)],
            Stage::Done => Vec::new(),
        }
    }

    /// Processes an answer. With `first_page_only`, no other page is read.
    ///
    /// # Errors
    ///
    /// If the answer is an error. What was read so far is kept.
    pub(super) fn apply(
        &mut self,
        request: &Request,
        answer: Result<Answer, Error>,
        first_page_only: bool,
    ) -> Result<(), Error> {
        match (request, answer) {
            (Request::List { page, .. }, Ok(Answer::Objects(objects))) => {
                self.page(*page, objects, first_page_only);
                Ok(())
            }
            (_, Ok(Answer::Count(count))) => {
                self.counted(count);
                Ok(())
            }
            // The API does not have the count.
            (Request::Count(_), Err(error)) if error.is_not_found() => {
                if let Stage::Count(limit) = self.stage {
                    self.stage = Stage::UntilShort(limit);
                }
                Ok(())
            }
            (_, Err(error)) => Err(error),
            (_, Ok(_)) => Ok(()),
        }
    }

    /// Whether the list is complete.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// The objects by id.
    pub(super) fn into_items(self) -> HashMap<Id, T> {
        self.items
    }

    fn page(&mut self, page: Page, objects: Objects, first_page_only: bool) {
        let Some(listed) = T::of(objects) else { return };
        let full = listed.len() >= page.limit;
        let seen_before = self.seen_this_time.len();
        let skipped = listed.skipped.iter().map(|skipped| &skipped.id);
        for id in skipped.chain(listed.items.iter().map(T::id)) {
            self.seen_this_time.insert(id.clone());
            self.seen.insert(id.clone());
        }
        for item in listed.items {
            self.items.insert(item.id().clone(), item);
        }
        // An empty page, or one of a server that ignores the offset.
        let nothing_new = self.seen_this_time.len() == seen_before;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::First if full && first_page_only => {
                tracing::warn!(
                    list = T::RESOURCE.filter_path(),
                    limit = page.limit,
                    "the list may have more than one page; set PAGINATION_ENABLED=True to read all of it"
                );
                Stage::Done
            }
            Stage::First if full && T::RESOURCE.count_path().is_some() => Stage::Count(page.limit),
            Stage::First | Stage::UntilShort(_) if full && !nothing_new => {
                let next = page.offset.saturating_add(page.limit);
                match next < MOST_OBJECTS {
                    true => Stage::UntilShort(next),
                    false => {
                        warn_of_size::<T>();
                        Stage::Done
                    }
                }
            }
            Stage::Offsets(mut offsets, count) => {
                // After such a page there are no more objects, whatever the count was.
                let end = if nothing_new { page.offset } else { usize::MAX };
                offsets.retain(|offset| *offset != page.offset && *offset < end);
                match offsets.is_empty() {
                    true => self.after_all(count),
                    false => Stage::Offsets(offsets, count),
                }
            }
            _ => Stage::Done,
        };
    }

    fn counted(&mut self, count: u64) {
        let Stage::Count(limit) = self.stage else {
            return;
        };
        let limit = limit.max(1);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > MOST_OBJECTS {
            warn_of_size::<T>();
        }
        let count = count.min(MOST_OBJECTS);
        let offsets: Vec<_> = (limit..count).step_by(limit).collect();
        self.stage = match offsets.is_empty() {
            true => Stage::Done,
            false => Stage::Offsets(offsets, count),
        };
    }

    fn after_all(&mut self, count: usize) -> Stage {
        let complete = self.seen.len() >= count;
        if complete || self.rereads >= MOST_REREADS {
            return Stage::Done;
        }
        self.rereads = self.rereads.saturating_add(1);
        self.seen_this_time.clear();
        Stage::First
    }
}

fn warn_of_size<T: Object>() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            list = T::RESOURCE.filter_path(),
            "the server reports more than {MOST_OBJECTS} objects; the others are ignored"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefect::objects::Flow;

    fn flows(ids: impl IntoIterator<Item = usize>) -> Answer {
        let flow = |id: usize| {
            let json = format!(r#"{{"id":"{id}","name":"flow-{id}"}}"#);
            serde_json::from_str::<Flow>(&json).unwrap()
        };
        let flows: Vec<_> = ids.into_iter().map(flow).collect();
        Answer::Objects(Objects::Flows(flows.into()))
    }

    /// Reads a list of flows in pages of two. `answer` is the server.
    fn read(mut answer: impl FnMut(&Request) -> Answer) -> (Vec<usize>, usize) {
        let (mut listing, mut requests) = (Listing::<Flow>::default(), 0);
        while !listing.is_done() {
            for request in listing.plan(2) {
                requests += 1;
                assert!(requests < 100);
                let answer = answer(&request);
                listing.apply(&request, Ok(answer), false).unwrap();
            }
        }
        let items = listing.into_items();
        let mut ids: Vec<_> = items.keys().map(|id| id.parse().unwrap()).collect();
        ids.sort_unstable();
        (ids, requests)
    }

    fn page(list: &[usize], request: &Request) -> Answer {
        match request {
            Request::List { page, .. } => {
                flows(list.iter().copied().skip(page.offset).take(page.limit))
            }
            _ => Answer::Count(list.len() as u64),
        }
    }

    #[test]
    fn no_empty_page_is_requested() {
        let list: Vec<_> = (0..6).collect();
        assert_eq!(read(|request| page(&list, request)), (list.clone(), 4));
        assert_eq!(read(|request| page(&list[..1], request)).1, 1);
        assert_eq!(read(|request| page(&list[..2], request)).1, 2);
    }

    #[test]
    fn a_list_that_shrinks_while_it_is_read_is_read_again() {
        let mut list: Vec<_> = (0..7).collect();
        let mut asked = 0;
        let (ids, _) = read(|request| {
            asked += 1;
            if asked == 3 {
                list.remove(0);
            }
            page(&list, request)
        });
        assert_eq!(ids, (0..7).collect::<Vec<_>>());
    }

    #[test]
    fn an_absurd_count_costs_a_bounded_number_of_pages() {
        let mut listing = Listing::<Flow>::default();
        listing.page(
            Page {
                offset: 0,
                limit: 2,
            },
            match flows([1, 2]) {
                Answer::Objects(objects) => objects,
                _ => unreachable!(),
            },
            false,
        );
        listing.counted(1_000_000_000_000_000_000);
        assert_eq!(listing.plan(2).len(), CONCURRENT_PAGES);
        let (ids, requests) = read(|request| match request {
            Request::Count(_) => Answer::Count(u64::MAX),
            request => page(&[1, 2, 3], request),
        });
        assert_eq!(ids, [1, 2, 3]);
        assert!(requests < 10 * CONCURRENT_PAGES, "{requests}");
    }

    #[test]
    fn a_server_that_ignores_offsets_costs_a_bounded_number_of_pages() {
        for count in [Some(1_000_000_000_000_000_000), None] {
            let mut listing = Listing::<Flow>::default();
            let mut requests = 0;
            while !listing.is_done() {
                for request in listing.plan(2) {
                    requests += 1;
                    assert!(requests < 200, "{count:?}");
                    let answer = match (&request, count) {
                        (Request::List { .. }, _) => Ok(flows([1, 2])),
                        (_, Some(count)) => Ok(Answer::Count(count)),
                        (_, None) => Err(not_found()),
                    };
                    listing.apply(&request, answer, false).unwrap();
                }
            }
            assert_eq!(listing.into_items().len(), 2);
        }
    }

    fn not_found() -> Error {
        Error::Status {
            request: String::new(),
            status: 404,
            detail: String::new(),
            retry_after: None,
            maintenance: false,
        }
    }
}
