//! Workers: a pool without workers is not asked for them again, and yet none is ever missing.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;
use prefect_otel_agent::core::clock::Moment;
use prefect_otel_agent::core::{Config, Core};
use prefect_otel_agent::prefect::Request;
use prefect_otel_agent::prefect::objects::{Field, Worker};

use crate::prefect::World;
use crate::smoke::{INTERVAL, config, cycle};

/// A core that reads the inventory in every cycle, and its Prefect.
struct Lab {
    world: World,
    core: Core,
    cycles: u32,
}

impl Lab {
    fn new() -> Self {
        let config = Config {
            inventory_interval: INTERVAL,
            ..config()
        };
        Lab {
            world: World::new(Timestamp::from_second(1_800_000_000).unwrap()),
            core: Core::new(config, None),
            cycles: 0,
        }
    }

    /// Runs a cycle. Returns the number of pools whose workers were read.
    fn cycle(&mut self) -> usize {
        self.world.advance(INTERVAL);
        self.cycles += 1;
        let moment = self.moment();
        let requests = cycle(&mut self.core, &self.world, moment);
        let of_workers = |request: &&Request| matches!(request, Request::Workers { .. });
        requests.iter().filter(of_workers).count()
    }

    fn moment(&self) -> Moment {
        Moment {
            uptime: INTERVAL * self.cycles,
            wall: self.world.now,
        }
    }

    /// The workers that the agent shows.
    fn shown(&mut self) -> BTreeSet<String> {
        let state = self.core.state(self.moment());
        let workers = state.snapshot.inventory.workers.iter();
        workers.map(text).collect()
    }

    /// Those on the server that sent a heartbeat within a day.
    fn on_server(&self) -> BTreeSet<String> {
        let since = Some(self.world.now - Duration::from_secs(86_400));
        let recent = |worker: &&Worker| worker.last_heartbeat_time >= since;
        self.world.workers.iter().filter(recent).map(text).collect()
    }
}

fn text(worker: &Worker) -> String {
    let [pool, name, status] =
        [&worker.work_pool_name, &worker.name, &worker.status].map(|field| field.value().unwrap());
    format!("{pool} {name} {status} {:?}", worker.last_heartbeat_time)
}

#[test]
fn a_pool_without_workers_is_asked_for_them_once_an_hour() {
    let mut lab = Lab::new();
    for pool in ["vacant", "used"] {
        lab.world.create_work_pool(pool);
    }
    lab.world.worker_heartbeat("used", "one");
    assert_eq!((lab.cycle(), lab.cycle()), (2, 1));
    // A worker that is offline may be deleted.
    lab.world.advance(Duration::from_secs(91));
    lab.world.watch_workers();
    assert_eq!((lab.cycle(), lab.cycle()), (1, 1));
    assert!(lab.shown().first().unwrap().contains("OFFLINE"));
    lab.world.workers.clear();
    assert_eq!((lab.cycle(), lab.cycle()), (1, 0));
    assert_eq!(lab.shown(), BTreeSet::new());
    lab.world.worker_heartbeat("vacant", "two");
    assert_eq!((lab.cycle(), lab.cycle()), (1, 1));
    assert_eq!(lab.shown(), lab.on_server());
    let cycles = 3_600 / INTERVAL.as_secs();
    let read: usize = (0..cycles).map(|_| lab.cycle()).sum();
    assert_eq!(read as u64, cycles + 1);
}

#[test]
fn whatever_workers_do_the_agent_shows_what_the_server_has() {
    for seed in 0..50 {
        let mut rng = Rng::with_seed(seed);
        let mut lab = Lab::new();
        let pools = ["a", "b", "c"];
        for pool in pools {
            lab.world.create_work_pool(pool);
        }
        for step in 0..500 {
            for _ in 0..rng.usize(..4) {
                let pool = pools[rng.usize(..pools.len())];
                match rng.u8(..8) {
                    7 => lab.world.workers.retain(|_| rng.bool()),
                    0 => lab.world.watch_workers(),
                    1 => {
                        lab.world.delete_work_pool(pool);
                        lab.world.create_work_pool(pool);
                    }
                    // The pool is marked as a worker sends a heartbeat.
                    2 => {
                        let now = lab.world.now;
                        let pool = &mut lab.world.work_pools[rng.usize(..pools.len())];
                        pool.status = Field::Value("NOT_READY".into());
                        pool.updated = Some(now);
                    }
                    3 => lab.world.advance(Duration::from_secs(rng.u64(..200))),
                    4 if rng.u8(..20) == 0 => lab.world.advance(Duration::from_secs(80_000)),
                    _ => {
                        let name = format!("worker-{}", rng.u8(..3));
                        lab.world.worker_heartbeat(pool, &name);
                    }
                }
            }
            lab.cycle();
            assert_eq!(lab.shown(), lab.on_server(), "seed {seed}, step {step}");
        }
    }
}
