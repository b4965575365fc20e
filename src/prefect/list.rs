//! Whole lists, page by page.
//!
//! A page shorter than the limit is the last one. A first page that is full is followed by
//! one `count`, so that the other pages can be fetched side by side and none of them is
//! empty. What moves from one page to the next while they are read is seen twice and kept
//! once.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Client, Error};
use crate::snapshot::{
    Automation, Deployment, Flow, FlowRun, GlobalLimit, TagLimit, TaskRun, WorkPool, WorkQueue,
};

/// How lists are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paging {
    pub(super) enabled: bool,
    pub(super) limit: usize,
    pub(super) side_by_side: usize,
}

/// An object that the API lists.
pub trait Resource: DeserializeOwned + Send {
    /// The path of its lists: `/flow_runs`.
    const PATH: &'static str;
    /// The path of its page requests.
    const FILTER: &'static str;
    /// The path that counts it, where there is one.
    const COUNT: Option<&'static str>;
    /// Its id.
    fn id(&self) -> &Arc<str>;
}

macro_rules! resource {
    ($type:ty, $path:literal, $count:expr) => {
        impl Resource for $type {
            const PATH: &'static str = $path;
            const FILTER: &'static str = concat!($path, "/filter");
            const COUNT: Option<&'static str> = $count;
            fn id(&self) -> &Arc<str> {
                &self.id
            }
        }
    };
}

resource!(Deployment, "/deployments", Some("/deployments/count"));
resource!(Flow, "/flows", Some("/flows/count"));
resource!(FlowRun, "/flow_runs", Some("/flow_runs/count"));
resource!(WorkPool, "/work_pools", Some("/work_pools/count"));
resource!(WorkQueue, "/work_queues", None);
resource!(GlobalLimit, "/v2/concurrency_limits", None);
resource!(TagLimit, "/concurrency_limits", None);
resource!(Automation, "/automations", Some("/automations/count"));
resource!(TaskRun, "/task_runs", Some("/task_runs/count"));

/// In which order a list is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As the server gives it.
    Default,
    /// By id: nothing but a new or deleted object moves a page's boundary.
    Id,
    /// Newest end first: what ends while the pages are read only pushes others back.
    EndTime,
}

impl Order {
    fn name(self) -> Option<&'static str> {
        match self {
            Order::Default => None,
            Order::Id => Some("ID_DESC"),
            Order::EndTime => Some("END_TIME_DESC"),
        }
    }
}

/// Objects asked for by id at one time.
const IDS_A_REQUEST: usize = 200;

impl Client {
    /// Every object that `filter` lets through, each once.
    ///
    /// # Errors
    ///
    /// The first page that fails, fails the list.
    pub async fn list<T: Resource>(&self, filter: &Value, order: Order) -> Result<Vec<T>, Error> {
        let Paging {
            enabled,
            limit,
            side_by_side,
        } = self.paging;
        let mut items = self.page(filter, order, limit, 0).await?;
        if items.len() >= limit && !enabled {
            tracing::warn!(
                path = T::PATH,
                limit,
                "the list goes on after its first page; set PAGINATION_ENABLED=True to read all of it"
            );
        } else if items.len() >= limit {
            let mut read = limit;
            while let Some(count) = self.count::<T>(filter).await? {
                let pages = stream::iter((read..count).step_by(limit))
                    .map(|offset| self.page(filter, order, limit, offset))
                    .buffered(side_by_side);
                let pages: Vec<Vec<T>> = pages.try_collect().await?;
                let last_is_full = pages.last().is_some_and(|page| page.len() >= limit);
                read += pages.len() * limit;
                items.extend(pages.into_iter().flatten());
                // What ended meanwhile pushed the oldest back, perhaps onto a page more.
                if order != Order::EndTime || !last_is_full {
                    return Ok(once(items));
                }
            }
            self.pages_until_short(filter, order, &mut read, &mut items)
                .await?;
        }
        Ok(once(items))
    }

    /// The objects with these ids; those that are gone are missing.
    ///
    /// # Errors
    ///
    /// As [`Client::list`].
    pub async fn by_id<T: Resource>(
        &self,
        ids: &[Arc<str>],
        filter: impl Fn(&[Arc<str>]) -> Value,
    ) -> Result<Vec<T>, Error> {
        let mut found = Vec::with_capacity(ids.len());
        for ids in ids.chunks(IDS_A_REQUEST.min(self.paging.limit)) {
            let page: Vec<T> = self
                .page(&filter(ids), Order::Default, ids.len(), 0)
                .await?;
            found.extend(page);
        }
        Ok(found)
    }

    async fn page<T: Resource>(
        &self,
        filter: &Value,
        order: Order,
        limit: usize,
        offset: usize,
    ) -> Result<Vec<T>, Error> {
        let mut body = filter.clone();
        body["limit"] = json!(limit);
        body["offset"] = json!(offset);
        if let Some(sort) = order.name() {
            body["sort"] = json!(sort);
        }
        self.post(T::FILTER, &body).await
    }

    /// `None` where the API (an older one, say) has no such call.
    async fn count<T: Resource>(&self, filter: &Value) -> Result<Option<usize>, Error> {
        let Some(path) = T::COUNT else {
            return Ok(None);
        };
        match self.post(path, filter).await {
            Ok(count) => Ok(Some(count)),
            Err(Error::Status {
                status: 404 | 405, ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where nothing counts: one page after the other until one comes short.
    async fn pages_until_short<T: Resource>(
        &self,
        filter: &Value,
        order: Order,
        read: &mut usize,
        items: &mut Vec<T>,
    ) -> Result<(), Error> {
        let limit = self.paging.limit;
        loop {
            let page: Vec<T> = self.page(filter, order, limit, *read).await?;
            let last = page.len() < limit;
            *read += limit;
            items.extend(page);
            if last {
                return Ok(());
            }
        }
    }
}

/// Each object once.
fn once<T: Resource>(mut items: Vec<T>) -> Vec<T> {
    let mut seen = HashSet::with_capacity(items.len());
    items.retain(|item| seen.insert(item.id().clone()));
    items
}
