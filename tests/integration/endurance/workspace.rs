//! A workspace that changes all the time, and what its counts must be.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::support::fleet;
use crate::support::stub::{Contents, Stub};

/// Terminal states by deployment and state type.
pub(super) type Counts = BTreeMap<(String, String), u64>;

const ALIVE: usize = 24;
/// Names are used in turn, as a name returns when a deployment is replaced.
const NAMES: usize = 48;
const MOST_RUNNING: usize = 30;
const STATES: [&str; 4] = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"];
/// Prefect deletes a deployment only after the agent had time to read its last runs.
const QUIET: Duration = Duration::from_secs(90);
/// How long an ended run remains in Prefect.
const RETENTION: SignedDuration = SignedDuration::from_mins(15);

struct Deployment {
    number: usize,
    name: String,
    running: usize,
    /// Set when it is not used any more: the time of its last change.
    retired: Option<Instant>,
}

struct Run {
    number: usize,
    deployment: usize,
    ends: Instant,
    ends_as: &'static str,
}

/// The workspace, in a stub of Prefect.
pub(super) struct Workspace {
    stub: Stub,
    random: Rng,
    deployments: Vec<Deployment>,
    names: VecDeque<String>,
    running: Vec<Run>,
    numbers: std::ops::RangeFrom<usize>,
    next_deployment: Instant,
    /// What has ended so far.
    pub(super) truth: Counts,
}

impl Workspace {
    pub(super) fn new(stub: &Stub, random: Rng) -> Self {
        {
            let mut contents = stub.contents();
            fleet::small(&mut contents);
            contents.deployments.clear();
        }
        let mut workspace = Workspace {
            stub: stub.clone(),
            random,
            deployments: Vec::new(),
            names: (0..NAMES).map(|name| format!("soak-{name}")).collect(),
            running: Vec::new(),
            numbers: 1..,
            next_deployment: Instant::now(),
            truth: Counts::new(),
        };
        for _ in 0..ALIVE {
            workspace.deploy();
        }
        workspace
    }

    /// The number of terminal states so far.
    pub(super) fn total(&self) -> u64 {
        self.truth.values().sum()
    }

    fn number(&mut self) -> usize {
        self.numbers.next().unwrap()
    }

    fn deploy(&mut self) {
        let (number, name) = (self.number(), self.names.pop_front().unwrap());
        let is_new = !self.truth.keys().any(|(known, _)| *known == name);
        let mut contents = self.stub.contents();
        fleet::deploy(&mut contents, number);
        contents.deployments.last_mut().unwrap()["name"] = json!(name);
        drop(contents);
        self.deployments.push(Deployment {
            number,
            name,
            running: 0,
            retired: None,
        });
        if is_new {
            // Every series exists when the warm-up is over.
            let last = self.deployments.len() - 1;
            for state in STATES {
                self.start(last, state);
            }
        }
    }

    /// Starts and ends runs, and replaces deployments.
    pub(super) fn change(&mut self) {
        let now = Instant::now();
        if self.running.len() < MOST_RUNNING && self.random.u8(..) < 50 {
            let deployment = self.any_in_use();
            let states = ["COMPLETED", "COMPLETED", "FAILED", "CRASHED", "CANCELLED"];
            let state = *self.random.choice(&states).unwrap();
            self.start(deployment, state);
        }
        self.end_until(now);
        if self.next_deployment <= now {
            self.next_deployment = now + Duration::from_secs(self.random.u64(3..12));
            self.replace(now);
        }
        self.forget();
    }

    /// The index of a deployment that is not retired.
    fn any_in_use(&mut self) -> usize {
        let all = self.deployments.iter().enumerate();
        let in_use = all.filter(|(_, one)| one.retired.is_none());
        let in_use: Vec<_> = in_use.map(|(index, _)| index).collect();
        *self.random.choice(&in_use).unwrap()
    }

    /// Starts a run of a deployment.
    fn start(&mut self, deployment: usize, ends_as: &'static str) {
        let number = self.number();
        let deployment = &mut self.deployments[deployment];
        deployment.running += 1;
        let deployment = deployment.number;
        self.running.push(Run {
            number,
            deployment,
            ends: Instant::now() + Duration::from_secs(self.random.u64(3..30)),
            ends_as,
        });
        self.show(number, deployment, "RUNNING");
    }

    /// Ends the runs that are due.
    fn end_until(&mut self, now: Instant) {
        while let Some(due) = self.running.iter().position(|run| run.ends <= now) {
            let run = self.running.swap_remove(due);
            self.show(run.number, run.deployment, run.ends_as);
            let mut all = self.deployments.iter_mut();
            let deployment = all.find(|one| one.number == run.deployment).unwrap();
            deployment.running -= 1;
            deployment.retired = deployment.retired.map(|_| now);
            let key = (deployment.name.clone(), run.ends_as.to_owned());
            *self.truth.entry(key).or_default() += 1;
        }
    }

    /// Ends everything that is running.
    pub(super) fn rest(&mut self) {
        while let Some(last) = self.running.iter().map(|run| run.ends).max() {
            self.end_until(last);
        }
    }

    /// Puts a run into this state.
    fn show(&self, number: usize, deployment: usize, state: &str) {
        let mut run = fleet::run_at(number, state, 0);
        run["deployment_id"] = json!(fleet::id(1, deployment));
        let entered = json!({
            "id": run["state_id"],
            "type": state,
            "name": run["state_name"],
            "timestamp": Timestamp::now().to_string(),
        });
        run["state"] = entered.clone();
        let mut contents = self.stub.contents();
        let id = run["id"].as_str().unwrap().to_owned();
        contents.states.entry(id).or_default().push(entered);
        contents.flow_runs.retain(|other| other["id"] != run["id"]);
        contents.flow_runs.push(run);
    }

    fn replace(&mut self, now: Instant) {
        let gone = |one: &Deployment| {
            let idle = one.retired.is_some_and(|since| now - since > QUIET);
            idle && one.running == 0
        };
        while let Some(position) = self.deployments.iter().position(gone) {
            let deployment = self.deployments.swap_remove(position);
            let id = fleet::id(1, deployment.number);
            let mut contents = self.stub.contents();
            contents.deployments.retain(|other| other["id"] != id);
            self.names.push_back(deployment.name);
        }
        if !self.names.is_empty() {
            let retired = self.any_in_use();
            self.deployments[retired].retired = Some(now);
            self.deploy();
        }
    }

    /// Removes runs that ended long ago.
    fn forget(&mut self) {
        let edge = Timestamp::now() - RETENTION;
        let mut contents = self.stub.contents();
        let Contents {
            flow_runs,
            states,
            requests,
            ..
        } = &mut *contents;
        flow_runs.retain(|run| {
            let end = run["end_time"].as_str();
            let stays = end.is_none_or(|end| end.parse::<Timestamp>().unwrap() > edge);
            if !stays {
                states.remove(run["id"].as_str().unwrap());
            }
            stays
        });
        // Otherwise, the requests of an hour are kept.
        requests.clear();
    }
}
