//! Flow runs, unfinished and finished, and the counting of their terminal states.
//!
//! A run that any list shows in a terminal state is passed to [`Runs::ended`], where it is counted
//! once, or waits until its earlier states and its names are known.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Run;
use super::clock::before;
use super::counted::{Counted, REMEMBER, Unread};
use super::events::Event;
use super::reader::Reader;
use super::terminal::{self, History, Terminal};
use super::unfinished::{self, Unfinished};
use super::windows::Windows;
use crate::prefect::request::Range;
use crate::prefect::runs::{FlowRun, RunState};
use crate::prefect::{Id, Request};

/// The maximum number of histories requested in one round.
const HISTORIES_PER_ROUND: usize = 64;

/// How long a run waits for its names before it is counted without them.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// How often the pairs of unfinished runs are noted as needed.
const TOUCH_EVERY: Duration = Duration::from_secs(3600);

/// If more runs than this are waiting, they are counted without their names.
const MOST_WAITING: usize = 20_000;

/// How often the states of a run are requested before its earlier states are given up, not counting
/// outages of Prefect. Its current state is counted after the first failure.
const MOST_TRIES: u32 = 20;

/// A run whose current or earlier terminal states have not been counted yet.
#[derive(Debug)]
struct Waiting {
    run: Run,
    /// Since when the run has been known to be unfinished, in the server's time.
    known_since: Option<Timestamp>,
    /// Whether its earlier states are still to be read.
    needs_history: bool,
    /// The number of tries to read them.
    tries: u32,
    /// The uptime before which they are not requested again.
    not_before: Duration,
    /// The cycle in which the states that were read included some after the current one.
    had_later: Option<u64>,
    /// Whether its current state is still to be counted.
    counts: bool,
}

/// The flow runs of the workspace.
#[derive(Debug)]
pub(super) struct Runs {
    pub(super) unfinished: Unfinished,
    pub(super) windows: Windows,
    pub(super) counted: Counted,
    /// The start of counting: runs that ended before are not counted.
    pub(super) start: Option<Timestamp>,
    /// Runs that ended within this range ended before counting began, although the server's clock
    /// now indicates otherwise.
    pub(super) before_start: Option<Range>,
    /// The number of the cycle.
    cycle: u64,
    /// Whether Prefect could be read in the last cycle.
    was_up: bool,
    /// The uptime at which pairs of unfinished runs were last noted as needed.
    touched: Duration,
    histories: HashMap<Id, History>,
    /// Runs that were counted, or may have been, without all their earlier states: by the previous
    /// process, or because an older answer replaced one that was waiting.
    unread: HashSet<Id>,
    waiting: HashMap<Id, Waiting>,
    /// Terminal states that are waiting only for names, by run and state, and since when.
    unnamed: HashMap<(Id, Id), (Terminal, Duration)>,
}

impl Runs {
    pub(super) fn new(
        unfinished: Unfinished,
        windows: Windows,
        counted: Counted,
        start: Option<Timestamp>,
        unread: HashSet<Id>,
    ) -> Self {
        Runs {
            unfinished,
            windows,
            counted,
            start,
            before_start: None,
            cycle: 0,
            was_up: true,
            touched: Duration::ZERO,
            histories: HashMap::new(),
            unread,
            waiting: HashMap::new(),
            unnamed: HashMap::new(),
        }
    }

    /// Begins a cycle. `was_up` is whether Prefect could be read in the last one.
    pub(super) fn begin(&mut self, uptime: Duration, first_page_only: bool, was_up: bool) {
        self.was_up = was_up;
        self.cycle = self.cycle.wrapping_add(1);
        self.unfinished.begin(uptime, first_page_only);
    }

    /// Everything that ended before this time has been counted already, or ended before counting
    /// began.
    pub(super) fn floor(&self) -> Timestamp {
        let start = self.start.unwrap_or(Timestamp::MAX);
        start.max(self.counted.forgotten_until())
    }

