//! Attributes and label values of the compatible families, spelled as in the Python exporter.
//!
//! Booleans are `True` and `False`, and JSON null is `None`. An absent field, an unknown id, and
//! the deployment of a run without one are `null`.

use std::fmt::Display;
use std::sync::{Arc, LazyLock};

use super::{Family, Points, Stability, View};
use crate::clip;
use crate::core::sections::Section;
use crate::prefect::objects::Field;

pub(crate) const DEPLOYMENT_NAME: &str = "deployment_name";
pub(crate) const FLOW_NAME: &str = "flow_name";
pub(super) const FLOW_RUN_NAME: &str = "flow_run_name";
pub(super) const STATE_NAME: &str = "state_name";
pub(super) const SLOT_KIND: &str = "slot_kind";
pub(super) const STATE_TYPE: &str = "state_type";
pub(super) const WORK_POOL_NAME: &str = "work_pool_name";
pub(super) const WORKER_NAME: &str = "worker_name";
pub(super) const WORK_QUEUE_NAME: &str = "work_queue_name";
pub(super) const IS_PAUSED: &str = "is_paused";
pub(super) const STATUS: &str = "status";
pub(super) const TYPE: &str = "type";

/// The second name of `prefect.deployment.failed_flow_runs`. No release of the Python exporter
/// emits it, and failed runs can be most of a page, so it is off unless `METRICS_INCLUDE` asks
/// for it.
pub(super) const LAST_FAILED_FLOW_RUN: &str = "prefect.deployment.last_failed_flow_run";

static TRUE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("True"));
static FALSE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("False"));

/// A compatible family: a gauge without a unit.
pub(super) const fn family(
    name: &'static str,
    help: &'static str,
    attributes: &'static [&'static str],
    sections: &'static [Section],
    read: fn(&View<'_>, &mut Points<'_>),
) -> Family {
    Family {
        stability: Stability::Compatible,
        ..Family::gauge(name, "", help, attributes, sections, read)
    }
}

pub(super) fn boolean(value: bool) -> Arc<str> {
    Arc::clone(if value { &TRUE } else { &FALSE })
}

pub(super) fn truth(field: &Field<bool>) -> Arc<str> {
    field.label_by(|value| boolean(*value))
}

pub(super) fn number<T: Display>(field: &Field<T>) -> Arc<str> {
    field.label_by(|value| Arc::from(value.to_string()))
}

/// Tags sorted and joined by commas.
pub(super) fn tags(field: &Field<Vec<Arc<str>>>) -> Arc<str> {
    let mut tags = field.value().cloned().unwrap_or_default();
    tags.sort_unstable();
    clip::owned_label(tags.join(","))
}

/// 0 if paused, else 1.
pub(super) fn unless_paused(is_paused: &Field<bool>) -> f64 {
    if is_paused.value() == Some(&true) {
        0.0
    } else {
        1.0
    }
}
