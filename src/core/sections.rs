//! The registry of sections, the parts of a workspace that are read on their own and can fail on
//! their own: when each is due, how old it is, and how long reading it took.

use std::collections::HashSet;
use std::time::Duration;

use crate::prefect::{Error, Skipped};

/// How often a section is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cadence {
    /// In every cycle.
    Cycle,
    /// Every `INVENTORY_INTERVAL_SECONDS`, since it changes rarely.
    Inventory,
}

/// Declares the sections, one per row.
macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $cadence:ident, $matters:literal;)*) => {
        /// A part of the workspace that is read on its own and can fail on its own.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Section {
            $($(#[$doc])* $name,)*
        }

        impl Section {
            /// Every section, in the order of their declaration.
            pub const ALL: &'static [Section] = &[$(Section::$name,)*];

            /// The value of the attribute `section`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Section::$name => $text,)*
                }
            }

            /// How often it is read.
            pub fn cadence(self) -> Cadence {
                match self {
                    $(Section::$name => Cadence::$cadence,)*
                }
            }

            /// Whether an answer shows that Prefect can be read: lists that every server has and
            /// every key may read.
            pub fn matters(self) -> bool {
                match self {
                    $(Section::$name => $matters,)*
                }
            }
        }
    };
}

sections! {
    /// The server itself: whether it answers, and its version.
    Server = "server", Cycle, false;
    /// All deployments.
    Deployments = "deployments", Inventory, true;
    /// All flows.
    Flows = "flows", Inventory, true;
    /// All work pools.
    WorkPools = "work_pools", Inventory, true;
    /// All work queues.
    WorkQueues = "work_queues", Inventory, true;
    /// The workers of all work pools.
    Workers = "workers", Inventory, false;
    /// Concurrency limits, global and tag-based.
    ConcurrencyLimits = "concurrency_limits", Inventory, false;
    /// All automations.
    Automations = "automations", Inventory, false;
    /// The server's counts of runs in the last 24 hours.
    RunHistory = "run_history", Inventory, false;
    /// Runs that are pending, running, paused or cancelling.
    ActiveRuns = "active_runs", Cycle, true;
    /// Scheduled runs within the look-ahead, including late ones and those awaiting retry.
    ScheduledRuns = "scheduled_runs", Cycle, true;
    /// Runs that ended.
    FinishedRuns = "finished_runs", Cycle, true;
    /// Failed and crashed runs within `FAILED_RUNS_OFFSET_MINUTES`.
    FailedRuns = "failed_runs", Cycle, true;
    /// Task runs that ended (`TASK_RUNS_ENABLED`).
    TaskRuns = "task_runs", Cycle, false;
}

/// A section is stale after this many of its intervals.
pub const STALE_AFTER_INTERVALS: u32 = 3;

/// The maximum time until a section is retried that fails for a permanent reason, such as 403, 404
/// or an unexpected answer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(600);

/// Larger lists are read less often: every 1,000 deployments take a server some 0.2 s.
const LARGE: usize = 1_000;

/// A large list is read at least this often, unless `INVENTORY_INTERVAL_SECONDS` is longer: alerts and
/// dashboards take a list that has not been read for 180 s for stale.
const LONGEST_INTERVAL: Duration = Duration::from_secs(120);

/// Timer ticks are a little early or late, which must not delay a reading by a whole interval.
const SLACK: Duration = Duration::from_millis(500);

/// The state of a section.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// When it was last read completely, as uptime.
    pub read_at: Option<Duration>,
    /// Whether the API does not have it, as older servers lack some lists.
    pub absent: bool,
    /// Failed reads since the start.
    pub errors: u64,
    /// Objects skipped since the start because they could not be decoded.
    pub skipped: u64,
    failures: u32,
    retry_at: Duration,
    /// Why the last read failed, if it did.
    error: Option<Error>,
    /// Whether it is due in the current cycle, whether it has been read or has failed, and whether
    /// it has been read.
    due: bool,
    ended: bool,
    has_read: bool,
    /// Whether one of its requests was answered with a list in the current cycle.
    has_list: bool,
    /// How long the last complete reading took, from the beginning of its cycle.
    reading: Duration,
    /// Time spent waiting for its requests in the current cycle.
    took: Duration,
}

/// How old a section is, and whether it is too old to be exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// The time since it was last read, or since the start if it never was.
    pub age: Duration,
    /// Whether its gauges are withheld.
    pub stale: bool,
}

