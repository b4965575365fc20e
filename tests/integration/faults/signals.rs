//! Rows: signals in every phase of the process.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::support::front::Content::Text;
use crate::support::front::{Front, On, Play};
use crate::support::points::over_http;
use crate::support::process::{AgentProcess, Process, agent_command, with_default_signals};
use crate::support::small_stub;

use super::attack::Attack;
use super::host::{Place, drain, make_fifo};
use super::row::{Effect, Row, Strike};
use super::run::{SETTINGS, address};
use super::subject::{LONGEST_EXIT, Subject, soon, sum};

/// A signal, when it comes, and what it does.
#[derive(Clone, Copy)]
pub(super) struct Signal {
    signal: &'static str,
    phase: Phase,
    then: Then,
}

/// What the process does when the signal comes.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// It has just been started.
    Start,
    /// The first cycle waits for Prefect.
    FirstCycle,
    /// It waits for the next cycle.
    Idle,
    /// A later cycle waits for Prefect.
    Cycle,
    /// A push waits for the collector.
    Push,
    /// A checkpoint is being written, and does not get done.
    Checkpoint,
    /// A client does not read its answer.
    Scrape,
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// It ends in time, and a process after it has every count.
    Ends,
    /// The same for a process that cannot do anything about it.
    Dies,
    /// It continues, after SIGCONT if it was stopped.
    Continues,
}

const SILENT: &[(On, Play)] = &[(On::All, Play::Hang(Text("")))];

impl Signal {
    pub(super) fn run(self, _: &Row, runtime: &Runtime) -> Option<Duration> {
        let stub = runtime.block_on(small_stub());
        let prefect = runtime.block_on(Front::prefect(address(&stub.url)));
        let (receiver, endpoint) = runtime.block_on(over_http());
        let collector = runtime.block_on(Front::http(address(&endpoint)));
        let url = format!("http://{}/api", prefect.address);
        let endpoint = format!("http://{}", collector.address);
        let place = Place::new(&url);
        let interval = if self.phase == Phase::Idle {
            "3600"
        } else {
            "1"
        };
        let state = place.state.to_str().unwrap();
        let settings = [
            &SETTINGS[..],
            &[
                ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
                ("SAMPLE_INTERVAL_SECONDS", interval),
                ("INVENTORY_INTERVAL_SECONDS", "1"),
                ("REQUEST_TIMEOUT_SECONDS", "5"),
                ("STATE_DIR", state),
            ][..],
        ]
        .concat();
        if self.phase == Phase::Start {
            return Some(self.at_once(&url, &settings));
        }
        if self.phase == Phase::FirstCycle {
            prefect.strike_at_once(SILENT);
        }
        let agent = AgentProcess::start_as(&url, &settings, with_default_signals);
        let mut agent = Subject::new(agent, &stub);
        let fifo = place.new_checkpoint();
        match self.phase {
            Phase::Start | Phase::FirstCycle => {}
            Phase::Idle => agent.wait("a cycle", |page| {
                (page.value("prefect_up", &[]) == Some(1.0)).then_some(())
            }),
            _ => {
                agent.is_well();
                agent.end_a_run();
                agent.is_well();
            }
        }
        let mut held = None;
        match self.phase {
            Phase::Cycle => prefect.strike(SILENT),
            Phase::Push => collector.strike(SILENT),
            Phase::Checkpoint => {
                make_fifo(&fifo);
                agent.end_a_run();
                agent.process.wait_for_line("cannot write the checkpoint");
            }
            Phase::Scrape => {
                let pages = Text("GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n");
                held = Some(runtime.block_on(Attack::Deaf(3, pages).begin(agent.address)));
            }
            _ => {}
        }
        match self.phase {
            Phase::FirstCycle | Phase::Cycle => {
                soon("a silent request", || (prefect.struck() > 0).then_some(()));
            }
            Phase::Push => soon("a silent push", || (collector.struck() > 0).then_some(())),
            _ => {}
        }
        let pushes_last =
            self.then == Then::Ends && !matches!(self.phase, Phase::FirstCycle | Phase::Push);
        if pushes_last {
            soon("a push", || receiver.last());
            receiver.take_pushes();
        }
        let asked = Instant::now();
        agent.process.signal(self.signal);
        if self.then == Then::Continues {
            if self.signal == "-STOP" {
                let stat = format!("/proc/{}/stat", agent.process.id());
                soon("the process to stop", || {
                    fs::read_to_string(&stat)
                        .unwrap()
                        .contains(") T ")
                        .then_some(())
                });
                agent.process.signal("-CONT");
            }
            prefect.heal();
            collector.heal();
            if self.phase == Phase::Checkpoint {
                drain(&fifo);
            }
            if self.phase != Phase::Idle {
                agent.end_a_run();
                agent.is_well();
            }
            agent.is_alive();
            return Some(agent.stop());
        }
        let status = agent.process.wait(Duration::from_secs(60));
        let took = asked.elapsed();
        assert!(
            took <= LONGEST_EXIT,
            "{} to exit took {took:?}",
            self.signal
        );
        assert!(
            self.then == Then::Dies || status.success(),
            "{status}: {:#?}",
            agent.process.log()
        );
        assert!(!pushes_last || receiver.last().is_some(), "no last push");
        drop(held);
        prefect.heal();
        collector.heal();
        if self.phase == Phase::Checkpoint {
            drain(&fifo);
        }
        // The next process has every run that has ended, and those of the meantime. Without a
        // checkpoint, which is written with the first run, it counts from its own start on.
        let is_saved = place.checkpoint.exists();
        assert!(is_saved || agent.ended() == 0.0, "no checkpoint");
        if is_saved {
            agent.end_a_run();
        }
        let next = AgentProcess::start(
            &url,
            &[&settings[..], &[("SAMPLE_INTERVAL_SECONDS", "1")]].concat(),
        );
        if !is_saved {
            soon("a cycle", || {
                next.page().value("prefect_up", &[]).filter(|up| *up == 1.0)
            });
            agent.end_a_run();
        }
        let ended = agent.ended();
        soon("every count", || {
            let page = next.page();
            let counted = sum(&page, "prefect_flow_runs_finished_total");
            assert!(counted <= ended, "counted {counted} of {ended}");
            (counted == ended).then_some(())
        });
        Some(took)
    }

