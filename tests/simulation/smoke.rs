//! A smoke test: the core reads the in-memory Prefect for a few cycles and counts the runs that
//! ended.

use std::time::Duration;

use jiff::Timestamp;
use prefect_otel_agent::core::clock::Moment;
use prefect_otel_agent::core::counters::FLOW_RUNS_FINISHED;
use prefect_otel_agent::core::tags::TagKeys;
use prefect_otel_agent::core::{Answered, Config, Core};
use prefect_otel_agent::prefect::Request;
use prefect_otel_agent::prefect::runs::StateType;

use crate::prefect::World;

pub(crate) const INTERVAL: Duration = Duration::from_secs(30);

pub(crate) fn config() -> Config {
    Config {
        interval: INTERVAL,
        inventory_interval: Duration::from_secs(300),
        scheduled_lookahead: Some(Duration::from_secs(3600)),
        offset: Duration::from_secs(180),
        failed_runs_offset: None,
        catch_up: Duration::from_secs(86_400),
        task_runs: false,
        page_limit: 200,
        first_page_only: false,
        cardinality_limit: 10_000,
        tag_keys: TagKeys::default(),
        unused: Vec::new(),
    }
}

/// Runs a cycle without faults. Returns its requests.
pub(crate) fn cycle(core: &mut Core, world: &World, moment: Moment) -> Vec<Request> {
    core.begin(moment);
    let mut requests = Vec::new();
    for round in 0.. {
        assert!(round < 100, "the cycle does not end");
        let plan = core.plan(moment);
        if plan.is_empty() {
            break;
        }
        requests.extend(plan.iter().map(|ask| ask.request.clone()));
        let answer = |ask: prefect_otel_agent::core::Ask| Answered {
            result: world.reply(&ask.request),
            ask,
            took: Duration::from_millis(1),
            at: moment,
        };
        let answers = plan.into_iter().map(answer).collect();
        core.apply(moment, answers);
    }
    let cycle = core.finish(moment, None);
    assert!(cycle.errors.is_empty(), "{:?}", cycle.errors);
    core.mark_shown(cycle.state.number);
    requests
}

#[test]
fn twenty_cycles_count_the_runs_that_ended() {
    let start = Timestamp::from_second(1_800_000_000).unwrap();
    let mut world = World::new(start);
    let queue = world.create_work_pool("pool");
    let flow = world.create_flow("flow");
    let deployment = world.create_deployment(&flow, "deployment", Some(&queue));
    let mut core = Core::new(config(), None);
    let mut ended = 0;
    let mut running = Vec::new();
    for number in 0..20 {
        let moment = Moment {
            uptime: INTERVAL * number,
            wall: world.now,
        };
        cycle(&mut core, &world, moment);
        for run in running.drain(..) {
            world.set_state(&run, StateType::Completed, "Completed", None);
            ended += 1;
        }
        for _ in 0..3 {
            let run = world.schedule_run(&deployment, world.now, true);
            world.propose(&run, StateType::Pending, "Pending");
            world.propose(&run, StateType::Running, "Running");
            running.push(run);
        }
        // A run starts and ends between two cycles.
        if let Some(run) = running.pop() {
            world.advance(Duration::from_secs(1));
            world.set_state(&run, StateType::Completed, "Completed", None);
            ended += 1;
        }
        world.advance(INTERVAL - Duration::from_secs(1));
    }
    let moment = Moment {
        uptime: INTERVAL * 20,
        wall: world.now,
    };
    cycle(&mut core, &world, moment);
    let state = core.state(moment);
    let totals = state.counters.of(FLOW_RUNS_FINISHED);
    let counted: u64 = totals.series.iter().map(|(_, total)| total.value).sum();
    assert_eq!(counted, ended);
}