/// Every section that is enabled.
#[derive(Debug)]
pub struct Sections {
    all: Vec<(Section, Status)>,
    interval: Duration,
    inventory_interval: Duration,
    /// When the current cycle began, as uptime.
    began: Duration,
}

impl Sections {
    /// The sections for which `enabled` returns true, none of them read yet.
    pub(super) fn new(
        interval: Duration,
        inventory_interval: Duration,
        enabled: impl Fn(Section) -> bool,
    ) -> Self {
        let enabled = |section: &&Section| enabled(**section);
        let all = Section::ALL.iter().filter(enabled);
        Sections {
            all: all.map(|section| (*section, Status::default())).collect(),
            interval,
            inventory_interval,
            began: Duration::ZERO,
        }
    }

    /// Every enabled section and its state.
    pub fn iter(&self) -> impl Iterator<Item = (Section, &Status)> {
        self.all.iter().map(|(section, status)| (*section, status))
    }

    /// The state of a section; `None` if it is not enabled.
    pub fn status(&self, section: Section) -> Option<&Status> {
        self.iter()
            .find_map(|(other, status)| (other == section).then_some(status))
    }

    fn update(&mut self, section: Section, update: impl FnOnce(&mut Status)) {
        let found = self.all.iter_mut().find(|(other, _)| *other == section);
        if let Some((_, status)) = found {
            update(status);
        }
    }

    fn interval(&self, section: Section) -> Duration {
        match section.cadence() {
            Cadence::Cycle => self.interval,
            Cadence::Inventory => self.inventory_interval,
        }
    }

    /// The time from one reading of a section, with so many objects, to the next one. Once it is due,
    /// there are two cycles to read it before it is stale, in case the first one fails.
    fn due_after(&self, section: Section, objects: usize) -> Duration {
        let interval = self.inventory_interval;
        if section.cadence() == Cadence::Cycle {
            return Duration::ZERO;
        }
        let longer = interval.mul_f64(objects as f64 / LARGE as f64);
        let cycles = self.interval.saturating_mul(2);
        let latest = self.stale_after(section).saturating_sub(cycles);
        longer.min(LONGEST_INTERVAL).min(latest).max(interval)
    }

    /// How old a section is; `None` if it is not enabled.
    pub fn freshness(&self, section: Section, uptime: Duration) -> Option<Freshness> {
        let status = self.status(section)?;
        let age = uptime.saturating_sub(status.read_at.unwrap_or_default());
        let too_old = age > self.stale_after(section);
        let stale = too_old || status.read_at.is_none();
        Some(Freshness { age, stale })
    }

    /// The age beyond which a section is stale.
    pub(super) fn stale_after(&self, section: Section) -> Duration {
        let interval = self.interval(section).max(self.interval);
        interval.saturating_mul(STALE_AFTER_INTERVALS)
    }

    /// Begins a cycle: decides which sections are due. `size` is the number of objects that a
    /// section had when it was last read.
    pub(super) fn begin(&mut self, uptime: Duration, size: impl Fn(Section) -> usize) {
        let soon = uptime.saturating_add(SLACK);
        self.began = uptime;
        let all = self.all.iter();
        let due_after: Vec<_> = all
            .map(|(section, _)| self.due_after(*section, size(*section)))
            .collect();
        for ((_, status), interval) in self.all.iter_mut().zip(due_after) {
            let read_at = status.read_at.filter(|_| status.failures == 0);
            // A reading that took seconds does not delay the next one by a cycle.
            let since = read_at.map(|at| at.saturating_sub(status.reading));
            let waited = since.is_none_or(|at| soon.saturating_sub(at) >= interval);
            status.due = waited && soon >= status.retry_at;
            status.ended = false;
            status.has_read = false;
            status.has_list = false;
            status.took = Duration::ZERO;
        }
    }

    /// Whether a section is still to be read in this cycle.
    pub(super) fn is_pending(&self, section: Section) -> bool {
        self.status(section)
            .is_some_and(|status| status.due && !status.ended)
    }

    /// Whether a section has been read in this cycle.
    pub(super) fn has_read(&self, section: Section) -> bool {
        self.status(section).is_some_and(|status| status.has_read)
    }

