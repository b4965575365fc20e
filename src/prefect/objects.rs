//! Prefect's objects, with the fields that the agent uses. Runs are in [`super::runs`].
//!
//! To add a list of the API, add its object and a row of `resources!` here, and an entry in the
//! core's registry of sections.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;

use super::bounded::{length, optional_text, text};
pub use super::decode::{Field, null};
use super::decode::{Id, Listed, Skipped, objects, time};

/// A deployment (`POST /deployments/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct Deployment {
    /// Its id.
    #[serde(deserialize_with = "text")]
    pub id: Arc<str>,
    /// Its name.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// The flow that it deploys.
    #[serde(default, deserialize_with = "optional_text")]
    pub flow_id: Option<Arc<str>>,
    /// Whether it is paused.
    #[serde(default)]
    pub paused: Field<bool>,
    /// Its tags.
    #[serde(default)]
    pub tags: Field<Vec<Arc<str>>>,
    /// The path of its code.
    #[serde(default)]
    pub path: Field<Arc<str>>,
    /// `READY` or `NOT_READY`.
    #[serde(default)]
    pub status: Field<Arc<str>>,
    /// The work pool that its runs are sent to.
    #[serde(default)]
    pub work_pool_name: Field<Arc<str>>,
    /// The work queue that its runs are sent to.
    #[serde(default)]
    pub work_queue_name: Field<Arc<str>>,
}

/// A flow (`POST /flows/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct Flow {
    /// Its id.
    #[serde(deserialize_with = "text")]
    pub id: Arc<str>,
    /// Its name.
    #[serde(default)]
    pub name: Field<Arc<str>>,
}

/// A work pool (`POST /work_pools/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct WorkPool {
    /// Its id.
    #[serde(deserialize_with = "text")]
    pub id: Arc<str>,
    /// Its name.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// The type of its workers (`process`, `kubernetes` …).
    #[serde(default, rename = "type")]
    pub kind: Field<Arc<str>>,
    /// `READY`, `NOT_READY` or `PAUSED`.
    #[serde(default)]
    pub status: Field<Arc<str>>,
    /// When it was last changed, which includes its status.
    #[serde(default, deserialize_with = "time")]
    pub updated: Option<Timestamp>,
    /// Whether it is paused.
    #[serde(default)]
    pub is_paused: Field<bool>,
    /// The concurrency limit; `None` if there is none.
    #[serde(default)]
    pub concurrency_limit: Option<u64>,
    /// The slots in use. Servers before 3.6.23 do not report them.
    #[serde(default)]
    pub active_slots: Option<u64>,
}

/// A work queue (`POST /work_queues/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct WorkQueue {
    /// Its id.
    #[serde(deserialize_with = "text")]
    pub id: Arc<str>,
    /// Its name, unique in its pool.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// The pool that it belongs to.
    #[serde(default)]
    pub work_pool_name: Field<Arc<str>>,
    /// Its priority; 1 is the highest.
    #[serde(default)]
    pub priority: Field<i64>,
    /// `READY`, `NOT_READY` or `PAUSED`.
    #[serde(default)]
    pub status: Field<Arc<str>>,
    /// Whether it is paused.
    #[serde(default)]
    pub is_paused: Field<bool>,
    /// The concurrency limit; `None` if there is none.
    #[serde(default)]
    pub concurrency_limit: Option<u64>,
    /// The slots in use. Servers before 3.6.23 do not report them.
    #[serde(default)]
    pub active_slots: Option<u64>,
    /// When a worker last polled it.
    #[serde(default, deserialize_with = "time")]
    pub last_polled: Option<Timestamp>,
}

/// A worker (`POST /work_pools/{name}/workers/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct Worker {
    /// Its id.
    #[serde(deserialize_with = "text")]
    pub id: Arc<str>,
    /// Its name. A process worker generates one at every start.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// `ONLINE` or `OFFLINE`.
    #[serde(default)]
    pub status: Field<Arc<str>>,
    /// The time of its last heartbeat.
    #[serde(default, deserialize_with = "time")]
    pub last_heartbeat_time: Option<Timestamp>,
    /// The work pool that it serves, which is in the request instead of the answer.
    #[serde(skip)]
    pub work_pool_name: Field<Arc<str>>,
}