    /// Processes a run in a terminal state. `known_since` is the time since which it was known to
    /// be unfinished. Such a run is counted regardless of its end time, which the worker's clock
    /// sets.
    pub(super) fn ended(
        &mut self,
        run: &Run,
        known_since: Option<Timestamp>,
        uptime: Duration,
        now: Timestamp,
    ) {
        let known_since = self.unfinished.remove(&run.id).or(known_since);
        self.windows.add(run);
        let Some(state) = &run.state_id else { return };
        if self.is_waiting(run) {
            return;
        }
        if self.is_taken(&run.id, state, uptime) {
            // A lagging replica may show the run as it was before it had earlier states.
            let waiting = self.waiting.get(&run.id);
            let newer = waiting.is_none_or(|waiting| waiting.run.run_count < run.run_count);
            if newer && self.unread.contains(&run.id) && self.needs_history(run) {
                self.wait(run, known_since, false, uptime, now);
            }
            return;
        }
        // On servers before 3.6.14, a run that never started has no end time.
        let end = run.end_time.unwrap_or(Timestamp::MIN);
        // A pair that may be forgotten was seen for the last time long before the run was known to
        // be unfinished: it has been retried since then, and the answer is that of a lagging
        // replica.
        let forgotten = known_since.is_none_or(|since| {
            let latest = run.latest_end();
            latest.is_some_and(|end| end < before(since, REMEMBER))
        });
        if forgotten && end < self.floor() {
            return;
        }
        let ended_before = self.before_start.is_some_and(|range| range.contains(end));
        if known_since.is_none() && ended_before {
            let latest = run.latest_end().unwrap_or(end);
            self.counted.insert(&run.id, state, latest, uptime);
            return;
        }
        self.wait(run, known_since, true, uptime, now);
    }

    /// Whether a terminal state has been counted, or is about to be.
    fn is_taken(&mut self, run: &Id, state: &Id, uptime: Duration) -> bool {
        self.counted.contains(run, state, uptime)
            || self
                .unnamed
                .contains_key(&(Arc::clone(run), Arc::clone(state)))
    }

    /// Processes an unfinished run that was not known: it may have ended before.
    fn appeared(&mut self, run: &Run, uptime: Duration, now: Timestamp) {
        self.windows.remove(&run.id);
        self.look_back(run, None, uptime, now);
    }

    /// Requests the states of a run that has started again since they were read.
    fn look_back(
        &mut self,
        run: &Run,
        known_since: Option<Timestamp>,
        uptime: Duration,
        now: Timestamp,
    ) {
        if self.needs_history(run) && !self.waiting.contains_key(&run.id) {
            self.wait(run, known_since, false, uptime, now);
        }
    }

    /// Looks for unfinished runs that have started again.
    pub(super) fn look_back_at_restarted(&mut self, uptime: Duration, now: Timestamp) {
        let restarted = self.unfinished.runs().filter(|run| self.needs_history(run));
        for run in restarted.cloned().collect::<Vec<_>>() {
            let since = self.unfinished.known_since(&run.id);
            self.look_back(&run, since, uptime, now);
        }
    }

    /// Whether the earlier states of a run are still to be read.
    fn needs_history(&self, run: &FlowRun) -> bool {
        let read = self.histories.get(&run.id).map(|history| history.run_count);
        terminal::needs_history(run, read)
    }

    fn is_waiting(&self, run: &FlowRun) -> bool {
        let waiting = self.waiting.get(&run.id);
        waiting.is_some_and(|waiting| waiting.run.state_id == run.state_id)
    }

    fn wait(
        &mut self,
        run: &Run,
        known_since: Option<Timestamp>,
        counts: bool,
        uptime: Duration,
        now: Timestamp,
    ) {
        let needs_history = self.needs_history(run);
        if let Some(mut before) = self.waiting.remove(&run.id) {
            // A state that is waiting is counted even if it is replaced.
            if std::mem::take(&mut before.counts) {
                self.count_current(&before.run, uptime, now);
            }
            // The new answer may be older, from a lagging replica: then the history of the previous
            // one, which includes that of the new one, is still to be read.
            let is_older = !needs_history || run.run_count < before.run.run_count;
            if before.needs_history && is_older {
                if counts {
                    self.count_current(run, uptime, now);
                }
                self.waiting.insert(Arc::clone(&run.id), before);
                return;
            }
            if before.needs_history {
                self.unread.insert(Arc::clone(&run.id));
            }
        }
        let waiting = Waiting {
            run: Arc::clone(run),
            known_since,
            needs_history,
            tries: 0,
            not_before: Duration::ZERO,
            had_later: None,
            counts,
        };
        self.waiting.insert(Arc::clone(&run.id), waiting);
    }

