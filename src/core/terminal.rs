//! The terminal states of a run, current and earlier.
//!
//! A run shows only its current state. A run that was started more than once may have been in a
//! terminal state before, which the list of its states shows.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::Run;
use super::events::FinishedRun;
use super::reader::Names;
use super::tally::Label;
use crate::prefect::Id;
use crate::prefect::runs::{FlowRun, RunState, StateType};

/// The run time is rounded, in seconds.
const ROUNDING: f64 = 0.1;

/// A run that reached a terminal state.
#[derive(Debug, Clone)]
pub(super) struct Terminal {
    pub(super) run: Run,
    pub(super) state_id: Id,
    state_type: StateType,
    state_name: Label,
    pub(super) end: Timestamp,
    /// The later one of `end` and the time of the state. A terminal state that replaces another one
    /// keeps the end time of the run.
    pub(super) latest: Timestamp,
    run_time: Option<f64>,
    pub(super) retries: u64,
    first: bool,
}

/// What is known about the states of a run before its current one.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    /// How often the run had started when its states were read, as counted by the server.
    pub(super) run_count: u64,
    /// The terminal states among them.
    pub(super) terminal: HashSet<Id>,
    /// The number of starts until the current state. Resuming is not a start, although the server
    /// may count it.
    starts: u64,
    /// The number of retries up to the last terminal state among them.
    retries: u64,
}

impl Terminal {
    /// The current terminal state of `run`, given its `history`; `None` if its state is not
    /// terminal.
    pub(super) fn current(run: &Run, history: Option<&History>, now: Timestamp) -> Option<Self> {
        let state_id = run.state_id.as_ref()?;
        let (starts, retries, earlier) = match history {
            Some(history) => {
                let mut terminal = history.terminal.iter();
                let earlier = terminal.any(|terminal| terminal != state_id);
                (history.starts, history.retries, earlier)
            }
            None => (run.run_count.unwrap_or_default(), 0, false),
        };
        Some(Terminal {
            state_id: Arc::clone(state_id),
            state_type: run.state_type.filter(|state| state.is_final())?,
            state_name: run.state_name.label(),
            end: run.end_time.unwrap_or(now),
            latest: run.latest_end().unwrap_or(now),
            run_time: run.total_run_time,
            retries: starts.saturating_sub(1).saturating_sub(retries),
            first: !earlier,
            run: Arc::clone(run),
        })
    }

    /// Notes that it is not the run's first terminal state.
    pub(super) fn set_not_first(&mut self) {
        self.first = false;
    }

