//! Random events in a workspace: each seed is one schedule.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use jiff::SignedDuration;
use prefect_otel_agent::prefect::Id;
use prefect_otel_agent::prefect::runs::StateType;

use crate::lab::{Events, Lab};

/// An event.
#[derive(Debug, Clone)]
enum Step {
    /// A run is scheduled, manually or by a schedule.
    Schedule,
    Pending(Id),
    Running(Id),
    End(Id),
    /// A task of a run starts and ends.
    Task(Id),
    TaskEnd(Id, Id),
    /// Prefect's own retry.
    AwaitRetry(Id),
    Pause(Id),
    Resume(Id),
    Cancel(Id),
    /// A run that has ended is retried manually.
    Retry(Id),
    /// The terminal state of a run is replaced manually.
    Force(Id),
    Delete(Id),
    MarkLate,
    RenameDeployment,
    ReplaceDeployment,
    TagDeployment,
    /// A deployment is deleted, and created again with the same name after the agent has forgotten
    /// it.
    DeleteDeployment,
    ReturnDeployment(Arc<str>),
    RenameFlow,
    /// The flow is deleted with its deployments and runs, and created again with the same name.
    ReplaceFlow,
}

/// The upcoming steps, by time.
pub(crate) struct Schedule {
    rng: Rng,
    steps: BTreeMap<(Duration, u64), Step>,
    next: u64,
    deployments: Vec<Id>,
    flow: Id,
    queue: Id,
    /// How far a worker's clock can be behind at most, in seconds.
    skew: u64,
    /// The time after which nothing new begins.
    end: Duration,
}

impl Schedule {
    /// A schedule of some runs that begin within `length`.
    pub(crate) fn new(lab: &mut Lab, length: Duration) -> Self {
        let mut rng = lab.rng.fork();
        let queue = lab.world.create_work_pool("pool");
        let flow = lab.world.create_flow("flow");
        let deployments = (0..rng.usize(1..4)).map(|number| {
            let name = format!("deployment-{number}");
            lab.world.create_deployment(&flow, &name, Some(&queue))
        });
        let deployments = deployments.collect();
        let skew = *rng.choice(&[0, 0, 30, 300, 1_500]).unwrap();
        let mut schedule = Schedule {
            steps: BTreeMap::new(),
            next: 0,
            deployments,
            flow,
            queue,
            skew,
            end: length,
            rng,
        };
        for _ in 0..schedule.rng.usize(5..40) {
            let at = schedule.within(length);
            schedule.add(at, Step::Schedule);
        }
        // A burst of more runs than fit on a page.
        if schedule.rng.f64() < 0.3 {
            let at = schedule.within(length);
            for _ in 0..schedule.rng.usize(10..50) {
                schedule.add(at, Step::Schedule);
            }
        }
        for seconds in (0..length.as_secs()).step_by(15) {
            schedule.add(Duration::from_secs(seconds), Step::MarkLate);
        }
        for (chance, step) in [
            (0.3, Step::RenameDeployment),
            (0.2, Step::ReplaceDeployment),
            (0.3, Step::TagDeployment),
            (0.3, Step::TagDeployment),
            (0.2, Step::DeleteDeployment),
            (0.2, Step::RenameFlow),
            (0.1, Step::ReplaceFlow),
        ] {
            if schedule.rng.f64() < chance {
                let at = schedule.within(length);
                schedule.add(at, step);
            }
        }
        schedule
    }

    /// Limits how far workers' clocks are behind to less than the overlap of two readings.
    pub(crate) fn with_good_clocks(mut self) -> Self {
        self.skew = self.skew.min(80);
        self
    }

    fn within(&mut self, length: Duration) -> Duration {
        Duration::from_millis(self.rng.u64(0..length.as_millis() as u64))
    }

    fn add(&mut self, at: Duration, step: Step) {
        self.next += 1;
        self.steps.insert((at, self.next), step);
    }

    /// Adds a step after `now`: usually soon, sometimes much later.
    fn soon(&mut self, now: Duration, step: Step) {
        let most = *self.rng.choice(&[2_000, 20_000, 120_000, 900_000]).unwrap();
        let at = now + Duration::from_millis(self.rng.u64(1..most));
        self.add(at, step);
    }

