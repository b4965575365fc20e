//! An observer: `increase()` over all counters that arrive, as Prometheus computes it.

use std::collections::HashMap;
use std::sync::Arc;

use prefect_otel_agent::core::State;
use prefect_otel_agent::core::counters::{Counter, FLOW_RUNS_FINISHED, TASK_RUNS_FINISHED};
use prefect_otel_agent::core::tally::Total;

/// A series: the counter and its labels, which are empty for the series beyond the limit.
type Series = (usize, Vec<Arc<str>>);

const COUNTERS: [Counter; 2] = [FLOW_RUNS_FINISHED, TASK_RUNS_FINISHED];

/// The values of every series in a state.
fn shown(state: &State) -> impl Iterator<Item = (Series, Total)> {
    COUNTERS
        .into_iter()
        .enumerate()
        .flat_map(|(number, counter)| {
            let totals = Arc::clone(state.counters.of(counter));
            let overflow = totals.overflow.map(|total| ((number, Vec::new()), total));
            let series = totals.series.clone().into_iter();
            let series = series.map(move |(labels, total)| ((number, labels.to_vec()), total));
            series.chain(overflow).collect::<Vec<_>>()
        })
}

/// The samples of each series, as far as `increase()` depends on them.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    series: HashMap<Series, Total>,
    increase: u64,
    /// The part that no receiver can have seen: it was in a checkpoint, and the process was killed
    /// before the state with it arrived.
    lost: u64,
    /// The last value of each series that arrived, from any instance. A checkpoint may contain a
    /// series that ended after it was written, whose value has been seen.
    arrived: HashMap<Series, Total>,
}

impl Observer {
    /// Receives a state.
    pub(crate) fn see(&mut self, state: &State) -> Result<(), String> {
        let now: HashMap<Series, Total> = shown(state).collect();
        for (series, total) in &now {
            let Some(before) = self.series.get(series) else {
                continue;
            };
            let is_reset = total.value < before.value;
            if is_reset && total.since == before.since {
                return Err(format!("{series:?} falls from {before:?} to {total:?}"));
            }
            if total.since != before.since && total.value > 0 {
                return Err(format!(
                    "{series:?} starts over, but not at zero: from {before:?} to {total:?}"
                ));
            }
            self.increase += match is_reset {
                true => total.value,
                false => total.value - before.value,
            };
        }
        self.arrived.extend(now.clone());
        // A series that returns after a while is the same series.
        self.series.extend(now);
        Ok(())
    }

    /// A restored process is a new instance with different series. Its `first` state has the values
    /// exported last; if these have not `arrived`, they are lost.
    pub(crate) fn meet(&mut self, first: &State, arrived: bool) -> Result<(), String> {
        self.series.clear();
        let mut lost = 0;
        for (series, total) in shown(first) {
            // A series that starts over has not been seen.
            let before = self.arrived.insert(series, total);
            let before = before.filter(|before| before.since == total.since);
            let before = before.map_or(0, |before| before.value);
            lost += total.value.saturating_sub(before);
        }
        if arrived && lost > 0 {
            return Err(format!(
                "{lost} events are in the first samples of an instance"
            ));
        }
        self.lost += lost;
        Ok(())
    }

    /// Forgets everything seen before.
    pub(crate) fn forget(&mut self) {
        *self = Observer::default();
    }

    /// `increase()` over everything, plus the part that it cannot include.
    pub(crate) fn increase(&self) -> u64 {
        self.increase + self.lost
    }
}
