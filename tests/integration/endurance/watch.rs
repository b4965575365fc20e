//! What the process uses over time, and what it has counted.

use std::collections::BTreeMap;
use std::time::Duration;

use super::workspace::Counts;
use crate::support::page::{Labels, Page};

const FAMILY: &str = "prefect_flow_runs_finished_total";

/// The process at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: Duration,
    pub(super) resident_bytes: u64,
    pub(super) descriptors: u64,
    /// Terminal states in Prefect, and on `/metrics`.
    pub(super) ended: u64,
    pub(super) counted: u64,
}

/// The resident memory of a process.
pub(super) fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kilobytes.parse::<u64>().unwrap() * 1_024
}

/// The number of open file descriptors of a process.
pub(super) fn descriptors(process: u32) -> u64 {
    let folder = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    folder.count() as u64
}

/// The counts that arrived by one path.
#[derive(Default)]
pub(super) struct Counted(BTreeMap<Labels, f64>);

impl Counted {
    /// Adds what a page or a push contains. A count never decreases, because the process does not
    /// restart.
    pub(super) fn observe(&mut self, page: &Page) {
        for (labels, value) in page.family(FAMILY) {
            let before = self.0.insert(labels.clone(), value).unwrap_or_default();
            assert!(
                value >= before,
                "{labels:?} decreased from {before} to {value}"
            );
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for (labels, value) in self.0.iter().filter(|(_, value)| **value > 0.0) {
            let key = ["deployment_name", "state_type"].map(|name| labels[name].clone());
            *counts.entry(key.into()).or_default() += *value as u64;
        }
        counts
    }

    /// The number of terminal states that have arrived; never more than there are.
    pub(super) fn total(&self, truth: &Counts) -> u64 {
        let counts = self.counts();
        for (key, count) in &counts {
            let ended = truth.get(key).copied().unwrap_or_default();
            assert!(
                *count <= ended,
                "{key:?}: counted {count}, but {ended} ended"
            );
        }
        counts.values().sum()
    }
}

/// The median of a value over a part of the samples.
fn median(samples: &[Sample], value: impl Fn(&Sample) -> u64) -> f64 {
    let mut values: Vec<_> = samples.iter().map(value).collect();
    values.sort_unstable();
    values[values.len() / 2] as f64
}

/// How a value changes after the warm-up, which is a third of the time: the median of the last
/// sixth, relative to that of the sixth after the warm-up.
pub(super) fn growth(samples: &[Sample], value: impl Fn(&Sample) -> u64) -> f64 {
    let sixth = samples.len() / 6;
    let early = median(&samples[2 * sixth..3 * sixth], &value);
    let late = median(&samples[samples.len() - sixth..], &value);
    late / early - 1.0
}

#[test]
fn growth_is_that_after_the_warm_up() {
    let samples = |values: [u64; 6]| -> Vec<Sample> {
        let each = values.into_iter().flat_map(|value| [value; 10]);
        each.map(|value| Sample {
            at: Duration::ZERO,
            resident_bytes: value,
            descriptors: 0,
            ended: 0,
            counted: 0,
        })
        .collect()
    };
    let resident = |sample: &Sample| sample.resident_bytes;
    assert_eq!(growth(&samples([1, 50, 100, 100, 900, 100]), resident), 0.0);
    assert_eq!(growth(&samples([1, 50, 100, 110, 120, 150]), resident), 0.5);
}
