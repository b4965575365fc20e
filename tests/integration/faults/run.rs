//! Runs rows side by side. Each has a process of its own: well, struck, well again, and stopped
//! while it is struck again.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write as _;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::support::fleet;
use crate::support::front::{Front, On, Play};
use crate::support::machine::undisturbed;
use crate::support::otlp::{Answer, Receiver, translated};
use crate::support::points::{over_grpc, over_http};
use crate::support::process::AgentProcess;
use crate::support::small_stub;
use crate::support::stub::{Contents, Stub};

use super::attack::Attack;
use super::row::{Effect, Row, Strike};
use super::subject::{FINISHED, Subject, soon, sum};

/// Rows of a group that run at the same time; groups run in parallel as well.
const LANES: usize = 2;

/// What the run has measured so far.
struct Summary {
    rows: usize,
    /// The longest time from SIGTERM to exit, and its row.
    longest_exit: (Duration, &'static str),
    /// The longest time of a row, and the row.
    longest: (Duration, &'static str),
    started: Option<Instant>,
}

static SUMMARY: Mutex<Summary> = Mutex::new(Summary {
    rows: 0,
    longest_exit: (Duration::ZERO, ""),
    longest: (Duration::ZERO, ""),
    started: None,
});

/// Runs the rows of a group. `FAULTS=text` selects those whose name contains it.
pub(super) fn all(group: &[&'static [Row]]) {
    let wanted = std::env::var("FAULTS").unwrap_or_default();
    let rows = group.iter().flat_map(|rows| rows.iter());
    let rows: VecDeque<_> = rows.filter(|row| row.name.contains(&wanted)).collect();
    SUMMARY
        .lock()
        .unwrap()
        .started
        .get_or_insert_with(Instant::now);
    let runtime = Runtime::new().unwrap();
    let (rows, failures) = (Mutex::new(rows), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let next = rows.lock().unwrap().pop_front();
                    let Some(row) = next else { return };
                    let began = Instant::now();
                    let result = catch_unwind(AssertUnwindSafe(|| {
                        undisturbed(row.name, || run(row, &runtime))
                    }));
                    match result {
                        Ok(exit) => note(row.name, began.elapsed(), exit),
                        Err(why) => {
                            let failure = format!("{}: {}", row.name, text(&*why));
                            // At once, since the others may take a while.
                            _ = writeln!(std::io::stderr(), "{failure}");
                            failures.lock().unwrap().push(failure);
                        }
                    }
                }
            });
        }
    });
    // Hung connections would keep its tasks.
    runtime.shutdown_background();
    let summary = SUMMARY.lock().unwrap_or_else(PoisonError::into_inner);
    let ((exit, of), (longest, row)) = (summary.longest_exit, summary.longest);
    _ = writeln!(
        std::io::stderr(),
        "faults so far: {} rows in {:.0} s, the longest {:.0} s ({row}), the longest time from SIGTERM to exit {:.2} s ({of})",
        summary.rows,
        summary.started.map_or(0.0, |at| at.elapsed().as_secs_f64()),
        longest.as_secs_f64(),
        exit.as_secs_f64(),
    );
    drop(summary);
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} rows fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn note(name: &'static str, took: Duration, exit: Option<Duration>) {
    let mut summary = SUMMARY.lock().unwrap_or_else(PoisonError::into_inner);
    summary.rows += 1;
    summary.longest = summary.longest.max((took, name));
    summary.longest_exit = summary.longest_exit.max((exit.unwrap_or_default(), name));
}

fn text(why: &(dyn Any + Send)) -> &str {
    let text = why.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| why.downcast_ref::<&str>().copied())
        .unwrap_or("a panic")
}

