//! What is chosen about the families: which of them, and with which attributes more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::{Key, KeyValue};
use wildmatch::WildMatch;

use super::compatible::{DEPLOYMENT_NAME, FLOW_NAME, FLOW_RUN_NAME};
use super::{Buckets, Family, Source, catalogue};
use crate::core::sections::Section;
use crate::core::snapshot::Snapshot;
use crate::settings::{self, Settings};

/// What is chosen about the families.
#[derive(Debug, Clone)]
pub struct Options {
    /// Add `flow_run.name` to the families that can have it.
    pub flow_run_name_label: bool,
    /// The window of the flow-run families.
    pub offset: Duration,
    /// Newest failed runs shown for each deployment, flow and state name.
    pub failed_runs_limit: usize,
    /// Series a family.
    pub cardinality_limit: usize,
    run_duration_buckets: Vec<f64>,
    start_delay_buckets: Vec<f64>,
    chosen: HashSet<&'static str>,
    attributes: Vec<KeyValue>,
    tag_labels: Vec<Key>,
}

/// Attributes that come from a deployment's tags, by its name and that of its flow.
pub type TagAttributes = HashMap<[Arc<str>; 2], Vec<KeyValue>>;

impl Options {
    /// What `settings` choose.
    ///
    /// # Errors
    ///
    /// When a pattern matches no family, or an attribute's key is one that a family has.
    pub fn new(settings: &Settings) -> Result<Self, settings::Error> {
        let metrics = &settings.metrics;
        let included = matching("METRICS_INCLUDE", &metrics.include)?;
        let excluded = matching("METRICS_EXCLUDE", &metrics.exclude)?;
        let tasks = settings.sampling.task_runs;
        let chosen = catalogue()
            .filter(|family| tasks || !family.is_of_task_runs())
            .map(|family| family.name)
            .filter(|name| metrics.include.is_empty() || included.contains(name))
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
            run_duration_buckets: metrics.run_duration_buckets.clone(),
            start_delay_buckets: metrics.start_delay_buckets.clone(),
            chosen,
            attributes: attributes
                .map(|(key, value)| KeyValue::new(key.clone(), value.clone()))
                .collect(),
            tag_labels: tag_labels.map(|key| Key::from(key.clone())).collect(),
        })
    }

    /// The families that are exported.
    pub fn families(&self) -> impl Iterator<Item = &'static Family> {
        catalogue().filter(|family| self.chosen.contains(family.name))
    }

    /// The sections that no exported family is read from.
    pub fn unused_sections(&self) -> Vec<Section> {
        let read: HashSet<Section> = self
            .families()
            .filter_map(|family| match family.source {
                Source::Read(sections, _) => Some(sections),
                Source::Counted(_) | Source::Measured(_) | Source::Recorded => None,
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

    /// Whether an attribute is left out of every family.
    pub(super) fn leaves_out(&self, attribute: &str) -> bool {
        attribute == FLOW_RUN_NAME && !self.flow_run_name_label
    }

    /// The attributes of one series of `family`, given the values of those that it declares.
    pub fn series(
        &self,
        family: &Family,
        values: &[Arc<str>],
        tags: &TagAttributes,
    ) -> Vec<KeyValue> {
        let own = family.attributes.iter().zip(values);
        let kept = own.clone().filter(|(name, _)| !self.leaves_out(name));
        let mut attributes: Vec<_> = kept
            .map(|(name, value)| {
                let value = opentelemetry::StringValue::from(Arc::clone(value));
                KeyValue::new(*name, value)
            })
            .collect();
        if !tags.is_empty()
            && let [Some(deployment), Some(flow)] = [DEPLOYMENT_NAME, FLOW_NAME].map(|wanted| {
                let mut own = own.clone();
                own.find(|(name, _)| **name == wanted)
                    .map(|(_, value)| value)
            })
            && let Some(tags) = tags.get(&[Arc::clone(deployment), Arc::clone(flow)])
        {
            attributes.extend_from_slice(tags);
        }
        attributes.extend_from_slice(&self.attributes);
        attributes
    }

    /// The attributes of every series.
    pub fn common(&self) -> &[KeyValue] {
        &self.attributes
    }

    /// What the tags of each deployment say: `team:data` is the value `data` of `team`. Of
    /// several tags with one key, the values are sorted and joined by commas.
    pub fn tag_attributes(&self, snapshot: &Snapshot) -> TagAttributes {
        let mut all = TagAttributes::new();
        if self.tag_labels.is_empty() {
            return all;
        }
        for deployment in snapshot.inventory.deployments.values() {
            let tags = deployment
                .tags
                .value()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let attributes: Vec<_> = self
                .tag_labels
                .iter()
                .filter_map(|key| {
                    let value = |tag: &Arc<str>| {
                        let (name, value) = tag.split_once(':')?;
                        (name.trim() == key.as_str()).then(|| value.trim().to_owned())
                    };
                    let mut values: Vec<String> = tags.iter().filter_map(value).collect();
                    values.sort_unstable();
                    (!values.is_empty()).then(|| KeyValue::new(key.clone(), values.join(",")))
                })
                .collect();
            if !attributes.is_empty() {
                let flow = snapshot.flow_name(deployment.flow_id.as_ref());
                all.insert([deployment.name.label(), flow], attributes);
            }
        }
        all
    }
}

/// The families that one of `patterns` matches, in one spelling or the other.
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

/// An attribute for all series must not be one that a family has, in Prometheus' spelling.
fn check_keys(metrics: &settings::Metrics) -> Result<(), settings::Error> {
    let label = |name: &str| name.replace('.', "_");
    let mut taken: HashSet<String> = catalogue()
        .flat_map(|family| family.attributes)
        .map(|name| label(name))
        .chain(["le", "quantile", "job", "instance"].map(str::to_owned))
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