    /// Adds the names of its deployment and flow.
    pub(super) fn named(self, names: Names) -> FinishedRun {
        FinishedRun {
            run: self.run,
            deployment: names.deployment,
            flow: names.flow,
            tags: names.tags,
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

/// Whether the earlier states of a run have to be read, given how often it had started when they
/// were last read. That is the case if it has started again; if it was cancelled or crashed, which
/// can happen while a retried run waits for its next start; or if it ended before it started.
pub(super) fn needs_history(run: &FlowRun, read_at: Option<u64>) -> bool {
    let starts = run.run_count.unwrap_or_default();
    let restarted = starts > 1 && read_at != Some(starts);
    let while_waiting = [StateType::Cancelled, StateType::Crashed].map(Some);
    restarted
        || starts > 0 && while_waiting.contains(&run.state_type)
        || starts <= 1 && read_at != Some(starts) && has_a_gap(run)
}

/// Whether a run was not running for some of the time between its start and its end: it was paused,
/// or it ended before it started, and was retried. Since Prefect 3.6.14, `start_time` is the time
/// of the first terminal state in the latter case.
fn has_a_gap(run: &FlowRun) -> bool {
    let (Some(start), Some(end)) = (run.start_time, run.end_time) else {
        return false;
    };
    let running = run.total_run_time.unwrap_or_default();
    run.is_final() && end.duration_since(start).as_secs_f64() > running + ROUNDING
}

/// Whether there are states after the one that `run` was listed with. Usually, its state has
/// changed since then; otherwise clocks differ, and the order of its states is not that of their
/// timestamps.
pub(super) fn has_later(run: &FlowRun, states: &[RunState]) -> bool {
    let is_current = |state: &&RunState| run.state_id.as_ref() == Some(&state.id);
    let current = states.iter().find(is_current);
    let current = current.and_then(|state| state.timestamp);
    current.is_some_and(|time| states.iter().any(|state| state.timestamp > Some(time)))
}

/// The terminal states *before* the current state of `run`, and the resulting history.
///
/// The server orders states by their timestamps, which are set by the process that proposes the
/// state. If clocks differ, an earlier state can come after the current one.
pub(super) fn earlier_states(
    run: &Run,
    mut states: Vec<RunState>,
    now: Timestamp,
) -> (Vec<Terminal>, History) {
    states.sort_by_key(|state| state.timestamp);
    let is_current = |state: &RunState| run.state_id.as_ref() == Some(&state.id);
    states.sort_by_key(is_current);
    let mut ended: Vec<Terminal> = Vec::new();
    let mut history = History {
        run_count: run.run_count.unwrap_or_default(),
        ..History::default()
    };
    let (mut run_time, mut before, mut paused) = (0.0, None::<&RunState>, false);
    for state in &states {
        if let Some(before) = before.filter(|before| before.kind == StateType::Running)
            && let (Some(from), Some(to)) = (before.timestamp, state.timestamp)
        {
            run_time += to.duration_since(from).as_secs_f64().max(0.0);
        }
        before = Some(state);
        match state.kind {
            StateType::Paused => paused = true,
            StateType::Running if paused => paused = false,
            StateType::Running => history.starts = history.starts.saturating_add(1),
            kind if kind.is_final() => paused = false,
            _ => {}
        }
        if !state.kind.is_final() || is_current(state) {
            continue;
        }
        let until_now = history.starts.saturating_sub(1);
        ended.push(Terminal {
            run: Arc::clone(run),
            state_id: Arc::clone(&state.id),
            state_type: state.kind,
            state_name: state.name.label(),
            end: state.timestamp.unwrap_or(now),
            latest: state.timestamp.unwrap_or(now),
            run_time: Some(run_time),
            retries: until_now.saturating_sub(history.retries),
            first: history.terminal.is_empty(),
        });
        history.retries = until_now;
        history.terminal.insert(Arc::clone(&state.id));
    }
    (ended, history)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn state(id: usize, kind: &str, second: usize) -> RunState {
        let json = format!(
            r#"{{"id":"s{id}","type":"{kind}","name":"{kind}","timestamp":"2026-06-01T10:00:{second:02}Z"}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn states(kinds: &[&str]) -> Vec<RunState> {
        let numbered = kinds.iter().enumerate();
        numbered
            .map(|(index, kind)| state(index, kind, index))
            .collect()
    }

    fn run(state: usize, run_count: u64) -> Run {
        let json = format!(
            r#"{{"id":"r","state_id":"s{state}","state_type":"COMPLETED","run_count":{run_count}}}"#
        );
        Arc::new(serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn a_run_that_prefect_retried_has_no_earlier_terminal_state() {
        let states = states(&["PENDING", "RUNNING", "SCHEDULED", "RUNNING", "COMPLETED"]);
        let run = run(4, 2);
        let (ended, history) = earlier_states(&run, states, NOW);
        assert!(ended.is_empty());
        let now = Terminal::current(&run, Some(&history), NOW).unwrap();
        assert_eq!((now.retries, now.first), (1, true));
    }

    #[test]
    fn a_run_retried_manually_has_one_and_its_retries_add_up() {
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
        let (ended, history) = earlier_states(&run, states, NOW);
        assert_eq!(ended.len(), 1);
        assert_eq!((ended[0].retries, ended[0].first), (1, true));
        assert_eq!(ended[0].run_time, Some(2.0));
        let now = Terminal::current(&run, Some(&history), NOW).unwrap();
        assert_eq!((now.retries, now.first), (1, false));
    }

    #[test]
    fn a_terminal_state_that_a_slow_clock_puts_after_the_current_one_is_earlier() {
        // The worker's clock is slow: its RUNNING and COMPLETED are ordered before the FAILED.
        let states = vec![
            state(0, "RUNNING", 30),
            state(1, "FAILED", 40),
            state(2, "RUNNING", 10),
            state(3, "COMPLETED", 20),
        ];
        let run = run(3, 2);
        let (ended, history) = earlier_states(&run, states, NOW);
        let ids: Vec<_> = ended.iter().map(|ended| &*ended.state_id).collect();
        assert_eq!(ids, ["s1"]);
        let now = Terminal::current(&run, Some(&history), NOW).unwrap();
        assert_eq!(ended[0].retries + now.retries, 1);
    }

    #[test]
    fn states_without_a_timestamp_are_tolerated() {
        let (ended, history) =
            earlier_states(&run(9, 7), states(&["FAILED", "FAILED", "RUNNING"]), NOW);
        assert_eq!((ended.len(), history.retries), (2, 0));
    }

    #[test]
    fn a_resumption_is_no_retry() {
        let in_process = states(&["RUNNING", "PAUSED", "RUNNING", "COMPLETED"]);
        let run = run(3, 2);
        let (_, history) = earlier_states(&run, in_process, NOW);
        assert_eq!(
            Terminal::current(&run, Some(&history), NOW)
                .unwrap()
                .retries,
            0
        );
        let suspended = states(&[
            "RUNNING",
            "PAUSED",
            "SCHEDULED",
            "PENDING",
            "RUNNING",
            "FAILED",
            "SCHEDULED",
            "RUNNING",
            "COMPLETED",
        ]);
        let run = self::run(8, 2);
        let (ended, history) = earlier_states(&run, suspended, NOW);
        let now = Terminal::current(&run, Some(&history), NOW).unwrap();
        assert_eq!((ended[0].retries, now.retries), (0, 1));
    }
}