    fn play(&mut self, now: Duration, step: Step, lab: &mut Lab) {
        match step {
            Step::Schedule => self.schedule(now, lab),
            Step::MarkLate => _ = lab.world.mark_late_runs(Duration::from_secs(15)),
            Step::RenameDeployment => {
                let deployment = self.rng.choice(&self.deployments).unwrap();
                lab.world.rename_deployment(deployment, "renamed");
            }
            Step::ReplaceDeployment => _ = self.replace("made-again", lab),
            Step::TagDeployment => {
                let deployment = self.rng.choice(&self.deployments).unwrap();
                let tags: [&[&str]; 4] = [&[], &["team:a"], &["team:b"], &["team:b", "team:a"]];
                lab.world
                    .tag_deployment(deployment, self.rng.choice(tags).unwrap());
            }
            Step::DeleteDeployment => {
                let gone = self.replace("instead", lab);
                let away = Duration::from_secs(self.rng.u64(3_000..5_000));
                self.add(now + away, Step::ReturnDeployment(gone));
            }
            Step::ReturnDeployment(name) => {
                let (flow, queue) = (&self.flow, Some(&self.queue));
                let back = lab.world.create_deployment(flow, &name, queue);
                self.deployments.push(back);
                for _ in 0..5 {
                    self.soon(now, Step::Schedule);
                }
            }
            Step::RenameFlow => lab.world.rename_flow(&self.flow, "renamed"),
            Step::ReplaceFlow => self.replace_flow(now, lab),
            Step::Pending(run) => {
                if self.is(lab, &run, &[StateType::Scheduled]) {
                    lab.world.propose(&run, StateType::Pending, "Pending");
                    self.soon(now, Step::Running(run));
                }
            }
            Step::Running(run) => self.run(now, run, lab),
            Step::Task(run) => {
                if self.is(lab, &run, &[StateType::Running]) {
                    let task = lab.world.create_task_run(&run, "task", "key");
                    lab.world
                        .set_task_state(&task, StateType::Running, "Running", None);
                    self.soon(now, Step::TaskEnd(run, task));
                }
            }
            Step::TaskEnd(run, task) => {
                let end = lab.world.now - self.behind();
                let kind = *self
                    .rng
                    .choice(&[StateType::Completed, StateType::Failed])
                    .unwrap();
                let name = kind.default_name();
                let state = lab.world.set_task_state(&task, kind, &name, Some(end));
                // It may have been deleted with its flow run.
                if state.is_some() {
                    lab.task_ended(&run, end);
                }
            }
            Step::AwaitRetry(run) => {
                if self.is(lab, &run, &[StateType::Running]) {
                    let start = lab.world.now + SignedDuration::from_secs(2);
                    lab.world.set_scheduled(&run, "AwaitingRetry", start);
                    self.soon(now, Step::Running(run));
                }
            }
            Step::Pause(run) => {
                if self.is(lab, &run, &[StateType::Running]) {
                    lab.world.propose(&run, StateType::Paused, "Paused");
                    self.soon(now, Step::Resume(run));
                }
            }
            Step::Resume(run) => {
                let reschedule = self.rng.bool();
                if lab.world.resume(&run, reschedule).is_some() {
                    match reschedule {
                        true => self.soon(now, Step::Running(run)),
                        false => self.soon(now, Step::End(run)),
                    }
                }
            }
            Step::Cancel(run) => {
                if !self.is(lab, &run, &StateType::FINAL) && lab.world.run(&run).is_some() {
                    lab.world
                        .set_state(&run, StateType::Cancelling, "Cancelling", None);
                    self.finish(now, run, StateType::Cancelled, lab);
                }
            }
            Step::End(run) => {
                if self.is(lab, &run, &[StateType::Running]) {
                    let kinds = [
                        StateType::Completed,
                        StateType::Completed,
                        StateType::Failed,
                        StateType::Crashed,
                    ];
                    let kind = *self.rng.choice(&kinds).unwrap();
                    self.finish(now, run, kind, lab);
                }
            }
            Step::Retry(run) => {
                if self.can_be_retried(lab, &run) {
                    let start = lab.world.now;
                    lab.world.set_scheduled(&run, "AwaitingRetry", start);
                    self.soon(now, Step::Running(run.clone()));
                    if self.rng.f64() < 0.2 {
                        self.soon(now, Step::Cancel(run));
                    }
                }
            }
            Step::Force(run) => {
                if self.is(lab, &run, &StateType::FINAL) {
                    // Its end time stays that of the first terminal state, so it is seen only if it
                    // is read in time.
                    lab.forget_truth(&run);
                    let state = lab
                        .world
                        .set_state(&run, StateType::Completed, "Completed", None);
                    lab.ended(&run, state.unwrap(), false);
                }
            }
            Step::Delete(run) => {
                lab.forget_truth(&run);
                lab.forget_tasks(&run);
                lab.world.delete_run(&run);
            }
        }
    }

    /// Deletes a deployment and creates another one. Returns the name of the deleted one.
    fn replace(&mut self, name: &str, lab: &mut Lab) -> Arc<str> {
        let index = self.rng.usize(..self.deployments.len());
        let gone = &self.deployments[index];
        let called = lab.world.deployment_name(gone);
        let scheduled: Vec<Id> = lab
            .world
            .runs()
            .filter(|run| run.deployment_id.as_ref() == Some(gone))
            .map(|run| run.id.clone())
            .collect();
        lab.world.delete_deployment(gone);
        for run in scheduled {
            if lab.world.run(&run).is_none() {
                lab.forget_truth(&run);
                lab.forget_tasks(&run);
            }
        }
        let (flow, queue) = (&self.flow, Some(&self.queue));
        self.deployments[index] = lab.world.create_deployment(flow, name, queue);
        called
    }

