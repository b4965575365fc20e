//! What to request next.
//!
//! Requests that depend on the answers of others are sent after them, and form a [`Lane`]. Lanes do
//! not wait for each other, so a list that Prefect does not answer delays no other list.

use std::time::Duration;

use jiff::Timestamp;

use super::clock::{Moment, before};
use super::cursor::OVERLAP;
use super::finished::{self, Times};
use super::sections::Section;
use super::{Core, Phase, context, unfinished};
use crate::prefect::request::Range;
use crate::prefect::{Error, Reply, Request};

/// Requests whose answers are processed together, and after which the next ones are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// A section, read independently of all others.
    Section(Section),
    /// Runs: a run that leaves one of their lists appears in another, so these are read together.
    Runs,
}

/// A request to send, and its purpose.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The section that it belongs to.
    pub section: Section,
    /// The request.
    pub request: Request,
    pub(super) purpose: Purpose,
}

impl Ask {
    /// The lane that it belongs to.
    pub fn lane(&self) -> Lane {
        match self.purpose {
            Purpose::Version | Purpose::Inventory => Lane::Section(self.section),
            _ => Lane::Runs,
        }
    }
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Version,
    Inventory,
    Names,
    Unfinished(unfinished::Purpose),
    Finished(finished::Purpose),
    States,
    TaskRuns,
}

/// A request, its answer, and how long it took.
#[derive(Debug)]
pub struct Answered {
    /// The request.
    pub ask: Ask,
    /// The answer.
    pub result: Result<Reply, Error>,
    /// How long it took.
    pub took: Duration,
    /// When it arrived.
    pub at: Moment,
}

/// During this time after the start, the estimate of the server's time may still be wrong.
const CLOCK_UNCERTAIN: Duration = Duration::from_secs(900);

impl Core {
    /// The requests to send next, concurrently, of every lane whose requests have been answered. If
    /// there are none and every lane has been answered, the cycle is over.
    pub fn plan(&mut self, moment: Moment) -> Vec<Ask> {
        let plan = self.plan_lanes(moment);
        let is_over = plan.is_empty() && self.unanswered.is_empty();
        if is_over && self.phase == Phase::Sections && !self.sections.up() {
            // No list of runs can be read, and no other was due: without one more list, it would
            // look as if Prefect could not be read in every cycle between two readings of the
            // inventory.
            if let Some(section) = self.sections.probe() {
                self.reader.add(section);
                return self.plan_lanes(moment);
            }
        }
        plan
    }

    fn plan_lanes(&mut self, moment: Moment) -> Vec<Ask> {
        let mut plan = match self.phase {
            Phase::Version => vec![Ask {
                section: Section::Server,
                request: Request::Version,
                purpose: Purpose::Version,
            }],
            Phase::Sections => self.plan_sections(moment),
            Phase::Over => Vec::new(),
        };
        plan.retain(|ask| !self.unanswered.contains(&ask.lane()));
        self.unanswered.extend(plan.iter().map(Ask::lane));
        plan
    }

    fn plan_sections(&mut self, moment: Moment) -> Vec<Ask> {
        let now = self.clock.now(moment);
        let context = context(&self.config, self.page_limit, &self.sections, now);
        let inventory = self.reader.plan(&context).into_iter();
        let ask = |(section, request)| Ask {
            section,
            request,
            purpose: Purpose::Inventory,
        };
        let mut plan: Vec<_> = inventory.map(ask).collect();
        if !self.unanswered.contains(&Lane::Runs) {
            plan.extend(self.plan_runs(moment));
        }
        plan
    }

    fn plan_runs(&mut self, moment: Moment) -> Vec<Ask> {
        let mut plan = Vec::new();
        let mut add = |section, purpose, request| {
            plan.push(Ask {
                section,
                request,
                purpose,
            });
        };
        let now = self.clock.now(moment);
        if let Some(times) = now.and_then(|now| self.times(moment, now)) {
            self.finished.open(&times, moment.uptime);
            for (purpose, request) in self.runs.unfinished.plan(times.now, self.page_limit) {
                add(purpose.section(), Purpose::Unfinished(purpose), request);
            }
            for (purpose, request) in self.finished.plan(self.page_limit) {
                add(purpose.section(), Purpose::Finished(purpose), request);
            }
            for request in self.runs.plan(moment.uptime) {
                add(Section::FinishedRuns, Purpose::States, request);
            }
            if let Some(tasks) = &mut self.tasks {
                let start = tasks.start.unwrap_or(times.now);
                let catches_up = self.finished.catches_up(moment.uptime);
                if catches_up || !tasks.cursor.has_opened() {
                    tasks.cursor.open(before(start, OVERLAP), times.earliest);
                }
                if let Some(request) = tasks.plan(self.page_limit) {
                    add(Section::TaskRuns, Purpose::TaskRuns, request);
                }
            }
        }
        let context = context(&self.config, self.page_limit, &self.sections, now);
        for request in self.reader.plan_names(self.runs.named(), &context) {
            add(Section::Deployments, Purpose::Names, request);
        }
        plan
    }

    /// The times at which readings begin. Counting begins with the process.
    fn times(&mut self, moment: Moment, now: Timestamp) -> Option<Times> {
        let start = *self
            .runs
            .start
            .get_or_insert_with(|| before(now, moment.uptime));
        if let Some(tasks) = &mut self.tasks {
            tasks
                .start
                .get_or_insert_with(|| before(now, moment.uptime));
        }
        self.skip_what_is_too_old(before(now, self.config.catch_up));
        let start = self.follow_clock_back(moment, now, start);
        Some(Times {
            now,
            earliest: self.clock.earliest(moment)?,
            start: before(start, OVERLAP),
            floor: self.runs.floor(),
            window_start: self.runs.windows.start(now),
            failed_start: self.runs.windows.failed_start(now),
            interval: self.config.interval,
        })
    }

    /// The server's clock may have been set back to a time before counting began. Then the start of
    /// counting is moved to the clock's current time, and runs that ended between that and the old
    /// start count as ended before counting began. In the first minutes of a process, it is more
    /// likely that the first estimate was wrong.
    fn follow_clock_back(&mut self, moment: Moment, now: Timestamp, start: Timestamp) -> Timestamp {
        let back = Duration::try_from(start.duration_since(now)).unwrap_or_default();
        let young = moment.uptime < CLOCK_UNCERTAIN;
        if back.is_zero() || back <= OVERLAP && !young {
            return start;
        }
        let (start, ended_before) = match young {
            true => (before(now, moment.uptime), None),
            false => {
                tracing::warn!(seconds = back.as_secs(), "the server's clock was set back");
                let range = Range {
                    after: Some(now),
                    before: Some(start),
                };
                (before(now, self.config.interval), Some(range))
            }
        };
        self.changed = true;
        self.runs.start = Some(start);
        self.runs.before_start = ended_before;
        if let Some(tasks) = &mut self.tasks {
            tasks.start = Some(start);
            tasks.before_start = ended_before;
        }
        start
    }

    /// After a long downtime, only the last `CATCH_UP_HOURS` are read.
    fn skip_what_is_too_old(&mut self, oldest: Timestamp) {
        if let Some(from) = self.finished.cursor.skip_to(oldest) {
            tracing::warn!(%from, to = %oldest, "runs that ended between these times are not counted, because they are older than CATCH_UP_HOURS");
            self.runs.counted.forget_until(oldest);
        }
        if let Some(tasks) = &mut self.tasks
            && tasks.cursor.skip_to(oldest).is_some()
        {
            tasks.counted.forget_until(oldest);
        }
    }
}