    /// The histories to request.
    pub(super) fn plan(&self, uptime: Duration) -> Vec<Request> {
        let ready = |waiting: &&Waiting| {
            // The next cycle lists the run in its new state.
            let listed = waiting
                .had_later
                .is_none_or(|cycle| self.cycle > cycle.saturating_add(1));
            waiting.needs_history && waiting.not_before <= uptime && listed
        };
        let waiting = self
            .waiting
            .values()
            .filter(ready)
            .take(HISTORIES_PER_ROUND);
        waiting
            .map(|waiting| Request::FlowRunStates(Arc::clone(&waiting.run.id)))
            .collect()
    }

    /// Processes the states of a run; `None` if they could not be read.
    pub(super) fn states(
        &mut self,
        id: &Id,
        states: Option<Vec<RunState>>,
        uptime: Duration,
        interval: Duration,
        now: Timestamp,
    ) {
        let floor = self.floor();
        let Some(waiting) = self.waiting.get_mut(id) else {
            return;
        };
        // A lagging replica may not have the current state yet.
        let is_current = |state: &RunState| waiting.run.state_id.as_ref() == Some(&state.id);
        let Some(states) = states.filter(|states| states.iter().any(is_current)) else {
            // In an outage, a failure says nothing about these states.
            if self.was_up || waiting.tries == 0 {
                waiting.tries = waiting.tries.saturating_add(1);
            }
            // After 1, 2, 3 … 10 intervals; at 30 s, the last try comes after more than an hour.
            let wait = interval.saturating_mul(waiting.tries.min(10));
            waiting.not_before = uptime.saturating_add(wait);
            waiting.needs_history = waiting.tries < MOST_TRIES;
            if !waiting.needs_history {
                self.unread.remove(id);
            }
            return;
        };
        if waiting.had_later.is_none() && terminal::has_later(&waiting.run, &states) {
            // If the run has changed its state, the next cycle lists it in its new state. Otherwise
            // clocks differ.
            waiting.had_later = Some(self.cycle);
            waiting.tries = waiting.tries.saturating_add(1);
            return;
        }
        waiting.needs_history = false;
        // States from a lagging replica may lack some that were taken, and others before those.
        let ids: HashSet<&Id> = states.iter().map(|state| &state.id).collect();
        let mut unnamed = self.unnamed.keys().filter(|(run, _)| run == id);
        let are_counted_among = self
            .counted
            .are_among(id, ids.iter().map(|state| &***state));
        if are_counted_among && unnamed.all(|(_, state)| ids.contains(state)) {
            self.unread.remove(id);
        } else {
            self.unread.insert(Arc::clone(id));
        }
        let (mut earlier, history) = terminal::earlier_states(&waiting.run, states, now);
        let known = self.histories.get(id);
        let floor = waiting.known_since.map_or(floor, |since| since.min(floor));
        earlier.retain(|terminal| {
            terminal.end >= floor
                && !known.is_some_and(|known| known.terminal.contains(&terminal.state_id))
        });
        // The current state was counted with all retries before the history was known.
        let retries_counted = !waiting.counts && waiting.run.is_final();
        self.histories.insert(Arc::clone(id), history);
        for mut terminal in earlier {
            if retries_counted {
                terminal.retries = 0;
            }
            self.take_terminal(terminal, uptime);
        }
    }