    /// Notes that one of the section's requests was answered, with a list or with a bare number. The
    /// first object of a section that could not be decoded is logged.
    pub(super) fn answered(&mut self, section: Section, is_list: bool, skipped: &[Skipped]) {
        self.update(section, |status| {
            status.has_list |= is_list;
            if let (0, Some(first)) = (status.skipped, skipped.first()) {
                tracing::warn!(
                    section = section.as_str(), id = %first.id, reason = first.reason,
                    "an object in an answer from Prefect cannot be decoded and is skipped; prefect_agent_objects_skipped_total counts such objects"
                );
            }
            status.skipped = status.skipped.saturating_add(skipped.len() as u64);
        });
    }

    /// Adds the time that the section's requests of one round took.
    pub(super) fn took(&mut self, section: Section, time: Duration) {
        self.update(section, |status| {
            status.took = status.took.saturating_add(time);
        });
    }

    /// Whether Prefect can be read: a list that every server has was answered in this cycle.
    pub(super) fn up(&self) -> bool {
        self.iter()
            .any(|(section, status)| section.matters() && status.has_list)
    }

    /// Makes a short list due in this cycle, which shows whether Prefect can be read. `None` if it
    /// is due anyway.
    pub(super) fn probe(&mut self) -> Option<Section> {
        let section = Section::WorkPools;
        let mut was_due = true;
        self.update(section, |status| {
            was_due = std::mem::replace(&mut status.due, true);
        });
        (!was_due).then_some(section)
    }

    /// Notes that the section has been read completely.
    pub(super) fn read(&mut self, section: Section, uptime: Duration) {
        let reading = uptime.saturating_sub(self.began);
        self.update(section, |status| {
            if status.ended && !status.has_read {
                // Another of its requests failed in this cycle.
                return;
            }
            status.read_at = Some(uptime);
            status.reading = reading;
            status.absent = false;
            status.failures = 0;
            status.retry_at = Duration::ZERO;
            status.error = None;
            (status.ended, status.has_read) = (true, true);
        });
    }

    /// Notes that the API does not have the section.
    pub(super) fn absent(&mut self, section: Section, uptime: Duration) {
        self.read(section, uptime);
        self.update(section, |status| status.absent = true);
    }

    /// Notes that the section could not be read. It is retried in the next cycle or, if it is part
    /// of the inventory and the error is not transient, with exponential backoff.
    pub(super) fn failed(&mut self, section: Section, error: Error, uptime: Duration) {
        let interval = self.interval;
        self.update(section, |status| {
            status.errors = status.errors.saturating_add(1);
            if status.ended && !status.has_read {
                // Another of its requests has already failed in this cycle.
                return;
            }
            status.failures = status.failures.saturating_add(1);
            // Runs are requested in every cycle: what happens to them cannot wait.
            let waits = section.cadence() == Cadence::Inventory;
            if waits && !error.is_transient() && !error.is_timeout() {
                let doubled = 2_u32.saturating_pow(status.failures.saturating_sub(1).min(10));
                let wait = interval.saturating_mul(doubled.saturating_sub(1));
                let wait = wait.min(LONGEST_BACKOFF);
                status.retry_at = uptime.saturating_add(wait);
            }
            status.error = Some(error);
            (status.ended, status.has_read) = (true, false);
        });
    }

    /// Counts the failure of a request that the section does not depend on in this cycle.
    pub(super) fn error(&mut self, section: Section) {
        self.update(section, |status| {
            status.errors = status.errors.saturating_add(1);
        });
    }

    /// Fails every section that is due and has not been read.
    pub(super) fn fail_unread(&mut self, error: &Error, uptime: Duration) {
        let unread: Vec<_> = self.iter().map(|(section, _)| section).collect();
        for section in unread {
            if self.is_pending(section) {
                self.failed(section, error.clone(), uptime);
            }
        }
    }

    /// Makes every section that has failed due in the next cycle.
    pub(super) fn retry_all(&mut self) {
        for (_, status) in &mut self.all {
            (status.failures, status.retry_at) = (0, Duration::ZERO);
        }
    }

    /// The sections whose last read failed, whether that was in this cycle or not.
    pub(super) fn failing(&self) -> Vec<(Section, Error)> {
        let error = |(section, status): (Section, &Status)| Some((section, status.error.clone()?));
        self.iter().filter_map(error).collect()
    }

    /// The sections that have been read or have failed in this cycle.
    pub(super) fn tried(&self) -> HashSet<Section> {
        let tried = self.iter().filter(|(_, status)| status.ended);
        tried.map(|(section, _)| section).collect()
    }