    fn replace_flow(&mut self, now: Duration, lab: &mut Lab) {
        let runs: Vec<Id> = lab
            .world
            .runs()
            .filter(|run| run.flow_id.as_ref() == Some(&self.flow))
            .map(|run| run.id.clone())
            .collect();
        lab.world.delete_flow(&self.flow);
        for run in runs {
            lab.forget_truth(&run);
            lab.forget_tasks(&run);
        }
        self.flow = lab.world.create_flow("flow");
        for (number, deployment) in self.deployments.iter_mut().enumerate() {
            let (name, queue) = (format!("deployment-{number}"), Some(&self.queue));
            *deployment = lab.world.create_deployment(&self.flow, &name, queue);
        }
        for _ in 0..5 {
            self.soon(now, Step::Schedule);
        }
    }

    /// Whether a run has ended, and its end can still be found after it is retried. If it never
    /// started, only its start time shows that, and only if the clocks agree.
    fn can_be_retried(&self, lab: &mut Lab, id: &Id) -> bool {
        if !self.is(lab, id, &StateType::FINAL) {
            return false;
        }
        let Some(run) = lab.world.run(id) else {
            return false;
        };
        if run.run_count > Some(0) {
            return true;
        }
        let second = SignedDuration::from_secs(1);
        let now = lab.world.now;
        let is_past = run.end_time.is_some_and(|end| end + second < now);
        if self.skew == 0 && is_past {
            lab.retried_before_start(id);
            return true;
        }
        false
    }

    /// Retries some of the runs that have ended, soon.
    pub(crate) fn retry_old(&mut self, lab: &Lab) {
        let runs: Vec<Id> = lab.world.runs().map(|run| run.id.clone()).collect();
        for run in runs {
            if self.rng.f64() < 0.2 {
                self.soon(lab.time(), Step::Retry(run));
            }
        }
    }

    fn is(&self, lab: &Lab, run: &Id, kinds: &[StateType]) -> bool {
        let kind = lab.world.run(run).and_then(|run| run.state_type);
        kind.is_some_and(|kind| kinds.contains(&kind))
    }

    fn schedule(&mut self, now: Duration, lab: &mut Lab) {
        let deployment = self.rng.choice(&self.deployments).unwrap().clone();
        let ahead = SignedDuration::from_secs(*self.rng.choice(&[0, 0, 20, 600, 7_200]).unwrap());
        let run = lab
            .world
            .schedule_run(&deployment, lab.world.now + ahead, true);
        let ahead = Duration::try_from(ahead).unwrap();
        self.soon(
            now + ahead.min(Duration::from_secs(700)),
            Step::Pending(run.clone()),
        );
        for (chance, step) in [
            (0.06, Step::Cancel(run.clone())),
            (0.04, Step::Delete(run.clone())),
            (0.02, Step::Force(run)),
        ] {
            if self.rng.f64() < chance {
                self.soon(now + ahead.min(Duration::from_secs(700)), step);
            }
        }
    }

    fn run(&mut self, now: Duration, run: Id, lab: &mut Lab) {
        if !self.is(lab, &run, &[StateType::Pending, StateType::Scheduled]) {
            return;
        }
        lab.world.propose(&run, StateType::Running, "Running");
        if self.rng.f64() < 0.3 {
            self.soon(now, Step::Task(run.clone()));
        }
        let step = match self.rng.u32(0..20) {
            0 | 1 => Step::AwaitRetry(run),
            2 => Step::Pause(run),
            _ => Step::End(run),
        };
        self.soon(now, step);
    }

    /// How far a worker's clock is behind.
    fn behind(&mut self) -> Duration {
        match self.skew {
            0 => Duration::ZERO,
            most => Duration::from_secs(self.rng.u64(0..most)),
        }
    }

    fn finish(&mut self, now: Duration, run: Id, kind: StateType, lab: &mut Lab) {
        let timestamp = lab.world.now - self.behind();
        let name = kind.default_name();
        let state = lab
            .world
            .set_state(&run, kind, &name, Some(timestamp))
            .unwrap();
        lab.ended(&run, Arc::clone(&state), true);
        if self.rng.f64() < 0.15 && now < self.end {
            self.soon(now, Step::Retry(run));
        }
    }
}

impl Events for Schedule {
    fn until(&mut self, now: Duration, lab: &mut Lab) -> bool {
        let mut any = false;
        while let Some(entry) = self.steps.first_entry() {
            let (at, _) = *entry.key();
            if at > now {
                break;
            }
            let step = entry.remove();
            lab.reach(at);
            any |= !matches!(step, Step::MarkLate) || lab.world.runs().count() > 0;
            self.play(at.max(lab.time()), step, lab);
        }
        any
    }
}
