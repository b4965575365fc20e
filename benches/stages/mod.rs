//! The stages of a cycle, on a workspace of any size, for the benchmarks.

#[path = "../../tests/simulation/prefect.rs"]
mod prefect;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use prefect_otel_agent::core::clock::{Moment, after};
use prefect_otel_agent::core::events::Event;
use prefect_otel_agent::core::{Answered, Ask, Core, Cycle, State};
use prefect_otel_agent::cycles::core_config;
use prefect_otel_agent::export::{Collector, Exporters};
use prefect_otel_agent::metrics::agent::Stats;
use prefect_otel_agent::metrics::{self, Lingering, Options, Reading, View};
use prefect_otel_agent::prefect::request::{FlowRunFilter, Order};
use prefect_otel_agent::prefect::runs::StateType;
use prefect_otel_agent::prefect::{Answer, Request};
use prefect_otel_agent::settings::{Settings, Sources};
use prost::Message as _;
use serde_json::{Value, json};

use prefect::World;

/// About so many series come from one deployment of [`workspace`].
const SERIES_PER_DEPLOYMENT: usize = 45;

const INTERVAL: Duration = Duration::from_secs(30);

fn settings() -> Settings {
    let url = ("PREFECT_API_URL".into(), "http://127.0.0.1:4200/api".into());
    let limit = ("METRICS_CARDINALITY_LIMIT".into(), "200000".into());
    let sources = Sources {
        environment: vec![url, limit],
        ..Sources::default()
    };
    Settings::load(&sources).unwrap()
}

/// The time of a cycle.
fn moment(cycle: u32) -> Moment {
    let since = INTERVAL * cycle;
    Moment {
        uptime: since,
        wall: after(Timestamp::constant(1_780_000_000, 0), since),
    }
}

/// A workspace with about this many series: for every 8 deployments a flow and a work queue, for
/// every 48 a work pool. Every second deployment has an active run, and each has two scheduled ones.
fn workspace(series: usize) -> World {
    let deployments = (series / SERIES_PER_DEPLOYMENT).max(1);
    let mut world = World::new(moment(0).wall);
    let pools: Vec<_> = (0..deployments.div_ceil(48))
        .map(|number| format!("pool-{number}"))
        .collect();
    for pool in &pools {
        world.create_work_pool(pool);
    }
    let eighth = deployments.div_ceil(8);
    let queues: Vec<_> = (0..eighth)
        .map(|number| {
            world.create_work_queue(&pools[number % pools.len()], &format!("queue-{number}"))
        })
        .collect();
    let flows: Vec<_> = (0..eighth)
        .map(|number| world.create_flow(&format!("flow-{number}")))
        .collect();
    for number in 0..deployments {
        let (flow, queue) = (&flows[number % eighth], &queues[number % eighth]);
        let name = format!("deployment-{number}");
        let deployment = world.create_deployment(flow, &name, Some(queue));
        for minutes in [20, 40] {
            let start = after(world.now, Duration::from_secs(minutes * 60));
            world.schedule_run(&deployment, start, true);
        }
        if number % 2 == 0 {
            let run = world.schedule_run(&deployment, world.now, true);
            world.set_state(&run, StateType::Running, "Running", None);
        }
    }
    world
}

/// A run of every deployment ends.
fn end_runs(world: &mut World) {
    let deployments = world.deployments.iter();
    let deployments: Vec<_> = deployments.map(|found| Arc::clone(&found.id)).collect();
    for (number, deployment) in deployments.iter().enumerate() {
        let run = world.schedule_run(deployment, world.now, true);
        world.set_state(&run, StateType::Running, "Running", None);
        let (kind, name) = match number % 10 {
            0 => (StateType::Failed, "Failed"),
            _ => (StateType::Completed, "Completed"),
        };
        world.set_state(&run, kind, name, None);
    }
}

fn answers(world: &World, plan: Vec<Ask>, moment: Moment) -> Vec<Answered> {
    let answered = |ask: Ask| Answered {
        result: world.reply(&ask.request),
        ask,
        took: Duration::from_millis(10),
        at: moment,
    };
    plan.into_iter().map(answered).collect()
}

/// A cycle, and its answers once more, by round.
fn cycle(core: &mut Core, world: &World, moment: Moment) -> (Cycle, Vec<Vec<Answered>>) {
    let mut rounds = Vec::new();
    core.begin(moment);
    loop {
        let plan = core.plan(moment);
        if plan.is_empty() {
            return (core.finish(moment, None), rounds);
        }
        rounds.push(answers(world, plan.clone(), moment));
        core.apply(moment, answers(world, plan, moment));
    }
}

/// A process on a workspace.
struct Process {
    settings: Settings,
    options: Options,
    core: Core,
    /// The last state.
    state: Option<Arc<State>>,
    /// The events of all cycles.
    events: Vec<Event>,
    number: u32,
}

impl Process {
    fn new() -> Self {
        let settings = settings();
        let options = Options::new(&settings).unwrap();
        let core = Core::new(core_config(&settings, &options), None);
        Process {
            settings,
            options,
            core,
            state: None,
            events: Vec::new(),
            number: 0,
        }
    }

    /// Runs the next cycle. Everything in it counts as delivered.
    fn next(&mut self, world: &World) -> Vec<Vec<Answered>> {
        let (cycle, rounds) = cycle(&mut self.core, world, moment(self.number));
        self.core.mark_shown(cycle.state.number);
        self.events.extend(cycle.events);
        self.state = Some(cycle.state);
        self.number += 1;
        rounds
    }
}

