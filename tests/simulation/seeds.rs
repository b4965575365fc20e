//! Random schedules, each generated from a seed.
//!
//! `cargo test --test simulation seeds` runs some hundreds; `SEEDS=10000` sets their number,
//! `FIRST_SEED` the first one. If a seed fails, the command that replays it is printed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::SignedDuration;
use prefect_otel_agent::core::Config;
use prefect_otel_agent::core::counters::FLOW_RUNS_FINISHED;
use prefect_otel_agent::core::sections::Section;
use prefect_otel_agent::core::tags::TagKeys;
use prefect_otel_agent::prefect::Id;
use prefect_otel_agent::prefect::runs::StateType;

use crate::lab::{Calm, Death, Events, Lab, Weather};
use crate::prefect::Nulls;
use crate::schedule::Schedule;

pub(crate) const INTERVAL: Duration = Duration::from_secs(30);

/// The parts of a schedule. Each can be left out, to find out which of them cause a failure.
#[derive(Debug, Clone, Copy)]
struct Parts {
    errors: bool,
    stale: bool,
    ahead: bool,
    cut_off: bool,
    clock: bool,
    deaths: bool,
    pushes: bool,
}

const ALL: Parts = Parts {
    errors: true,
    stale: true,
    ahead: true,
    cut_off: true,
    clock: true,
    deaths: true,
    pushes: true,
};

pub(crate) fn config(lab: &mut fastrand::Rng) -> Config {
    Config {
        interval: INTERVAL,
        inventory_interval: Duration::from_secs(60),
        scheduled_lookahead: *lab
            .choice(&[
                Some(Duration::from_secs(3_600)),
                Some(Duration::from_secs(600)),
                None,
            ])
            .unwrap(),
        offset: Duration::from_secs(300),
        failed_runs_offset: Some(Duration::from_secs(7 * 86_400)),
        catch_up: Duration::from_secs(86_400),
        task_runs: lab.f64() < 0.3,
        page_limit: *lab.choice(&[3, 7, 20, 200]).unwrap(),
        first_page_only: false,
        cardinality_limit: *lab.choice(&[10_000, 10_000, 10]).unwrap(),
        tag_keys: TagKeys::new(lab.bool().then_some("team")),
        unused: Vec::new(),
    }
}

/// Runs one schedule. Returns what is wrong, if anything.
fn play(seed: u64, parts: Parts) -> Result<(), String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let config = config(&mut rng);
    let mut lab = Lab::new(seed, config);
    lab.world.nulls = if rng.bool() {
        Nulls::Smallest
    } else {
        Nulls::Largest
    };
    lab.world.ties = rng.u128(..);
    // Some schedules are long enough for a deployment to be forgotten.
    let intervals = if rng.f64() < 0.05 { 200..400 } else { 20..60 };
    let length = INTERVAL * rng.u32(intervals);
    let mut schedule = Schedule::new(&mut lab, length);
    let checkpoint = rng.f64() < 0.8;
    // Some schedules have hours after which the agent has forgotten what it counted before.
    let mut hours = (rng.f64() < 0.05).then(|| length.mul_f64(rng.f64()));
    lab.weather.slow = *rng.choice(&[0, 50, 1_000]).unwrap();
    let mut end = length;
    while lab.time() < end {
        if hours.take_if(|at| *at <= lab.time()).is_some() {
            end += forget(&mut lab, &mut rng, parts, &mut schedule);
        }
        turn(&mut lab, &mut rng, parts, checkpoint, &mut schedule);
        match lab.cycle(&mut schedule) {
            Some(cycle) => lab.check_gauges(&cycle)?,
            None => lab.restart(death(checkpoint), &mut schedule),
        }
        let elapsed = lab.time().as_millis() as u64 % INTERVAL.as_millis() as u64;
        lab.pass(INTERVAL - Duration::from_millis(elapsed), &mut schedule);
    }
    calm_down(&mut lab, &mut schedule)
}