    /// Sends the signal to a process that has just been started.
    fn at_once(self, url: &str, settings: &[(&str, &str)]) -> Duration {
        let more = [
            ("PREFECT_API_URL", url),
            ("METRICS_ADDR", "127.0.0.1"),
            ("METRICS_PORT", "0"),
        ];
        let process = agent_command(&[settings, &more].concat());
        let program = process.get_program().to_owned();
        let mut process = Process::start(&mut with_default_signals(process));
        // Until then, it is the program that sets the signals.
        let running = format!("/proc/{}/exe", process.id());
        soon("the agent", || {
            let running = fs::read_link(&running).ok()?;
            (running == Path::new(&program)).then_some(())
        });
        let asked = Instant::now();
        process.signal(self.signal);
        process.wait(Duration::from_secs(60));
        let took = asked.elapsed();
        assert!(
            took <= LONGEST_EXIT,
            "{} to exit took {took:?}",
            self.signal
        );
        took
    }
}

const GO: Effect = Effect::Nothing;

macro_rules! signal {
    ($name:literal, $when:literal, $text:literal, $fault:literal, $signal:literal, $phase:ident, $then:ident, $effect:expr) => {
        Row::new(
            concat!($name, "_", $when),
            concat!($text, " ", $fault),
            Strike::Signal(Signal {
                signal: concat!("-", $signal),
                phase: Phase::$phase,
                then: Then::$then,
            }),
            $effect,
        )
    };
}

/// A signal in every phase.
#[rustfmt::skip]
macro_rules! in_every_phase {
    ($name:literal, $text:literal, $signal:literal, $then:ident, $effect:expr, $unpushed:expr) => {
        [
            signal!($name, "in_the_first_cycle", $text, "while the first cycle waits for Prefect", $signal, FirstCycle, $then, $unpushed),
            signal!($name, "between_cycles", $text, "between two cycles", $signal, Idle, $then, $effect),
            signal!($name, "in_a_cycle", $text, "while a cycle waits for Prefect", $signal, Cycle, $then, $effect),
            signal!($name, "in_a_push", $text, "while a push waits for the collector", $signal, Push, $then, $unpushed),
            signal!($name, "in_a_checkpoint", $text, "while writing the checkpoint hangs", $signal, Checkpoint, $then, $effect),
            signal!($name, "in_a_scrape", $text, "while a client does not read its answer", $signal, Scrape, $then, $effect),
        ]
    };
}

#[rustfmt::skip]
pub(super) const TERM: &[Row] = &in_every_phase!("sigterm", "`TERM`", "TERM", Ends, Effect::Ends, Effect::EndsUnpushed);
#[rustfmt::skip]
pub(super) const INT: &[Row] = &in_every_phase!("sigint", "`INT`", "INT", Ends, Effect::Ends, Effect::EndsUnpushed);
#[rustfmt::skip]
pub(super) const HUP: &[Row] = &in_every_phase!("sighup", "`HUP`", "HUP", Ends, Effect::Ends, Effect::EndsUnpushed);
#[rustfmt::skip]
pub(super) const KILL: &[Row] = &in_every_phase!("sigkill", "`KILL`", "KILL", Dies, Effect::Dies, Effect::Dies);
#[rustfmt::skip]
pub(super) const STOP: &[Row] = &in_every_phase!("sigstop_and_sigcont", "`STOP`, then `CONT`,", "STOP", Continues, GO, GO);

#[rustfmt::skip]
pub(super) const OTHERS: &[Row] = &[
    signal!("sigterm", "at_the_start", "`TERM`", "right after the start", "TERM", Start, Dies, Effect::EndsAtOnce),
    signal!("sigint", "at_the_start", "`INT`", "right after the start", "INT", Start, Dies, Effect::EndsAtOnce),
    signal!("sighup", "at_the_start", "`HUP`", "right after the start", "HUP", Start, Dies, Effect::EndsAtOnce),
    signal!("sigpipe", "between_cycles", "`PIPE`", "between two cycles", "PIPE", Idle, Continues, GO),
    signal!("sigchld", "between_cycles", "`CHLD`", "between two cycles", "CHLD", Idle, Continues, GO),
    signal!("sigwinch", "between_cycles", "`WINCH`", "between two cycles", "WINCH", Idle, Continues, GO),
    signal!("sigurg", "between_cycles", "`URG`", "between two cycles", "URG", Idle, Continues, GO),
    signal!("sigcont", "between_cycles", "`CONT`", "between two cycles", "CONT", Idle, Continues, GO),
];