/// A process after a first cycle, one with runs that end, and two without any change. The workspace
/// is at the time of the next one. The same size gives the same workspace.
fn steady(series: usize) -> (Process, World) {
    let (mut world, mut process) = (workspace(series), Process::new());
    for number in 0..4 {
        world.now = moment(number).wall;
        if number == 1 {
            end_runs(&mut world);
        }
        process.next(&world);
    }
    world.now = moment(process.number).wall;
    (process, world)
}

/// A core, and the answers of its next cycle.
pub(crate) struct Cycling(Core, Vec<Vec<Answered>>, Moment);

impl Cycling {
    /// The first cycle, in which everything is listed.
    pub(crate) fn first(series: usize) -> Self {
        let world = workspace(series);
        let rounds = Process::new().next(&world);
        Cycling(Process::new().core, rounds, moment(0))
    }

    /// A cycle in which nothing has changed.
    pub(crate) fn steady(series: usize) -> Self {
        let ((process, world), (mut other, _)) = (steady(series), steady(series));
        let rounds = other.next(&world);
        Cycling(process.core, rounds, moment(process.number))
    }

    /// Runs the cycle.
    pub(crate) fn run(self) -> (Core, Cycle) {
        let Cycling(mut core, rounds, moment) = self;
        core.begin(moment);
        for answers in rounds {
            std::hint::black_box(core.plan(moment));
            core.apply(moment, answers);
        }
        let cycle = core.finish(moment, None);
        assert!(cycle.errors.is_empty(), "{:?}", cycle.errors);
        (core, cycle)
    }
}

/// The body of an answer with flow runs, and its request.
pub(crate) struct Body(Request, Vec<u8>);

impl Body {
    pub(crate) fn of_runs(runs: usize) -> Self {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/flow_run_running.json"
        );
        let recorded: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let objects = (0..runs).map(|number| {
            let mut run = recorded.clone();
            run["id"] = json!(format!("00000005-0000-4000-8000-{number:012x}"));
            run["name"] = json!(format!("run-{number}"));
            run
        });
        let body = serde_json::to_vec(&objects.collect::<Vec<_>>()).unwrap();
        let request = Request::FlowRuns {
            filter: FlowRunFilter::default(),
            order: Order::default(),
            limit: runs,
        };
        Body(request, body)
    }

    pub(crate) fn decode(&self) -> Answer {
        Answer::decode(&self.0, &self.1).unwrap()
    }
}

/// Everything that a publication needs.
pub(crate) struct Publishing {
    process: Process,
    exporters: Exporters,
    collector: Collector,
    lingering: Lingering,
    published: Cell<u64>,
}

impl Publishing {
    pub(crate) fn new(series: usize) -> Self {
        let (process, _) = steady(series);
        let (exporters, collector) =
            Exporters::collecting(&process.settings, &process.options).unwrap();
        exporters.measure(0, &process.options, &process.events, || {});
        Publishing {
            process,
            exporters,
            collector,
            lingering: Lingering::default(),
            published: Cell::default(),
        }
    }

    /// The same, and what to render.
    pub(crate) fn unrendered(series: usize) -> (Self, Vec<Reading>) {
        let mut publishing = Publishing::new(series);
        let readings = publishing.read();
        (publishing, readings)
    }

    /// The same after a publication.
    pub(crate) fn rendered(series: usize) -> Self {
        let (publishing, readings) = Publishing::unrendered(series);
        publishing.render(readings);
        publishing
    }

    /// Computes the points of every family.
    pub(crate) fn read(&mut self) -> Vec<Reading> {
        let state = self.process.state.as_ref().unwrap();
        let options = &self.process.options;
        let stats = Stats::new(Instant::now(), SystemTime::UNIX_EPOCH);
        let tags = options.tag_attributes(&state.snapshot);
        let view = View::of(state, options, &tags);
        metrics::read(
            &[view],
            std::slice::from_mut(&mut self.lingering),
            &stats,
            options,
            moment(self.process.number).uptime,
        )
    }

    /// The number of series on the page of `/metrics`.
    pub(crate) fn series(&self) -> usize {
        let page = self.exporters.page().unwrap().scrape().unwrap();
        let lines = page.split(|byte| *byte == b'\n');
        lines
            .filter(|line| line.first().is_some_and(|first| *first != b'#'))
            .count()
    }

    /// Renders the page of `/metrics`.
    pub(crate) fn render(&self, readings: Vec<Reading>) {
        let number = self.published.get() + 1;
        self.published.set(number);
        self.exporters.publish(number, readings);
        self.exporters.page().unwrap().scrape().unwrap();
    }

    /// Encodes a push.
    pub(crate) fn push(&self) -> Vec<u8> {
        self.collector.collect().unwrap().encode_to_vec()
    }
}

/// The same readings once more.
pub(crate) fn again(readings: &[Reading]) -> Vec<Reading> {
    let again = readings.iter().map(|reading| Reading {
        family: reading.family,
        points: Arc::clone(&reading.points),
    });
    again.collect()
}

/// A core with a checkpoint to write.
pub(crate) struct Saving(Core, Moment);

impl Saving {
    pub(crate) fn new(series: usize) -> Self {
        let (process, _) = steady(series);
        Saving(process.core, moment(process.number))
    }

    /// Takes the checkpoint and encodes it.
    pub(crate) fn save(&mut self) -> Vec<u8> {
        // As if the last one could not be written.
        self.0.checkpoint_failed();
        let saved = self.0.checkpoint(self.1).unwrap();
        serde_json::to_vec(&saved).unwrap()
    }
}
