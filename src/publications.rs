//! Which states have been published.
//!
//! A publication contains the states of all workspaces. Exporters know publications by their number;
//! each workspace wants to know which of its own states have been delivered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Of older publications, nobody asks any more: an exporter that has delivered nothing since then is
/// not in use.
const KEPT: usize = 1_000;

/// The publications so far. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Publications(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    last: u64,
    /// The number of each workspace's state, by the number of the publication.
    states: BTreeMap<u64, Vec<u64>>,
    /// The first publication that contains everything that histograms have measured.
    measured: u64,
}

impl Publications {
    /// Notes that the states with these numbers, one for each workspace, are being published.
    /// Returns the number of the publication.
    pub fn add(&self, states: Vec<u64>) -> u64 {
        let mut known = self.known();
        known.last = known.last.saturating_add(1);
        let number = known.last;
        known.states.insert(number, states);
        if known.states.len() > KEPT {
            known.states.pop_first();
        }
        number
    }

    /// The number of the state of `workspace` in the publication `number`, or in the last one before
    /// it; 0 if that is not known.
    pub fn state(&self, number: u64, workspace: usize) -> u64 {
        let known = self.known();
        let last = known.states.range(..=number).next_back();
        let state = last.and_then(|(_, states)| states.get(workspace));
        state.copied().unwrap_or_default()
    }

    /// Notes that histograms have measured something, which the next publication contains.
    pub fn note_measured(&self) {
        let mut known = self.known();
        known.measured = known.last.saturating_add(1);
    }

    /// Whether the publication `number` contains everything that histograms have measured.
    pub fn has_measured(&self, number: u64) -> bool {
        self.known().measured <= number
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_workspace_learns_which_of_its_states_was_published() {
        let publications = Publications::default();
        assert_eq!(publications.state(0, 0), 0);
        let first = publications.add(vec![4, 7]);
        let second = publications.add(vec![5, 7]);
        assert!(first < second);
        assert_eq!(publications.state(first, 0), 4);
        assert_eq!(publications.state(second, 0), 5);
        assert_eq!(publications.state(second, 1), 7);
        assert_eq!(publications.state(second, 2), 0);
        // Without exporters, everything counts as delivered.
        assert_eq!(publications.state(u64::MAX, 0), 5);
        for _ in 0..KEPT {
            publications.add(vec![9, 9]);
        }
        assert_eq!(publications.state(first, 0), 0);
    }

    #[test]
    fn what_is_measured_is_in_the_next_publication() {
        let publications = Publications::default();
        assert!(publications.has_measured(0));
        let before = publications.add(vec![1]);
        publications.note_measured();
        assert!(!publications.has_measured(before));
        let after = publications.add(vec![1]);
        assert!(publications.has_measured(after));
    }
}