/// Runs a row. Returns the time from SIGTERM to exit, if it was measured.
fn run(row: &Row, runtime: &Runtime) -> Option<Duration> {
    let world = World { row, runtime };
    match row.strike {
        Strike::Prefect(faults) => Some(world.prefect(faults)),
        Strike::AtStart(faults) => Some(world.at_start(faults)),
        Strike::Contents(change) => Some(world.contents(change)),
        Strike::Http(faults) => Some(world.over_http(faults)),
        Strike::Grpc(faults) => Some(world.over_grpc(faults)),
        Strike::GrpcAnswer(answer) => Some(world.grpc_answer(answer)),
        Strike::Port(attack) => Some(world.port(attack)),
        Strike::Host(host) => host.run(row, runtime),
        Strike::Signal(signal) => signal.run(row, runtime),
    }
}

pub(super) const SETTINGS: [(&str, &str); 2] =
    [("MAX_RETRIES", "0"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "3000")];

/// The timeout of requests to Prefect where it is reached: silence is noticed soon.
const SHORT: &str = "10";
/// The same elsewhere: a busy machine is not silent.
const LONG: &str = "20";

/// Whether requests reach their timeout.
fn waits(faults: &[(On, Play)]) -> bool {
    let mut plays = faults.iter().map(|(_, play)| play);
    plays.any(|play| {
        matches!(
            play,
            Play::Hang(_) | Play::Drip(_) | Play::Endless(..) | Play::HalfClose
        )
    })
}

/// The address in a URL.
pub(super) fn address(url: &str) -> SocketAddr {
    let rest = url.trim_start_matches("http://");
    rest.split('/').next().unwrap().parse().unwrap()
}

struct World<'a> {
    row: &'a Row,
    runtime: &'a Runtime,
}