/// Hours in which nothing new begins, and in which nothing can be read, or everything. Some of the
/// runs that have ended are retried after them. Returns how long that took.
fn forget(
    lab: &mut Lab,
    rng: &mut fastrand::Rng,
    parts: Parts,
    schedule: &mut Schedule,
) -> Duration {
    let (began, weather) = (lab.time(), lab.weather);
    let is_down = parts.errors && rng.bool();
    lab.weather = Weather {
        errors: if is_down { 1.0 } else { 0.0 },
        slow: weather.slow,
        ..Weather::default()
    };
    for _ in 0..rng.u32(40..60) {
        lab.pass(Duration::from_secs(600), schedule);
        lab.cycle(schedule);
    }
    lab.weather = weather;
    lab.freeze_replica();
    schedule.retry_old(lab);
    lab.time() - began
}

/// Changes the disturbances from one cycle to the next.
fn turn(
    lab: &mut Lab,
    rng: &mut fastrand::Rng,
    parts: Parts,
    checkpoint: bool,
    events: &mut dyn Events,
) {
    if rng.f64() < 0.25 {
        let or = |on: bool, chance: f64| if on { chance } else { 0.0 };
        lab.weather = Weather {
            errors: or(
                parts.errors,
                *rng.choice(&[0.0, 0.0, 0.1, 0.5, 1.0]).unwrap(),
            ),
            stale: or(parts.stale, *rng.choice(&[0.0, 0.0, 0.3, 1.0]).unwrap()),
            ahead: or(parts.ahead, *rng.choice(&[0.0, 0.0, 0.2, 0.5]).unwrap()),
            cut_off: or(parts.cut_off, *rng.choice(&[0.0, 0.0, 0.2, 0.6]).unwrap()),
            dies: or(parts.deaths, *rng.choice(&[0.0, 0.0, 0.05]).unwrap()),
            no_push: or(parts.pushes, *rng.choice(&[0.0, 0.0, 0.3, 1.0]).unwrap()),
            no_answer: or(parts.pushes, *rng.choice(&[0.0, 0.0, 0.3, 1.0]).unwrap()),
            slow: lab.weather.slow,
            ..Weather::default()
        };
        if lab.weather.stale > 0.0 {
            lab.freeze_replica();
        }
    }
    if parts.clock && rng.f64() < 0.01 {
        let seconds = *rng.choice(&[600, -600, 3_600, -3_600, 45, -45]).unwrap();
        // Not to a time before counting began: it could then not be determined what ended when.
        let since = lab.counting_since.unwrap_or(lab.world.now);
        let step = SignedDuration::from_secs(seconds);
        if lab.world.now + step > since + SignedDuration::from_mins(30) {
            lab.step_clock(step);
        }
    }
    if parts.clock && rng.f64() < 0.01 {
        lab.step_wall(SignedDuration::from_secs(rng.i64(-7_200..7_200)));
    }
    if parts.deaths && rng.f64() < 0.03 {
        lab.restart(death(checkpoint), events);
    }
}

fn death(checkpoint: bool) -> Death {
    match checkpoint {
        true => Death::Kept,
        false => Death::Forgotten,
    }
}

/// Ends all disturbances, lets all runs end, and compares everything.
fn calm_down(lab: &mut Lab, schedule: &mut Schedule) -> Result<(), String> {
    lab.weather = Weather::default();
    for _ in 0..6 {
        lab.cycle(schedule);
        lab.pass(INTERVAL, schedule);
    }
    // Beyond two hourly comparisons and every backoff.
    for _ in 0..14 {
        lab.pass(Duration::from_secs(600), schedule);
        lab.cycle(schedule);
    }
    // Beyond another comparison, which finds runs that ended last by a slow clock.
    for _ in 0..7 {
        lab.pass(Duration::from_secs(600), &mut Calm);
        lab.cycle(&mut Calm);
    }
    for _ in 0..3 {
        lab.cycle(&mut Calm);
        lab.pass(INTERVAL, &mut Calm);
    }
    let cycle = lab.cycle(&mut Calm).unwrap();
    if !cycle.errors.is_empty() {
        return Err(format!("it does not recover: {:?}", cycle.errors));
    }
    lab.check_gauges(&cycle)?;
    lab.check_rest(&cycle)?;
    lab.check_counts()
}

