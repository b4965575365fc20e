//! An observer: `increase()` over all counters that arrive, as Prometheus computes it.

use std::collections::HashMap;
use std::sync::Arc;

use prefect_otel_agent::core::State;
use prefect_otel_agent::core::counters::{Counter, FLOW_RUNS_FINISHED, TASK_RUNS_FINISHED};
use prefect_otel_agent::core::tally::{Total, Totals};

/// A series: the counter and its labels; without labels, the series beyond the limit.
type Series = (usize, Option<Arc<[Arc<str>]>>);

const COUNTERS: [Counter; 2] = [FLOW_RUNS_FINISHED, TASK_RUNS_FINISHED];

/// The values of every series of a counter.
fn shown(number: usize, totals: &Totals) -> impl Iterator<Item = (Series, Total)> {
    let overflow = totals.overflow.map(|total| ((number, None), total));
    let series = totals.series.iter();
    let series = series.map(move |(labels, total)| ((number, Some(Arc::clone(labels))), *total));
    series.chain(overflow)
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
    /// The last values of each counter, which states share until they change.
    last: [Option<Arc<Totals>>; COUNTERS.len()],
}

impl Observer {
    /// Receives a state.
    pub(crate) fn receive(&mut self, state: &State) -> Result<(), String> {
        for (number, counter) in COUNTERS.into_iter().enumerate() {
            let totals = state.counters.of(counter);
            let last = self.last[number].replace(Arc::clone(totals));
            if last.is_some_and(|last| Arc::ptr_eq(&last, totals)) {
                continue;
            }
            for (series, total) in shown(number, totals) {
                // A series that returns after a while is the same series.
                if let Some(before) = self.series.insert(series.clone(), total) {
                    self.increase += increase(&series, before, total)?;
                }
                self.arrived.insert(series, total);
            }
        }
        Ok(())
    }

    /// A restored process is a new instance with different series. Its `first` state has the values
    /// exported last; if these have not `arrived`, they are lost.
    pub(crate) fn begin_instance(&mut self, first: &State, arrived: bool) -> Result<(), String> {
        self.series.clear();
        self.last = Default::default();
        let mut lost = 0;
        let counters = COUNTERS.into_iter().enumerate();
        let all = counters.flat_map(|(number, counter)| shown(number, first.counters.of(counter)));
        for (series, total) in all {
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

/// The increase between two samples of a series.
fn increase(series: &Series, before: Total, total: Total) -> Result<u64, String> {
    let is_reset = total.value < before.value;
    if is_reset && total.since == before.since {
        return Err(format!("{series:?} falls from {before:?} to {total:?}"));
    }
    if total.since != before.since && total.value > 0 {
        return Err(format!(
            "{series:?} starts over, but not at zero: from {before:?} to {total:?}"
        ));
    }
    Ok(match is_reset {
        true => total.value,
        false => total.value - before.value,
    })
}
