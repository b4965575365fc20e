//! Which metrics are exported, and how.

use std::fmt;

use super::{Error, Reader, boolean, integer, otel};

/// Which metrics are exported, and how.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Add `flow_run_name`.
    pub flow_run_name_label: bool,
    /// Maximum number of series per family.
    pub cardinality_limit: usize,
    /// Names, or patterns of names, of the families to export; empty means all.
    pub include: Vec<String>,
    /// Names, or patterns of names, of the families to leave out.
    pub exclude: Vec<String>,
    /// The part of the series that this agent exports, if there are several agents.
    pub shard: Option<Shard>,
    /// Attributes for every series.
    pub attributes: Vec<(String, String)>,
    /// Keys of deployment tags that become attributes.
    pub deployment_tag_labels: Vec<String>,
    /// Bucket boundaries of run durations, in seconds.
    pub run_duration_buckets: Vec<f64>,
    /// Bucket boundaries of start delays, in seconds.
    pub start_delay_buckets: Vec<f64>,
}

/// One of several agents that share a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Its number, from 0.
    pub index: u32,
    /// The number of agents.
    pub count: u32,
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// More agents than this would spend most of their time on reading what the others export.
const MOST_SHARDS: u32 = 64;

pub(super) fn load(reader: &Reader) -> Result<Metrics, Error> {
    let list = |name: &str| reader.optional(name, |text| Some(items(text)));
    Ok(Metrics {
        flow_run_name_label: reader.required("ENABLE_FLOW_RUN_NAME_LABEL", boolean)?,
        cardinality_limit: reader.required("METRICS_CARDINALITY_LIMIT", |text| {
            // Memory grows with the number of series.
            integer(text, 1, 200_000)
        })?,
        include: list("METRICS_INCLUDE")?.unwrap_or_default(),
        exclude: list("METRICS_EXCLUDE")?.unwrap_or_default(),
        shard: reader.optional("SHARD", shard)?,
        attributes: reader
            .optional("METRICS_ATTRIBUTES", |text| {
                let pairs = otel::pairs(text)?;
                pairs.iter().all(|(key, _)| is_key(key)).then_some(pairs)
            })?
            .unwrap_or_default(),
        deployment_tag_labels: reader
            .optional("DEPLOYMENT_TAG_LABELS", |text| {
                let keys = items(text);
                keys.iter().all(|key| is_key(key)).then_some(keys)
            })?
            .unwrap_or_default(),
        run_duration_buckets: reader.required("RUN_DURATION_BUCKETS_SECONDS", boundaries)?,
        start_delay_buckets: reader.required("START_DELAY_BUCKETS_SECONDS", boundaries)?,
    })
}

/// A shard such as `2/4`, or `agent-2/4`: the name of a pod of a StatefulSet ends in its number.
fn shard(text: &str) -> Option<Shard> {
    let (index, count) = text.rsplit_once('/')?;
    let index = match index.rsplit_once('-') {
        Some((pod, index)) if !pod.is_empty() => index,
        _ => index,
    };
    let count = integer(count, 1, MOST_SHARDS)?;
    let index = integer(index, 0, count.saturating_sub(1))?;
    Some(Shard { index, count })
}

/// The items of a comma-separated list.
fn items(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Whether a text can be the key of an attribute and, with underscores, of a label.
fn is_key(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    // Prometheus reserves names that start with two underscores.
    starts_well && text.chars().all(good) && !text.starts_with("__")
}

fn boundaries(text: &str) -> Option<Vec<f64>> {
    let numbers: Option<Vec<f64>> = items(text).iter().map(|item| item.parse().ok()).collect();
    let numbers = numbers?;
    let rising = numbers.is_sorted_by(|one, next| one < next);
    let positive = numbers
        .iter()
        .all(|number| number.is_finite() && *number > 0.0);
    (rising && positive && (1..=100).contains(&numbers.len())).then_some(numbers)
}
