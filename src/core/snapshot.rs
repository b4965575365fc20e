//! The workspace as last read: immutable data for the catalogue.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Run;
use super::clock::{after, before};
use super::inventory::Inventory;
use super::sections::{Freshness, Section};
use super::tally::Label;
use crate::prefect::Id;
use crate::prefect::runs::{FlowRun, StateType};

/// The last runs of a deployment.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LastRuns {
    /// When the last run ended, by terminal state type.
    pub ends: HashMap<StateType, Timestamp>,
    /// When the last run of any state ended, and its run time in seconds.
    pub last: Option<(Timestamp, Option<f64>)>,
}

/// The state of a section.
#[derive(Debug, Clone, Copy)]
pub struct SectionState {
    /// How old it is.
    pub freshness: Freshness,
    /// The age beyond which it is stale.
    pub stale_after: Duration,
    /// Whether the API does not have it.
    pub absent: bool,
    /// Failed reads since the start.
    pub errors: u64,
    /// Objects skipped since the start because they could not be decoded.
    pub skipped: u64,
    /// How far its cursor is behind the server's time, if it has a cursor.
    pub lag: Option<Duration>,
}

/// The workspace as last read.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The time of the snapshot, by the server's clock.
    pub now: Timestamp,
    /// Whether Prefect could be read in the last cycle.
    pub up: bool,
    /// Time since that cycle ended.
    pub age: Duration,
    /// The age beyond which `up` is false.
    pub stale_after: Duration,
    /// The server's version, if it reports one.
    pub version: Option<Arc<str>>,
    /// Every enabled section.
    pub sections: HashMap<Section, SectionState>,
    /// The objects that change rarely.
    pub inventory: Inventory,
    /// Runs that have not ended, including scheduled ones within the look-ahead.
    pub unfinished: Arc<[Run]>,
    /// Finished runs whose end, or whose actual or expected start, is within the window.
    pub finished: Arc<[Run]>,
    /// Failed and crashed runs of deployments within the window of failed runs.
    pub failed: Arc<[Run]>,
}

impl SectionState {
    fn aged(self, by: Duration) -> Self {
        let age = self.freshness.age.saturating_add(by);
        SectionState {
            freshness: Freshness {
                age,
                stale: self.freshness.stale || age > self.stale_after,
            },
            lag: self.lag.map(|lag| lag.saturating_add(by)),
            ..self
        }
    }
}

impl Snapshot {
    /// The same workspace `by` later, if nothing has been read in between.
    pub fn aged(&self, by: Duration) -> Snapshot {
        let age = self.age.saturating_add(by);
        let sections = self.sections.iter();
        Snapshot {
            now: after(self.now, by),
            up: self.up && age <= self.stale_after,
            age,
            sections: sections
                .map(|(section, state)| (*section, state.aged(by)))
                .collect(),
            ..self.clone()
        }
    }

    /// Whether the API has all of `sections`, and none of them is stale.
    pub fn is_fresh(&self, sections: &[Section]) -> bool {
        let is_fresh = |state: &SectionState| !state.freshness.stale && !state.absent;
        let mut sections = sections.iter();
        sections.all(|section| self.sections.get(section).is_some_and(is_fresh))
    }

    /// When a section was last read, by the server's clock.
    pub fn read_time(&self, section: Section) -> Timestamp {
        let age = self.sections.get(&section).map(|state| state.freshness.age);
        before(self.now, age.unwrap_or_default())
    }

    /// The name of the flow with this id, as a label.
    pub fn flow_name(&self, id: Option<&Id>) -> Label {
        self.inventory.flow_name(id)
    }

    /// The names of a run's deployment and flow, as labels.
    pub fn names(&self, run: &FlowRun) -> (Label, Label) {
        self.inventory.names(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(stale: bool) -> Snapshot {
        let state = SectionState {
            freshness: Freshness {
                age: Duration::from_secs(20),
                stale,
            },
            stale_after: Duration::from_secs(90),
            absent: false,
            errors: 0,
            skipped: 0,
            lag: Some(Duration::from_secs(2)),
        };
        Snapshot {
            up: true,
            stale_after: Duration::from_secs(90),
            sections: HashMap::from([(Section::ActiveRuns, state)]),
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_section_that_is_not_read_again_becomes_stale_and_keeps_its_read_time() {
        let read = snapshot(false);
        for (seconds, up, fresh) in [
            (0, true, true),
            (70, true, true),
            (71, true, false),
            (91, false, false),
        ] {
            let aged = read.aged(Duration::from_secs(seconds));
            let of_section = aged.sections[&Section::ActiveRuns];
            assert_eq!(aged.up, up, "{seconds}");
            assert_eq!(aged.is_fresh(&[Section::ActiveRuns]), fresh, "{seconds}");
            assert_eq!(of_section.freshness.age.as_secs(), 20 + seconds);
            assert_eq!(of_section.lag.unwrap().as_secs(), 2 + seconds);
            assert_eq!(
                aged.read_time(Section::ActiveRuns),
                read.read_time(Section::ActiveRuns)
            );
        }
    }

    #[test]
    fn a_section_that_was_never_read_does_not_become_fresh() {
        let aged = snapshot(true).aged(Duration::ZERO);
        assert!(!aged.is_fresh(&[Section::ActiveRuns]));
    }

    #[test]
    fn ages_add_up() {
        let (once, twice) = (
            snapshot(false).aged(Duration::from_secs(100)),
            snapshot(false)
                .aged(Duration::from_secs(50))
                .aged(Duration::from_secs(50)),
        );
        assert_eq!((once.now, once.up), (twice.now, twice.up));
    }
}
