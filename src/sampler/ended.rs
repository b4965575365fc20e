//! Final states, told apart from one another.
//!
//! A run says only in which state it is now. One that was started again may have been final
//! in between: its states are read, once for each start, and only for such runs.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio::time::Instant;

use super::runs::{Id, Run};
use crate::ledger::Finished;
use crate::prefect::{Client, Error};
use crate::snapshot::{FlowRun, State, StateType};

/// Histories asked for at one time; the client lets fewer through.
const SIDE_BY_SIDE: usize = 64;

/// A run that got into a final state.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) run: Run,
    pub(super) state_id: Id,
    state_type: StateType,
    state_name: Arc<str>,
    pub(super) end: Timestamp,
    run_time: Option<f64>,
    retries: u64,
    first: bool,
}

/// What is known of a run that was started more than once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Past {
    /// Its starts, at the time of asking.
    pub(super) run_count: u64,
    /// Final states so far.
    finals: u64,
    /// Retries up to the last of them.
    retries: u64,
}

impl Ended {
    /// The final state that `run` is in, given its `past`.
    pub(super) fn current(run: &Run, past: Past, now: Timestamp) -> Option<Self> {
        let starts = run.run_count.unwrap_or_default();
        Some(Ended {
            state_id: Arc::clone(run.state_id.as_ref()?),
            state_type: run.state_type.filter(|state| state.is_final())?,
            state_name: run.state_name.label(),
            end: run.end_time.unwrap_or(now),
            run_time: run.total_run_time,
            retries: starts.saturating_sub(1).saturating_sub(past.retries),
            first: past.finals == 0,
            run: Arc::clone(run),
        })
    }

    /// With the names of its deployment and flow.
    pub(super) fn named(self, (deployment, flow): (Arc<str>, Arc<str>)) -> Finished {
        Finished {
            run: self.run,
            deployment,
            flow,
            state_id: self.state_id,
            state_type: self.state_type,
            state_name: self.state_name,
            end: self.end,
            run_time: self.run_time,
            retries: self.retries,
            first: self.first,
        }
    }
}

/// Whether a run was started more than once.
pub(super) fn was_restarted(run: &FlowRun) -> bool {
    run.run_count.is_some_and(|count| count > 1)
}

/// The final states *before* the one that a run is in now, and what is known of it then.
pub(super) fn earlier(run: &Run, states: &[State]) -> (Vec<Ended>, Past) {
    let mut ended = Vec::new();
    let mut past = Past {
        run_count: run.run_count.unwrap_or_default(),
        ..Past::default()
    };
    let (mut starts, mut run_time, mut before) = (0, 0.0, None::<&State>);
    for state in states {
        if let Some(before) = before.filter(|before| before.kind == StateType::Running)
            && let (Some(from), Some(to)) = (before.timestamp, state.timestamp)
        {
            run_time += to.duration_since(from).as_secs_f64().max(0.0);
        }
        // Prefect does not count a resumption as a start.
        let resumed = before.is_some_and(|before| before.kind == StateType::Paused);
        if state.kind == StateType::Running && !resumed {
            starts += 1;
        }
        before = Some(state);
        if run.state_id.as_ref() == Some(&state.id) {
            break;
        }
        let Some(end) = state.timestamp.filter(|_| state.kind.is_final()) else {
            continue;
        };
        let until_now = u64::saturating_sub(starts, 1);
        ended.push(Ended {
            run: Arc::clone(run),
            state_id: Arc::clone(&state.id),
            state_type: state.kind,
            state_name: state.name.label(),
            end,
            run_time: Some(run_time),
            retries: until_now - past.retries,
            first: past.finals == 0,
        });
        past.retries = until_now;
        past.finals += 1;
    }
    (ended, past)
}

/// The states of each of `runs`; `None` where they cannot be read before `deadline`.
pub(super) async fn read_states(
    client: &Client,
    runs: Vec<Run>,
    deadline: Instant,
) -> Vec<(Run, Option<Vec<State>>)> {
    stream::iter(runs)
        .map(|run| async move {
            let states = match tokio::time::timeout_at(deadline, client.states(&run.id)).await {
                Ok(Ok(states)) => Some(states),
                // An API that does not tell, or not us: the run counts as it is.
                Ok(Err(Error::Status {
                    status: 403..=405, ..
                })) => Some(Vec::new()),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "states could not be read");
                    None
                }
                Err(_) => None,
            };
            (run, states)
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .collect()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(kinds: &[&str]) -> Vec<State> {
        let state = |(index, kind): (usize, &&str)| {
            let json = format!(
                r#"{{"id":"s{index}","type":"{kind}","name":"{kind}","timestamp":"2026-06-01T10:00:{index:02}Z"}}"#
            );
            serde_json::from_str(&json).unwrap()
        };
        kinds.iter().enumerate().map(state).collect()
    }

    fn run(state: usize, run_count: u64) -> Run {
        let json = format!(
            r#"{{"id":"r","state_id":"s{state}","state_type":"COMPLETED","run_count":{run_count}}}"#
        );
        Arc::new(serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn a_run_that_prefect_retried_has_no_earlier_final_state() {
        let states = states(&["PENDING", "RUNNING", "SCHEDULED", "RUNNING", "COMPLETED"]);
        let run = run(4, 2);
        let (ended, past) = earlier(&run, &states);
        assert!(ended.is_empty());
        let now = Ended::current(&run, past, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((now.retries, now.first), (1, true));
    }

    #[test]
    fn a_run_retried_by_hand_has_one_and_retries_add_up_to_its_starts() {
        let states = states(&[
            "RUNNING",
            "SCHEDULED",
            "RUNNING",
            "FAILED",
            "SCHEDULED",
            "RUNNING",
            "PAUSED",
            "RUNNING",
            "COMPLETED",
        ]);
        let run = run(8, 3);
        let (ended, past) = earlier(&run, &states);
        assert_eq!(ended.len(), 1);
        assert_eq!((ended[0].retries, ended[0].first), (1, true));
        assert_eq!(ended[0].run_time, Some(2.0));
        let now = Ended::current(&run, past, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((now.retries, now.first), (1, false));
    }

    #[test]
    fn states_without_order_or_end_do_no_harm() {
        let (ended, past) = earlier(&run(9, 7), &states(&["FAILED", "FAILED", "RUNNING"]));
        assert_eq!((ended.len(), past.retries), (2, 0));
    }
}