/// Leaves out the parts that are not needed for the failure.
fn shrunk(seed: u64) -> Parts {
    let mut parts = ALL;
    let without: [fn(&mut Parts); 7] = [
        |parts| parts.errors = false,
        |parts| parts.stale = false,
        |parts| parts.ahead = false,
        |parts| parts.cut_off = false,
        |parts| parts.clock = false,
        |parts| parts.deaths = false,
        |parts| parts.pushes = false,
    ];
    for leave_out in without {
        let mut fewer = parts;
        leave_out(&mut fewer);
        if play(seed, fewer).is_err() {
            parts = fewer;
        }
    }
    parts
}

#[test]
fn without_disturbances_a_run_is_counted_by_the_second_cycle_after_its_end() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let config = config(&mut rng);
        let mut lab = Lab::new(seed, config);
        // In every other schedule, some answers come from a server whose clock is ahead.
        lab.weather.ahead = if seed % 2 == 0 { 0.0 } else { 0.25 };
        // Runs are retried between two pages.
        lab.weather.slow = *rng.choice(&[0, 1_000]).unwrap();
        let length = INTERVAL * 40;
        let mut schedule = Schedule::new(&mut lab, length).with_good_clocks();
        let mut before = Duration::ZERO;
        while lab.time() < length {
            let began = lab.time();
            lab.cycle(&mut schedule);
            if let Err(problem) = lab.check_prompt(before) {
                panic!("seed {seed}: {problem}");
            }
            before = began;
            lab.pass(INTERVAL, &mut schedule);
        }
    }
}

#[test]
fn a_run_that_a_full_listing_lacks_is_looked_up_regardless_of_its_end_time() {
    let mut lab = Lab::new(0, config(&mut fastrand::Rng::with_seed(0)));
    let queue = lab.world.create_work_pool("pool");
    let flow = lab.world.create_flow("flow");
    let deployment = lab
        .world
        .create_deployment(&flow, "deployment", Some(&queue));
    let now = lab.world.now;
    let run = lab.world.schedule_run(&deployment, now, true);
    lab.world.propose(&run, StateType::Running, "Running");
    // The next full listing is due after an hour.
    for _ in 0..13 {
        lab.cycle(&mut Calm);
        lab.pass(Duration::from_secs(299), &mut Calm);
    }
    let end = lab.world.now - SignedDuration::from_hours(3);
    lab.world
        .set_state(&run, StateType::Completed, "Completed", Some(end));
    lab.cycle(&mut Calm);
    assert_eq!(lab.counted(), 1);
}

#[test]
fn a_run_that_a_lagging_replica_hides_over_several_restarts_is_found() {
    let mut lab = Lab::new(0, config(&mut fastrand::Rng::with_seed(0)));
    let queue = lab.world.create_work_pool("pool");
    let flow = lab.world.create_flow("flow");
    let deployment = lab.world.create_deployment(&flow, "it", Some(&queue));
    lab.cycle(&mut Calm);
    lab.pass(Duration::from_secs(60), &mut Calm);
    lab.freeze_replica();
    lab.weather.stale = 1.0;
    let now = lab.world.now;
    let run = lab.world.schedule_run(&deployment, now, true);
    lab.world.propose(&run, StateType::Running, "Running");
    lab.world
        .set_state(&run, StateType::Completed, "Completed", None);
    // Each process makes a comparison as it starts.
    while lab.time() < Duration::from_secs(80 * 60) {
        lab.pass(Duration::from_secs(600), &mut Calm);
        lab.cycle(&mut Calm);
        lab.restart(Death::Kept, &mut Calm);
        lab.cycle(&mut Calm);
    }
    assert_eq!(lab.counted(), 0);
    lab.weather.stale = 0.0;
    lab.pass(Duration::from_secs(3_600), &mut Calm);
    lab.cycle(&mut Calm);
    assert_eq!(lab.counted(), 1);
}