impl World<'_> {
    fn start(&self, url: &str, stub: &Stub, more: &[(&str, &str)]) -> Subject {
        let timeout = match self.row.strike {
            Strike::Prefect(faults) | Strike::AtStart(faults) if waits(faults) => SHORT,
            _ => LONG,
        };
        let timeout = ("REQUEST_TIMEOUT_SECONDS", timeout);
        let settings = [&SETTINGS[..], &[timeout], more, self.row.settings].concat();
        Subject::new(AgentProcess::start(url, &settings), stub)
    }

    fn stub(&self) -> (Stub, Front) {
        let stub = self.runtime.block_on(small_stub());
        // Otherwise its workers are read once an hour.
        stub.contents().work_pools[0]["status"] = "READY".into();
        let unfinished = ["RUNNING", "PENDING", "SCHEDULED"].into_iter().enumerate();
        let unfinished = unfinished.map(|(number, state)| fleet::run_at(number + 1, state, 5));
        stub.contents().flow_runs.extend(unfinished);
        let front = self.runtime.block_on(Front::prefect(address(&stub.url)));
        (stub, front)
    }

    fn prefect(&self, faults: &'static [(On, Play)]) -> Duration {
        let (stub, front) = self.stub();
        let mut agent = self.start(&format!("http://{}/api", front.address), &stub, &[]);
        agent.is_well();
        agent.end_a_run();
        agent.is_well();
        agent.strikes_now();
        let (before, struck) = (front.requests(), Instant::now());
        front.strike(faults);
        soon("the fault", || (front.struck() > 0).then_some(()));
        agent.end_a_run();
        self.has_effect(&agent);
        agent.is_alive();
        let rate = (front.requests() - before) as f64 / struck.elapsed().as_secs_f64();
        assert!(rate < 100.0, "{rate} requests per second");
        if let Effect::Silenced(_) = self.row.effect {
            assert!(front.struck() <= 2, "{} requests", front.struck());
            self.has_warned(&agent);
            return agent.stop();
        }
        front.heal();
        agent.is_well();
        self.has_warned(&agent);
        front.strike(faults);
        soon("the fault", || (front.struck() > 0).then_some(()));
        agent.stop()
    }

    fn has_effect(&self, agent: &Subject) {
        match self.row.effect {
            Effect::Down(_) | Effect::Silenced(_) => agent.is_down(true),
            Effect::Refused(_) => agent.is_down(false),
            Effect::Sections(sections, _) => agent.lacks(sections),
            Effect::Runs(_) => {
                agent.lacks(&[
                    "active_runs",
                    "failed_runs",
                    "finished_runs",
                    "scheduled_runs",
                ]);
            }
            Effect::Skipped(_) => agent.wait("a skipped object", |page| {
                (sum(page, "prefect_agent_objects_skipped_total") > 0.0).then_some(())
            }),
            _ => agent.is_well(),
        }
    }

    fn has_warned(&self, agent: &Subject) {
        match self.row.effect {
            Effect::Sections(sections, says) => agent.has_warned(sections.len(), says),
            // Failed runs are found among finished ones.
            Effect::Runs(says) => agent.has_warned(3, says),
            Effect::Down(says)
            | Effect::Refused(says)
            | Effect::Silenced(says)
            | Effect::Skipped(says)
            | Effect::Unpushed(says)
            | Effect::Muted(says)
            | Effect::Rejected(says)
            | Effect::Unsaved(says)
            | Effect::Warning(says) => agent.has_warned(1, says),
            Effect::Nothing
            | Effect::Unread(_)
            | Effect::Exits(..)
            | Effect::Ends
            | Effect::EndsUnpushed
            | Effect::EndsAtOnce
            | Effect::Dies => {
                agent.has_warned(0, "");
            }
        }
    }

    fn at_start(&self, faults: &'static [(On, Play)]) -> Duration {
        let (stub, front) = self.stub();
        front.strike_at_once(faults);
        soon("the port", || match faults {
            // The port must be closed before the agent tries it.
            [(_, Play::Refuse)] => (front.struck() > 0).then_some(()),
            _ => Some(()),
        });
        let mut agent = self.start(&format!("http://{}/api", front.address), &stub, &[]);
        agent.is_alive();
        agent.is_down_from_the_start();
        agent.is_alive();
        front.heal();
        agent.is_well();
        self.has_warned(&agent);
        // What ends from now on is counted.
        agent.end_a_run();
        agent.is_well();
        front.strike(faults);
        soon("the fault", || (front.struck() > 0).then_some(()));
        agent.stop()
    }

    fn contents(&self, change: fn(&mut Contents)) -> Duration {
        let (stub, front) = self.stub();
        let mut agent = self.start(&format!("http://{}/api", front.address), &stub, &[]);
        agent.is_well();
        agent.strikes_now();
        change(&mut stub.contents());
        agent.end_a_run();
        self.has_effect(&agent);
        agent.is_alive();
        agent.is_well();
        self.has_warned(&agent);
        agent.stop()
    }

    fn collector(
        &self,
        receiver: &Receiver,
        endpoint: &str,
        more: &[(&str, &str)],
        fault: &dyn Fault,
    ) -> Duration {
        let (stub, _front) = self.stub();
        let mut settings = vec![
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ];
        settings.extend(more);
        let mut agent = self.start(&stub.url, &stub, &settings);
        let pushed = |agent: &Subject| {
            let found = RefCell::new(Vec::new());
            let complete = catch_unwind(AssertUnwindSafe(|| {
                soon("a push with every count", || {
                    for push in receiver.take_pushes() {
                        let page = translated(&push);
                        // A push may have several messages.
                        if !page.family(FINISHED).is_empty() {
                            found.borrow_mut().push(sum(&page, FINISHED));
                        }
                    }
                    let last = found.borrow().last().copied();
                    (last >= Some(agent.ended())).then_some(())
                });
            }));
            let found = found.into_inner();
            assert!(
                complete.is_ok() && found.last() == Some(&agent.ended()),
                "the last push must have {} runs: {found:?}\n{}",
                agent.ended(),
                agent.process.log().join("\n")
            );
        };
        agent.is_well();
        agent.end_a_run();
        agent.is_well();
        pushed(&agent);
        agent.strikes_now();
        fault.strike();
        soon("the fault", || fault.has_struck().then_some(()));
        agent.end_a_run();
        let count = |page: &crate::support::page::Page, outcome: &str| {
            page.value(
                "prefect_agent_exports_total",
                &[("exporter", "otlp"), ("outcome", outcome)],
            )
            .unwrap_or_default()
        };
        let outcome = match self.row.effect {
            Effect::Unpushed(_) | Effect::Muted(_) => "failure",
            _ => "success",
        };
        let before = count(&agent.page(), outcome);
        agent.wait("pushes", |page| {
            (count(page, outcome) >= before + 2.0).then_some(())
        });
        if let Effect::Rejected(_) = self.row.effect {
            agent.wait("rejected points", |page| {
                let rejected = [("outcome", "rejected")];
                let points = page.value("prefect_agent_export_points_total", &rejected);
                (points > Some(0.0)).then_some(())
            });
        }
        // Neither cycles nor the page depend on the collector.
        agent.is_well();
        agent.is_alive();
        if let Effect::Muted(_) = self.row.effect {
            self.has_warned(&agent);
            return agent.stop();
        }
        fault.heal();
        pushed(&agent);
        agent.end_a_run();
        pushed(&agent);
        self.has_warned(&agent);
        fault.strike();
        soon("the fault", || fault.has_struck().then_some(()));
        agent.stop()
    }

    fn over_http(&self, faults: &'static [(On, Play)]) -> Duration {
        let (receiver, endpoint) = self.runtime.block_on(over_http());
        let front = self.runtime.block_on(Front::http(address(&endpoint)));
        let endpoint = format!("http://{}", front.address);
        self.collector(&receiver, &endpoint, &[], &(front, faults))
    }

    fn over_grpc(&self, faults: &'static [(On, Play)]) -> Duration {
        let _inside = self.runtime.enter();
        let (receiver, endpoint) = over_grpc();
        let front = self.runtime.block_on(Front::tcp(address(&endpoint)));
        let endpoint = format!("http://{}", front.address);
        self.collector(&receiver, &endpoint, &[GRPC], &(front, faults))
    }

    fn grpc_answer(&self, answer: fn() -> Answer) -> Duration {
        let _inside = self.runtime.enter();
        let (receiver, endpoint) = over_grpc();
        let fault = (receiver.clone(), answer);
        self.collector(&receiver, &endpoint, &[GRPC], &fault)
    }

    fn port(&self, attack: Attack) -> Duration {
        let (stub, front) = self.stub();
        let mut agent = self.start(&format!("http://{}/api", front.address), &stub, &[]);
        agent.is_well();
        agent.strikes_now();
        let mut held = self.runtime.block_on(attack.begin(agent.address));
        agent.end_a_run();
        agent.is_alive();
        // Cycles continue, and the page is served.
        agent.is_well();
        agent.is_alive();
        self.runtime.block_on(held.end());
        agent.is_well();
        self.has_warned(&agent);
        let held = self.runtime.block_on(attack.begin(agent.address));
        let exit = agent.stop();
        drop(held);
        exit
    }
}

const GRPC: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");

/// A fault of a collector.
trait Fault {
    fn strike(&self);
    fn has_struck(&self) -> bool;
    fn heal(&self);
}

impl Fault for (Front, &'static [(On, Play)]) {
    fn strike(&self) {
        self.0.strike(self.1);
    }

    fn has_struck(&self) -> bool {
        self.0.struck() > 0
    }

    fn heal(&self) {
        self.0.heal();
    }
}

impl Fault for (Receiver, fn() -> Answer) {
    fn strike(&self) {
        self.0.always(Some(self.1));
    }

    fn has_struck(&self) -> bool {
        self.0.answered() > 0
    }

    fn heal(&self) {
        self.0.always(None);
    }
}