    /// The sections read or tried in this cycle, and the time spent on each.
    pub(super) fn cycle_durations(&self) -> Vec<(Section, Duration)> {
        let tried = |(_, status): &(Section, &Status)| !status.took.is_zero();
        self.iter()
            .filter(tried)
            .map(|(section, status)| (section, status.took))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections() -> Sections {
        Sections::new(Duration::from_secs(30), Duration::from_secs(60), |_| true)
    }

    fn up(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn forbidden() -> Error {
        Error::Status {
            request: String::new(),
            status: 403,
            detail: String::new(),
            retry_after: None,
            maintenance: false,
        }
    }

    #[test]
    fn a_section_that_was_never_read_is_as_old_as_the_process_and_stale() {
        let freshness = sections().freshness(Section::Workers, up(7)).unwrap();
        assert_eq!((freshness.age, freshness.stale), (up(7), true));
    }

    #[test]
    fn the_inventory_is_due_at_its_own_interval() {
        let mut sections = sections();
        for (seconds, due) in [(0, true), (30, false), (60, true), (90, false)] {
            sections.begin(up(seconds), |_| 0);
            assert_eq!(sections.is_pending(Section::Flows), due, "{seconds}");
            assert!(sections.is_pending(Section::ActiveRuns));
            if due {
                sections.read(Section::Flows, up(seconds));
            }
        }
    }

    #[test]
    fn a_large_list_is_read_less_often_but_before_it_is_stale() {
        for (objects, expected) in [(1_000, 60), (1_500, 90), (2_000, 120), (500_000, 120)] {
            let mut sections = sections();
            let (mut deployments, mut workers) = (Vec::new(), Vec::new());
            for seconds in (0..=360).step_by(30) {
                sections.begin(up(seconds), |section| match section {
                    Section::Deployments => objects,
                    _ => 0,
                });
                let freshness = sections.freshness(Section::Deployments, up(seconds + 1));
                assert_eq!(freshness.unwrap().stale, seconds == 0);
                for (section, read) in [
                    (Section::Deployments, &mut deployments),
                    (Section::Workers, &mut workers),
                ] {
                    if sections.is_pending(section) {
                        read.push(seconds);
                        // A reading that takes seconds does not delay the next one.
                        sections.read(section, up(seconds + 2));
                    }
                }
            }
            assert_eq!(deployments[..3], [0, expected, 2 * expected], "{objects}");
            assert_eq!(workers[..3], [0, 60, 120]);
        }
        let rare = Sections::new(up(60), up(60), |_| true);
        assert_eq!(rare.due_after(Section::Deployments, 10_000), up(60));
        let cloud = Sections::new(up(60), up(300), |_| true);
        assert_eq!(cloud.due_after(Section::Deployments, 10_000), up(300));
    }

    #[test]
    fn a_large_list_is_not_stale_if_reading_it_fails_once() {
        let mut sections = sections();
        let mut was_read = 0;
        for seconds in (0..=3_600).step_by(30) {
            sections.begin(up(seconds), |_| 100_000);
            let freshness = sections.freshness(Section::Deployments, up(seconds));
            assert!(seconds == 0 || !freshness.unwrap().stale, "{seconds}");
            if sections.is_pending(Section::Deployments) {
                match was_read {
                    2 => sections.failed(Section::Deployments, forbidden(), up(seconds + 29)),
                    _ => sections.read(Section::Deployments, up(seconds + 2)),
                }
                was_read = (was_read + 1) % 3;
            }
        }
    }

    #[test]
    fn once_a_key_is_accepted_again_every_section_is_read_in_the_next_cycle() {
        let mut sections = sections();
        for seconds in (0..600).step_by(30) {
            sections.begin(up(seconds), |_| 0);
            sections.fail_unread(&forbidden(), up(seconds));
            sections.retry_all();
        }
        sections.begin(up(600), |_| 0);
        for section in Section::ALL {
            assert!(sections.is_pending(*section), "{section:?}");
        }
    }

    #[test]
    fn after_a_permanent_error_a_section_is_retried_less_and_less_often() {
        let mut sections = sections();
        let mut tries = Vec::new();
        for seconds in (0..4_000).step_by(30) {
            sections.begin(up(seconds), |_| 0);
            if sections.is_pending(Section::Workers) {
                tries.push(seconds);
                sections.failed(Section::Workers, forbidden(), up(seconds));
            }
        }
        assert_eq!(tries[..5], [0, 30, 60, 150, 360]);
        assert!(tries.windows(2).all(|pair| pair[1] - pair[0] <= 630));
    }
}
