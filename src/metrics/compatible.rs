//! Attributes and label values of the compatible families, as the Python exporter writes them.
//!
//! Booleans are `True` and `False`; JSON null is `None`; an absent field, an id that names
//! nothing and a run without a deployment are `null`.

use std::fmt::Display;
use std::sync::{Arc, LazyLock};

use super::{Family, Points, Stability, View};
use crate::snapshot::{Field, FlowRun, Section, Snapshot};

pub(super) const DEPLOYMENT_NAME: &str = "deployment.name";
pub(super) const FLOW_NAME: &str = "flow.name";
pub(super) const FLOW_RUN_NAME: &str = "flow_run.name";
pub(super) const STATE_NAME: &str = "state.name";
pub(super) const SLOT_KIND: &str = "slot.kind";
pub(super) const STATE_TYPE: &str = "state.type";
pub(super) const WORK_POOL_NAME: &str = "work_pool.name";
pub(super) const WORK_QUEUE_NAME: &str = "work_queue.name";
pub(super) const IS_PAUSED: &str = "is_paused";
pub(super) const STATUS: &str = "status";
pub(super) const TYPE: &str = "type";

static NULL: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("null"));
static NONE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("None"));
static TRUE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("True"));
static FALSE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("False"));

/// A compatible family: a gauge without a unit.
pub(super) const fn family(
    name: &'static str,
    help: &'static str,
    attributes: &'static [&'static str],
    sections: &'static [Section],
    read: fn(&View<'_>, &mut Points),
) -> Family {
    Family {
        stability: Stability::Compatible,
        ..Family::gauge(name, "", help, attributes, sections, read)
    }
}

pub(super) fn null() -> Arc<str> {
    Arc::clone(&NULL)
}

pub(super) fn boolean(value: bool) -> Arc<str> {
    Arc::clone(if value { &TRUE } else { &FALSE })
}

/// A field's value as a label, made by `label`.
fn label_by<T>(field: &Field<T>, label: impl FnOnce(&T) -> Arc<str>) -> Arc<str> {
    match field {
        Field::Absent => null(),
        Field::Null => Arc::clone(&NONE),
        Field::Value(value) => label(value),
    }
}

pub(super) fn text(field: &Field<Arc<str>>) -> Arc<str> {
    label_by(field, Arc::clone)
}

pub(super) fn truth(field: &Field<bool>) -> Arc<str> {
    label_by(field, |value| boolean(*value))
}

pub(super) fn number<T: Display>(field: &Field<T>) -> Arc<str> {
    label_by(field, |value| Arc::from(value.to_string()))
}

/// Tags sorted and joined by commas.
pub(super) fn tags(field: &Field<Vec<Arc<str>>>) -> Arc<str> {
    let mut tags = field.value().cloned().unwrap_or_default();
    tags.sort_unstable();
    Arc::from(tags.join(","))
}

/// 0 if paused, else 1.
pub(super) fn unless_paused(is_paused: &Field<bool>) -> f64 {
    if is_paused.value() == Some(&true) {
        0.0
    } else {
        1.0
    }
}

/// The name of the flow with this id.
pub(super) fn flow_name(snapshot: &Snapshot, id: Option<&Arc<str>>) -> Arc<str> {
    id.and_then(|id| snapshot.flows.get(id))
        .map_or_else(null, |flow| text(&flow.name))
}

/// The names of a run's deployment and flow.
pub(super) fn names(snapshot: &Snapshot, run: &FlowRun) -> (Arc<str>, Arc<str>) {
    let deployment = run
        .deployment_id
        .as_ref()
        .and_then(|id| snapshot.deployments.get(id));
    (
        deployment.map_or_else(null, |deployment| text(&deployment.name)),
        flow_name(snapshot, run.flow_id.as_ref()),
    )
}