/// A global concurrency limit (`POST /v2/concurrency_limits/filter`). Tag-based limits are also in
/// this list, as `tag:NAME`.
#[derive(Debug, Clone, Deserialize)]
pub struct GlobalLimit {
    /// Its id.
    #[serde(deserialize_with = "text")]
    pub id: Arc<str>,
    /// Its name.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// The number of slots.
    #[serde(default)]
    pub limit: Option<u64>,
    /// The slots in use.
    #[serde(default)]
    pub active_slots: Option<u64>,
}

/// A tag-based concurrency limit of task runs (`POST /concurrency_limits/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct TagLimit {
    /// Its id.
    #[serde(deserialize_with = "text")]
    pub id: Arc<str>,
    /// The tag.
    #[serde(default)]
    pub tag: Field<Arc<str>>,
    /// The number of slots.
    #[serde(default)]
    pub concurrency_limit: Option<u64>,
    /// The number of task runs that occupy a slot. The server lists their ids.
    #[serde(default, deserialize_with = "length")]
    pub active_slots: Option<u64>,
}

/// An automation (`POST /automations/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct Automation {
    /// Its id.
    #[serde(deserialize_with = "text")]
    pub id: Arc<str>,
    /// Whether it is enabled.
    #[serde(default)]
    pub enabled: Field<bool>,
}

/// Declares the lists that are read by offset: their object, path, and whether the API
/// counts them.
macro_rules! resources {
    ($($(#[$doc:meta])* $name:ident($object:ty): $path:literal, $count:expr;)*) => {
        /// A list of the API that is read by offset.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Resource {
            $($(#[$doc])* $name,)*
        }

        /// Objects of one list.
        #[derive(Debug, Clone)]
        pub enum Objects {
            $($(#[$doc])* $name(Listed<$object>),)*
        }

        impl Resource {
            /// The path of its pages.
            pub fn filter_path(self) -> &'static str {
                match self {
                    $(Resource::$name => concat!("/", $path, "/filter"),)*
                }
            }

            /// The path that counts its objects, if the API has one.
            pub fn count_path(self) -> Option<&'static str> {
                match self {
                    $(Resource::$name => $count,)*
                }
            }

            /// The name of its filter in the body of a request.
            pub(super) fn filter_name(self) -> &'static str {
                match self {
                    $(Resource::$name => $path,)*
                }
            }

            /// Decodes a page of at most `most` objects.
            pub(super) fn decode(
                self,
                body: &[u8],
                most: usize,
            ) -> Result<Objects, serde_json::Error> {
                Ok(match self {
                    $(Resource::$name => Objects::$name(objects(body, most)?),)*
                })
            }
        }

        impl Objects {
            pub(super) fn skipped(&self) -> &[Skipped] {
                match self {
                    $(Objects::$name(listed) => &listed.skipped,)*
                }
            }

            /// The number of objects, with those that were skipped.
            #[cfg(any(test, fuzzing))]
            pub(super) fn len(&self) -> usize {
                match self {
                    $(Objects::$name(listed) => listed.len(),)*
                }
            }
        }

        $(impl Object for $object {
            const RESOURCE: Resource = Resource::$name;
            fn id(&self) -> &Id {
                &self.id
            }
            fn of(objects: Objects) -> Option<Listed<Self>> {
                match objects {
                    Objects::$name(listed) => Some(listed),
                    _ => None,
                }
            }
        })*
    };
}

/// An object of a list that is read by offset.
pub trait Object: Sized + Clone + std::fmt::Debug + Send + Sync + 'static {
    /// Its list.
    const RESOURCE: Resource;
    /// Its id.
    fn id(&self) -> &Id;
    /// The objects of this kind in an answer; `None` if it has others.
    fn of(objects: Objects) -> Option<Listed<Self>>;
}

resources! {
    /// All deployments.
    Deployments(Deployment): "deployments", Some("/deployments/count");
    /// All flows.
    Flows(Flow): "flows", Some("/flows/count");
    /// All work pools.
    WorkPools(WorkPool): "work_pools", Some("/work_pools/count");
    /// All work queues.
    WorkQueues(WorkQueue): "work_queues", None;
    /// Concurrency limits, global and tag-based.
    GlobalLimits(GlobalLimit): "v2/concurrency_limits", None;
    /// Tag-based concurrency limits of task runs.
    TagLimits(TagLimit): "concurrency_limits", None;
    /// All automations.
    Automations(Automation): "automations", Some("/automations/count");
}