/// While time passes, one run after another is retried.
struct Retries(Vec<Id>);

impl Events for Retries {
    fn until(&mut self, _: Duration, lab: &mut Lab) -> bool {
        let Some(run) = self.0.pop() else {
            return false;
        };
        lab.world
            .set_state(&run, StateType::Running, "Running", None);
        true
    }
}

#[test]
fn runs_that_are_retried_while_the_agent_catches_up_hide_no_others() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let config = Config {
            page_limit: 7,
            ..config(&mut rng)
        };
        let mut lab = Lab::new(seed, config);
        let queue = lab.world.create_work_pool("pool");
        let flow = lab.world.create_flow("flow");
        let deployment = lab.world.create_deployment(&flow, "it", Some(&queue));
        for _ in 0..3 {
            lab.cycle(&mut Calm);
            lab.pass(INTERVAL, &mut Calm);
        }
        // Nothing is read for hours.
        let runs = (0..60).map(|_| {
            lab.pass(INTERVAL, &mut Calm);
            let run = lab.world.schedule_run(&deployment, lab.world.now, true);
            lab.world.propose(&run, StateType::Running, "Running");
            let state = lab
                .world
                .set_state(&run, StateType::Completed, "Completed", None);
            lab.ended(&run, state.unwrap(), true);
            run
        });
        let mut runs: Vec<Id> = runs.collect();
        lab.pass(Duration::from_secs(5_400), &mut Calm);
        lab.restart(Death::Kept, &mut Calm);
        rng.shuffle(&mut runs);
        runs.truncate(10);
        let mut retries = Retries(runs);
        for _ in 0..2 {
            lab.cycle(&mut retries);
            lab.pass(INTERVAL, &mut Calm);
        }
        if let Err(problem) = lab.check_prompt(lab.time()) {
            panic!("seed {seed}: {problem}");
        }
    }
}

#[test]
fn once_prefect_is_back_after_minutes_of_refusals_every_section_is_read_in_the_next_cycle() {
    for status in [403, 404, 422, 500, 503] {
        let mut lab = Lab::new(0, config(&mut fastrand::Rng::with_seed(0)));
        lab.world.create_flow("flow");
        lab.cycle(&mut Calm);
        let refused = Weather {
            errors: 1.0,
            status: Some(status),
            ..Weather::default()
        };
        lab.weather = refused;
        for _ in 0..20 {
            lab.pass(INTERVAL, &mut Calm);
            let cycle = lab.cycle(&mut Calm).unwrap();
            assert!(!cycle.state.snapshot.up, "{status}");
        }
        lab.weather = Weather::default();
        lab.pass(INTERVAL, &mut Calm);
        let cycle = lab.cycle(&mut Calm).unwrap();
        assert!(cycle.errors.is_empty(), "{status}: {:?}", cycle.errors);
        for (section, state) in &cycle.state.snapshot.sections {
            assert!(!state.freshness.stale, "{status}: {section:?} {state:?}");
        }
    }
}

#[test]
fn runs_are_read_in_the_cycle_after_a_refusal_of_them_alone() {
    let mut lab = Lab::new(0, config(&mut fastrand::Rng::with_seed(0)));
    lab.cycle(&mut Calm);
    lab.weather.refused = true;
    for _ in 0..20 {
        lab.pass(INTERVAL, &mut Calm);
        let cycle = lab.cycle(&mut Calm).unwrap();
        assert!(!cycle.errors.is_empty());
        // Also in cycles in which the inventory is not due.
        assert!(cycle.state.snapshot.up);
    }
    lab.weather.refused = false;
    lab.pass(INTERVAL, &mut Calm);
    let cycle = lab.cycle(&mut Calm).unwrap();
    for section in [
        Section::ActiveRuns,
        Section::ScheduledRuns,
        Section::FinishedRuns,
        Section::FailedRuns,
    ] {
        let state = cycle.state.snapshot.sections[&section];
        assert!(!state.freshness.stale, "{section:?} {state:?}");
    }
    assert!(cycle.errors.is_empty(), "{:?}", cycle.errors);
}

