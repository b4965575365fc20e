//! The metrics settings: which families are exported, and with which additional attributes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::{Key, KeyValue};
use wildmatch::WildMatch;

use super::compatible::{DEPLOYMENT_NAME, FLOW_NAME, FLOW_RUN_NAME, LAST_FAILED_FLOW_RUN};
use super::{Buckets, Family, Source, catalogue};
use crate::core::sections::Section;
use crate::core::snapshot::Snapshot;
use crate::core::tags::TagKeys;
use crate::core::tally::{Label, Series};
use crate::settings::{self, Settings, Shard};

/// The attribute with the name of the workspace, if an agent reads several.
pub(crate) const WORKSPACE: &str = "prefect.workspace";

/// The metrics settings.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether the families that can have `flow_run_name` have it.
    pub flow_run_name_label: bool,
    /// The window of the flow-run families.
    pub offset: Duration,
    /// The number of newest failed runs that are shown per deployment, flow and state name.
    pub failed_runs_limit: usize,
    /// The maximum number of series per family.
    pub cardinality_limit: usize,
    /// The part of the series that this agent exports, if there are several agents.
    shard: Option<Shard>,
    /// The number of workspaces whose series are exported together.
    pub workspaces: usize,
    run_duration_buckets: Vec<f64>,
    start_delay_buckets: Vec<f64>,
    chosen: HashSet<&'static str>,
    attributes: Vec<KeyValue>,
    tag_keys: TagKeys,
    /// `tag_keys` as attribute keys.
    tag_labels: Vec<Key>,
}

/// The tag values of each deployment, one per key, by deployment name and flow name.
pub type TagAttributes = HashMap<[Arc<str>; 2], Series>;

impl Options {
    /// The options that result from `settings`.
    ///
    /// # Errors
    ///
    /// If a pattern matches no family, or if the key of an additional attribute is already an
    /// attribute of a family.
    pub fn new(settings: &Settings) -> Result<Self, settings::Error> {
        let metrics = &settings.metrics;
        let included = matching("METRICS_INCLUDE", &metrics.include)?;
        let excluded = matching("METRICS_EXCLUDE", &metrics.exclude)?;
        let tasks = settings.sampling.task_runs;
        let chosen = catalogue()
            .filter(|family| tasks || !family.is_of_task_runs())
            .filter(|family| metrics.shard.is_none_or(|shard| shard.has_family(family)))
            .map(|family| family.name)
            .filter(|name| match metrics.include.is_empty() {
                true => *name != LAST_FAILED_FLOW_RUN,
                false => included.contains(name),
            })
            .filter(|name| !excluded.contains(name))
            .collect();
        check_keys(metrics)?;
        let attributes = metrics.attributes.iter();
        let tag_labels = metrics.deployment_tag_labels.iter();
        Ok(Options {
            flow_run_name_label: metrics.flow_run_name_label,
            offset: settings.sampling.offset,
            failed_runs_limit: settings.sampling.failed_runs_limit,
            cardinality_limit: metrics.cardinality_limit,
            shard: metrics.shard,
            workspaces: settings.workspaces.len().max(1),
            run_duration_buckets: metrics.run_duration_buckets.clone(),
            start_delay_buckets: metrics.start_delay_buckets.clone(),
            chosen,
            attributes: attributes
                .map(|(key, value)| KeyValue::new(key.clone(), value.clone()))
                .collect(),
            tag_keys: TagKeys::new(tag_labels.clone().map(String::as_str)),
            tag_labels: tag_labels.map(|key| Key::from(key.clone())).collect(),
        })
    }

    /// The same for one of several workspaces, whose series have its name.
    #[must_use]
    pub fn of_workspace(&self, name: &Arc<str>) -> Self {
        let mut options = self.clone();
        let name = opentelemetry::StringValue::from(Arc::clone(name));
        options.attributes.push(KeyValue::new(WORKSPACE, name));
        options
    }

