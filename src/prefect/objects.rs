//! Prefect's objects, with the few fields that are read. Runs are in [`super::runs`].
//!
//! A new list of the API is its object here, a row of `resources!`, and an entry in the
//! core's registry of sections.

use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer};

use super::answer::{Listed, Skipped, objects};
use super::request::Id;

/// A field of an API object that distinguishes "absent" from "null": the compatible families print
/// the first as `null` and the second as `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Field<T> {
    /// The object does not have the field.
    #[default]
    Absent,
    /// The field is JSON `null`.
    Null,
    /// The field has a value.
    Value(T),
}

impl<T> Field<T> {
    /// The value, where there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Field::Value(value) => Some(value),
            Field::Absent | Field::Null => None,
        }
    }

    /// The value as a label, made by `label`.
    pub fn label_by(&self, label: impl FnOnce(&T) -> Arc<str>) -> Arc<str> {
        match self {
            Field::Absent => null(),
            Field::Null => Arc::clone(&NONE),
            Field::Value(value) => label(value),
        }
    }
}

impl Field<Arc<str>> {
    /// The text as a label.
    pub fn label(&self) -> Arc<str> {
        self.label_by(Arc::clone)
    }
}

static NULL: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("null"));
static NONE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("None"));

/// The label of what is not there.
pub fn null() -> Arc<str> {
    Arc::clone(&NULL)
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<T>::deserialize(deserializer).map(|value| value.map_or(Field::Null, Field::Value))
    }
}

/// A deployment (`POST /deployments/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: Arc<str>,
    /// Its name.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// The flow that it deploys.
    #[serde(default)]
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
    pub id: Arc<str>,
    /// Its name.
    #[serde(default)]
    pub name: Field<Arc<str>>,
}

/// A work pool (`POST /work_pools/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct WorkPool {
    /// Its id.
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
    /// Whether it is paused.
    #[serde(default)]
    pub is_paused: Field<bool>,
    /// Runs that it may have under way at one time; none is no limit.
    #[serde(default)]
    pub concurrency_limit: Option<u64>,
    /// How many of them are taken; servers before 3.6.23 do not report it.
    #[serde(default)]
    pub active_slots: Option<u64>,
}

/// A work queue (`POST /work_queues/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct WorkQueue {
    /// Its id.
    pub id: Arc<str>,
    /// Its name, unique in its pool.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// The pool that it belongs to.
    #[serde(default)]
    pub work_pool_name: Field<Arc<str>>,
    /// Its priority, 1 the highest.
    #[serde(default)]
    pub priority: Field<i64>,
    /// `READY`, `NOT_READY` or `PAUSED`.
    #[serde(default)]
    pub status: Field<Arc<str>>,
    /// Whether it is paused.
    #[serde(default)]
    pub is_paused: Field<bool>,
    /// Runs that it may have under way at one time; none is no limit.
    #[serde(default)]
    pub concurrency_limit: Option<u64>,
    /// How many of them are taken; servers before 3.6.23 do not report it.
    #[serde(default)]
    pub active_slots: Option<u64>,
    /// When a worker last asked it for runs.
    #[serde(default, deserialize_with = "time")]
    pub last_polled: Option<Timestamp>,
}

/// A worker (`POST /work_pools/{name}/workers/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct Worker {
    /// Its id.
    pub id: Arc<str>,
    /// Its name; a process worker makes one up at every start.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// `ONLINE` or `OFFLINE`.
    #[serde(default)]
    pub status: Field<Arc<str>>,
    /// The time of its last heartbeat.
    #[serde(default, deserialize_with = "time")]
    pub last_heartbeat_time: Option<Timestamp>,
    /// The pool that it serves: not in the answer, but in the question.
    #[serde(skip)]
    pub work_pool_name: Field<Arc<str>>,
}

/// A global concurrency limit (`POST /v2/concurrency_limits/filter`). A limit by tag is among
/// them too, as `tag:NAME`.
#[derive(Debug, Clone, Deserialize)]
pub struct GlobalLimit {
    /// Its id.
    pub id: Arc<str>,
    /// Its name.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// How many slots it has.
    #[serde(default)]
    pub limit: Option<u64>,
    /// How many of them are taken.
    #[serde(default)]
    pub active_slots: Option<u64>,
}

/// A concurrency limit of task runs by tag (`POST /concurrency_limits/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct TagLimit {
    /// Its id.
    pub id: Arc<str>,
    /// The tag.
    #[serde(default)]
    pub tag: Field<Arc<str>>,
    /// How many slots it has.
    #[serde(default)]
    pub concurrency_limit: Option<u64>,
    /// The task runs that hold one.
    #[serde(default)]
    pub active_slots: Option<Vec<Arc<str>>>,
}

/// An automation (`POST /automations/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct Automation {
    /// Its id.
    pub id: Arc<str>,
    /// Whether it acts.
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

            /// The path that counts its objects, where there is one.
            pub fn count_path(self) -> Option<&'static str> {
                match self {
                    $(Resource::$name => $count,)*
                }
            }

            /// What its filter is called in the body of a request.
            pub(super) fn filter_name(self) -> &'static str {
                match self {
                    $(Resource::$name => $path,)*
                }
            }

            pub(super) fn decode(self, body: &[u8]) -> Result<Objects, serde_json::Error> {
                Ok(match self {
                    $(Resource::$name => Objects::$name(objects(body)?),)*
                })
            }
        }

        impl Objects {
            pub(super) fn skipped(&self) -> &[Skipped] {
                match self {
                    $(Objects::$name(listed) => &listed.skipped,)*
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
    /// Concurrency limits, global and by tag.
    GlobalLimits(GlobalLimit): "v2/concurrency_limits", None;
    /// Concurrency limits of task runs by tag.
    TagLimits(TagLimit): "concurrency_limits", None;
    /// All automations.
    Automations(Automation): "automations", Some("/automations/count");
}

/// Reads a time as Prefect writes it; one without an offset is taken for UTC. A time beyond
/// what can be represented becomes the latest that can: Python's `datetime.max` is one.
pub(super) fn time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let naive = || text.parse::<DateTime>()?.to_zoned(TimeZone::UTC);
    match text.parse::<Timestamp>() {
        Ok(time) => Ok(Some(time)),
        Err(_) if text.starts_with("9999-12-3") => Ok(Some(Timestamp::MAX)),
        Err(error) => naive()
            .map(|time: jiff::Zoned| Some(time.timestamp()))
            .map_err(|_| serde::de::Error::custom(error)),
    }
}