#[test]
fn a_failed_run_that_is_deleted_leaves_the_window_within_an_hour() {
    let mut lab = Lab::new(0, config(&mut fastrand::Rng::with_seed(0)));
    let queue = lab.world.create_work_pool("pool");
    let flow = lab.world.create_flow("flow");
    let deployment = lab.world.create_deployment(&flow, "it", Some(&queue));
    lab.cycle(&mut Calm);
    let now = lab.world.now;
    let run = lab.world.schedule_run(&deployment, now, true);
    lab.world.propose(&run, StateType::Running, "Running");
    lab.pass(INTERVAL, &mut Calm);
    lab.world.set_state(&run, StateType::Failed, "Failed", None);
    let failed = |lab: &mut Lab, minutes: u64| {
        lab.pass(Duration::from_secs(60 * minutes), &mut Calm);
        let cycle = lab.cycle(&mut Calm).unwrap();
        cycle.state.snapshot.failed.len()
    };
    assert_eq!(failed(&mut lab, 1), 1);
    lab.world.delete_run(&run);
    assert_eq!(failed(&mut lab, 61), 0);
}

#[test]
fn counters_and_last_runs_survive_a_week_without_the_agent() {
    let mut lab = Lab::new(0, config(&mut fastrand::Rng::with_seed(0)));
    let queue = lab.world.create_work_pool("pool");
    let flow = lab.world.create_flow("flow");
    let deployment = lab.world.create_deployment(&flow, "it", Some(&queue));
    lab.cycle(&mut Calm);
    let now = lab.world.now;
    let run = lab.world.schedule_run(&deployment, now, true);
    lab.world.propose(&run, StateType::Running, "Running");
    lab.pass(INTERVAL, &mut Calm);
    lab.world.set_state(&run, StateType::Failed, "Failed", None);
    for _ in 0..3 {
        lab.cycle(&mut Calm);
        lab.pass(INTERVAL, &mut Calm);
    }
    assert_eq!(lab.counted(), 1);
    lab.pass(Duration::from_secs(7 * 86_400), &mut Calm);
    lab.restart(Death::Kept, &mut Calm);
    lab.weather = Weather {
        errors: 1.0,
        status: Some(503),
        ..Weather::default()
    };
    lab.cycle(&mut Calm);
    lab.weather = Weather::default();
    for _ in 0..3 {
        lab.pass(INTERVAL, &mut Calm);
        lab.cycle(&mut Calm);
    }
    let state = lab.core.state(lab.moment());
    let totals = state.counters.of(FLOW_RUNS_FINISHED);
    let sum: u64 = totals.series.iter().map(|(_, total)| total.value).sum();
    assert_eq!(sum, 1);
    assert!(
        state.last_runs[&deployment]
            .ends
            .contains_key(&StateType::Failed)
    );
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name);
    text.map_or(default, |text| text.parse().unwrap())
}

#[test]
fn every_terminal_state_counts_once_whatever_happens() {
    let (first, seeds) = (number("FIRST_SEED", 0), number("SEEDS", 300));
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + seeds {
                    return;
                }
                if let Err(problem) = play(seed, ALL) {
                    // Finding the needed parts would trace more runs.
                    assert!(
                        std::env::var_os("TRACE").is_none(),
                        "seed {seed}: {problem}"
                    );
                    let parts = shrunk(seed);
                    let problem = play(seed, parts).err().unwrap_or(problem);
                    panic!(
                        "seed {seed}: {problem}\nneeded: {parts:?}\nreplay: FIRST_SEED={seed} SEEDS=1 cargo test --test simulation every_terminal_state"
                    );
                }
            }
        };
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
}