    /// The families that are exported.
    pub fn families(&self) -> impl Iterator<Item = &'static Family> {
        catalogue().filter(|family| self.chosen.contains(family.name))
    }

    /// Whether this agent exports the series of `family` with these values of its attributes.
    pub fn has_series(&self, family: &Family, values: &[Label]) -> bool {
        self.shard
            .is_none_or(|shard| shard.has_series(family, values))
    }

    /// Whether this agent exports the series that combine those beyond the limit of a count.
    pub(super) fn has_overflow(&self) -> bool {
        self.shard.is_none_or(|shard| shard.index == 0)
    }

    /// Whether task runs are counted.
    pub fn has_task_runs(&self) -> bool {
        self.families().any(Family::is_of_task_runs)
    }

    /// The maximum number of series of each counter, of all shards: each of them counts everything.
    pub fn count_limit(&self) -> usize {
        let shards = self.shard.map_or(1, |shard| shard.count);
        let shards = usize::try_from(shards).unwrap_or(usize::MAX);
        self.cardinality_limit.saturating_mul(shards)
    }

    /// The maximum number of series of each histogram, of all workspaces.
    pub fn histogram_limit(&self) -> usize {
        self.cardinality_limit.saturating_mul(self.workspaces)
    }

    /// The sections that no exported family is computed from.
    pub fn unused_sections(&self) -> Vec<Section> {
        let read: HashSet<Section> = self
            .families()
            .filter_map(|family| match family.source {
                Source::Read(sections, _) => Some(sections),
                Source::Agent(_) | Source::Counted(_) | Source::Measured(_) | Source::Recorded => {
                    None
                }
            })
            .flatten()
            .copied()
            .collect();
        let all = Section::ALL.iter().copied();
        all.filter(|section| !read.contains(section)).collect()
    }

    /// The bucket boundaries of a histogram.
    pub fn boundaries(&self, buckets: Buckets) -> Vec<f64> {
        match buckets {
            Buckets::Fixed(boundaries) => boundaries.to_vec(),
            Buckets::RunDuration => self.run_duration_buckets.clone(),
            Buckets::StartDelay => self.start_delay_buckets.clone(),
        }
    }

    /// Whether an attribute is omitted from every family.
    pub(super) fn leaves_out(&self, attribute: &str) -> bool {
        attribute == FLOW_RUN_NAME && !self.flow_run_name_label
    }

    /// The attributes of one series of `family`, given the values of its declared attributes. If
    /// the series belongs to a deployment, they include the deployment's `tags`.
    pub fn series(
        &self,
        family: &Family,
        values: &[Arc<str>],
        tags: &TagAttributes,
    ) -> Vec<KeyValue> {
        let value = |attribute| family.value(values, attribute).cloned();
        let names = match tags.is_empty() {
            true => None,
            false => value(DEPLOYMENT_NAME).zip(value(FLOW_NAME)),
        };
        let tags = names.and_then(|(deployment, flow)| tags.get(&[deployment, flow]));
        self.counted(family, values, tags.map_or(&[], |tags| tags))
    }

    /// The same, for a count made when the deployment's tags had these values.
    pub fn counted(
        &self,
        family: &Family,
        values: &[Arc<str>],
        tags: &[Arc<str>],
    ) -> Vec<KeyValue> {
        let attribute = |key: Key, value: &Arc<str>| {
            KeyValue::new(key, opentelemetry::StringValue::from(Arc::clone(value)))
        };
        let own = family.attributes.iter().zip(values);
        let own = own.filter(|(name, _)| !self.leaves_out(name));
        let own = own.map(|(name, value)| attribute(Key::from(*name), value));
        let tags = self.tag_labels.iter().zip(tags);
        let tags = tags.filter(|(_, value)| !value.is_empty());
        let tags = tags.map(|(key, value)| attribute(key.clone(), value));
        let all = own.chain(tags).chain(self.attributes.iter().cloned());
        sorted(all.collect())
    }

    /// The attributes that every series has.
    pub fn common(&self) -> &[KeyValue] {
        &self.attributes
    }

    /// What distinguishes the series of this agent from those that it would export of the same
    /// objects with other settings.
    pub fn identity(&self) -> String {
        let attributes = self.attributes.iter();
        let attributes = attributes.map(|pair| format!("{}={}", pair.key, pair.value));
        let attributes: Vec<_> = attributes.collect();
        let tags: Vec<_> = self.tag_labels.iter().map(Key::as_str).collect();
        let shard = self.shard.map(|shard| shard.to_string());
        format!("{attributes:?} {tags:?} {shard:?}")
    }

    /// The keys of deployment tags that are exported as attributes.
    pub fn tag_keys(&self) -> &TagKeys {
        &self.tag_keys
    }

    /// The tag values of each deployment.
    pub fn tag_attributes(&self, snapshot: &Snapshot) -> TagAttributes {
        if self.tag_keys.is_empty() {
            return TagAttributes::new();
        }
        let deployments = snapshot.inventory.deployments.values();
        let tags = deployments.map(|deployment| {
            let flow = snapshot.flow_name(deployment.flow_id.as_ref());
            let values = self.tag_keys.values(Some(deployment));
            ([deployment.name.label(), flow], values)
        });
        tags.collect()
    }
}

/// Attributes in the order of their keys: the SDK stores each series under its attributes in the
/// given order and in this one, once if they are equal.
pub(super) fn sorted(mut attributes: Vec<KeyValue>) -> Vec<KeyValue> {
    attributes.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    attributes
}

/// The families whose OpenTelemetry or Prometheus name one of `patterns` matches.
fn matching(setting: &str, patterns: &[String]) -> Result<HashSet<&'static str>, settings::Error> {
    let mut all = HashSet::new();
    for text in patterns {
        let pattern = WildMatch::new(text);
        let matches = |family: &&Family| {
            pattern.matches(family.name) || pattern.matches(&family.prometheus_name())
        };
        let mut matched = catalogue().filter(matches).peekable();
        if matched.peek().is_none() {
            return Err(settings::Error::unusable(setting, text));
        }
        all.extend(matched.map(|family| family.name));
    }
    Ok(all)
}

/// An additional attribute must not have the same Prometheus label as an attribute of a family.
fn check_keys(metrics: &settings::Metrics) -> Result<(), settings::Error> {
    let label = |name: &str| name.replace('.', "_");
    let mut taken: HashSet<String> = catalogue()
        .flat_map(|family| family.attributes)
        .map(|name| label(name))
        .chain(["le", "quantile", "job", "instance", WORKSPACE].map(label))
        .collect();
    let attributes = metrics.attributes.iter().map(|(key, _)| key);
    let attributes = attributes.map(|key| ("METRICS_ATTRIBUTES", key));
    let tags = metrics.deployment_tag_labels.iter();
    let tags = tags.map(|key| ("DEPLOYMENT_TAG_LABELS", key));
    for (setting, key) in attributes.chain(tags) {
        if !taken.insert(label(key)) {
            return Err(settings::Error::unusable(setting, key));
        }
    }
    Ok(())
}