    /// Counts every terminal state that is ready.
    pub(super) fn count(
        &mut self,
        names: &Reader,
        first_page_only: bool,
        uptime: Duration,
        now: Timestamp,
    ) -> Vec<Event> {
        let ready =
            |waiting: &Waiting| waiting.counts && (!waiting.needs_history || waiting.tries > 0);
        let ready: Vec<Id> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| ready(waiting))
            .map(|(id, _)| Arc::clone(id))
            .collect();
        for id in ready {
            if let Some(waiting) = self.waiting.get_mut(&id) {
                waiting.counts = false;
                let run = Arc::clone(&waiting.run);
                self.count_current(&run, uptime, now);
            }
        }
        self.waiting
            .retain(|_, waiting| waiting.counts || waiting.needs_history);
        let mut events = Vec::new();
        let (counted, overfull) = (&mut self.counted, self.unnamed.len() > MOST_WAITING);
        self.unnamed.retain(|(run, state), (terminal, since)| {
            let late = overfull || uptime.saturating_sub(*since) > LONGEST_WAIT;
            let Some(names) = names.names(&terminal.run, first_page_only || late) else {
                return true;
            };
            if counted.contains_run(run) {
                // Its state was replaced manually, or it was retried.
                terminal.set_not_first();
            }
            if counted.insert(run, state, terminal.latest, uptime) {
                events.push(Event::FlowRun(terminal.clone().named(names)));
            }
            false
        });
        events
    }

    /// Counts the current state of a run, whether or not its earlier states are known.
    fn count_current(&mut self, run: &Run, uptime: Duration, now: Timestamp) {
        let history = self.histories.get(&run.id);
        if let Some(terminal) = Terminal::current(run, history, now) {
            self.take_terminal(terminal, uptime);
        }
    }

    fn take_terminal(&mut self, terminal: Terminal, uptime: Duration) {
        let (run, state) = (Arc::clone(&terminal.run.id), Arc::clone(&terminal.state_id));
        if !self.is_taken(&run, &state, uptime) {
            self.unnamed.insert((run, state), (terminal, uptime));
        }
    }

    /// Runs whose deployment and flow names are needed.
    pub(super) fn named(&self) -> impl Iterator<Item = &FlowRun> {
        let unnamed = self.unnamed.values().map(|(terminal, _)| &*terminal.run);
        let waiting = self.waiting.values().map(|waiting| &*waiting.run);
        let known = self.unfinished.runs().chain(self.windows.runs());
        known.map(|run| &**run).chain(waiting).chain(unnamed)
    }

    /// Processes the result of reading unfinished runs.
    pub(super) fn take(&mut self, found: &mut unfinished::Found, uptime: Duration, now: Timestamp) {
        for (run, since) in std::mem::take(&mut found.ended) {
            self.ended(&run, Some(since), uptime, now);
        }
        for run in std::mem::take(&mut found.new) {
            self.appeared(&run, uptime, now);
        }
    }

    /// Drops what is no longer needed.
    pub(super) fn prune(&mut self, uptime: Duration, now: Timestamp, unread: Unread) {
        self.windows.prune(now);
        self.touch(uptime);
        self.counted.prune(uptime, now, unread);
        let unnamed: HashSet<&Id> = self.unnamed.keys().map(|(run, _)| run).collect();
        self.unread
            .retain(|id| self.counted.contains_run(id) || unnamed.contains(id));
        let (unfinished, waiting) = (&self.unfinished, &self.waiting);
        let used = |id: &Id| unfinished.known_since(id).is_some() || waiting.contains_key(id);
        self.histories.retain(|id, _| used(id));
    }

    /// Once an hour, notes that what was counted of unfinished runs is still needed: after a
    /// restart, their states are read again.
    fn touch(&mut self, uptime: Duration) {
        if uptime.saturating_sub(self.touched) >= TOUCH_EVERY {
            self.touched = uptime;
            for run in self.unfinished.runs() {
                self.counted.touch(&run.id, uptime);
            }
        }
    }

    /// The runs that have been counted, or may have been, without their earlier states. If lists
    /// showed a run in two states, the state that is still to be counted may be the earlier one.
    pub(super) fn unread(&self) -> HashSet<Id> {
        let waiting = self.waiting.values();
        let unread = waiting.map(|waiting| Arc::clone(&waiting.run.id));
        let unnamed = self.unnamed.keys().map(|(run, _)| Arc::clone(run));
        let before = self.unread.iter().cloned();
        unread.chain(unnamed).chain(before).collect()
    }

    /// The runs that have to be looked up after a restart, and since when they have been known.
    pub(super) fn awaited(&self, now: Timestamp) -> HashMap<Id, Timestamp> {
        let mut awaited = self.unfinished.awaited();
        let waiting = self.waiting.values();
        let waiting = waiting.map(|waiting| (&waiting.run.id, waiting.known_since));
        let unnamed = self.unnamed.keys().map(|(run, _)| (run, None));
        for (run, since) in waiting.chain(unnamed) {
            let since = since.unwrap_or(before(now, LONGEST_WAIT));
            awaited.entry(Arc::clone(run)).or_insert(since);
        }
        awaited
    }
}

#[cfg(test)]
mod tests;
