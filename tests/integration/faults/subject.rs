//! The agent of a row, and what must hold in every row.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::fleet;
use crate::support::page::Page;
use crate::support::process::{AgentProcess, Process, wait_within};
use crate::support::stub::Stub;

const UP: &str = "prefect_up";
const AGE: &str = "prefect_agent_section_age_seconds";
const CYCLES: &str = "prefect_agent_cycles_total";
pub(super) const FINISHED: &str = "prefect_flow_runs_finished_total";

/// The longest time from SIGTERM to the end of the process.
pub(super) const LONGEST_EXIT: Duration = Duration::from_secs(5);

/// Probes usually wait for a second. On a busy machine, one of a few is in time.
const PROBE: Duration = Duration::from_secs(1);
const PROBES: usize = 20;

/// How long anything that is expected within seconds may take on a busy machine. After two minutes,
/// an exporter that delivers nothing no longer holds counters back.
pub(super) const SOON: Duration = Duration::from_secs(180);

/// The memory that no fault may exceed. A debug build with one deployment takes some 60 MB, and up
/// to four answers of 64 MiB are decoded at once.
const MOST_MEMORY_KB: u64 = 800_000;

/// Waits for something that is expected within seconds.
pub(super) fn soon<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    wait_within(what, SOON, ask)
}

/// GET on a connection of its own: status and body.
pub(super) fn get(
    address: SocketAddr,
    path: &str,
    patience: Duration,
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
    )?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let text = String::from_utf8(text).map_err(std::io::Error::other)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| std::io::Error::other("no head"))?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other("no status"))?;
    Ok((status, body.to_owned()))
}

/// The sum of a family's series.
pub(super) fn sum(page: &Page, family: &str) -> f64 {
    page.family(family).values().sum()
}

fn cycles(page: &Page, outcome: &str) -> f64 {
    page.value(CYCLES, &[("outcome", outcome)])
        .unwrap_or_default()
}

/// The age of each section.
fn ages(page: &Page) -> Vec<(String, f64)> {
    let family = page.family(AGE).into_iter();
    family
        .map(|(labels, age)| (labels["section"].clone(), age))
        .collect()
}

/// An agent, its Prefect, and what it must have counted.
pub(super) struct Subject {
    pub(super) process: Process,
    pub(super) address: SocketAddr,
    stub: Stub,
    ended: usize,
    /// The number of log lines when the fault began.
    logged: usize,
}

impl Subject {
    pub(super) fn new(agent: AgentProcess, stub: &Stub) -> Self {
        let AgentProcess { process, address } = agent;
        Subject::of(process, address, stub)
    }

    pub(super) fn of(process: Process, address: SocketAddr, stub: &Stub) -> Self {
        Subject {
            process,
            address,
            stub: stub.clone(),
            ended: 0,
            logged: 0,
        }
    }

    /// The page of `/metrics`.
    pub(super) fn page(&self) -> Page {
        let started = Instant::now();
        loop {
            let answer = get(self.address, "/metrics", Duration::from_secs(30));
            if let Ok((200, text)) = &answer {
                return Page::parse(text);
            }
            assert!(
                self.process.is_running() && started.elapsed() < SOON,
                "no page: {answer:?}\n{}",
                self.process.log().join("\n"),
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until `look` finds something on the page.
    pub(super) fn wait<T>(&self, what: &str, mut look: impl FnMut(&Page) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            let last = self.page();
            if let Some(found) = look(&last) {
                return found;
            }
            assert!(
                started.elapsed() < SOON,
                "waited in vain for {what}: up {:?}, finished {}, truth {}, ages {:?}\n{}",
                last.value(UP, &[]),
                sum(&last, FINISHED),
                self.ended,
                ages(&last),
                self.process.log().join("\n"),
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A run ends, and must be counted exactly once.
    pub(super) fn end_a_run(&mut self) {
        let run = fleet::ended(0, "FAILED");
        self.stub.contents().flow_runs.push(run);
        self.ended += 1;
    }

    /// The number of runs that have ended.
    pub(super) fn ended(&self) -> f64 {
        self.ended as f64
    }

    /// From now on, lines of the log belong to the fault.
    pub(super) fn strikes_now(&mut self) {
        self.logged = self.process.log().len();
    }

    /// Everything works, and every run is counted once.
    pub(super) fn is_well(&self) {
        let before = cycles(&self.page(), "success");
        self.wait("the agent to be well", |page| {
            let up = page.value(UP, &[]) == Some(1.0);
            let cycles = cycles(page, "success") > before;
            let counted = sum(page, FINISHED);
            assert!(
                counted <= self.ended(),
                "counted {counted} of {} runs",
                self.ended
            );
            let shown = page.value("prefect_deployments_total", &[]).is_some();
            let fresh = ages(page).iter().all(|(_, age)| *age < 4.0);
            (up && cycles && counted == self.ended() && shown && fresh).then_some(())
        });
    }

    /// Prefect counts as down; nothing that was counted is lost. If it `lasts`, until no stale gauge
    /// is shown.
    pub(super) fn is_down(&self, lasts: bool) {
        let counted = self.ended() - 1.0;
        let least = if lasts { 3.0 } else { 1.0 };
        self.wait("Prefect to be down", |page| {
            let up = page.value(UP, &[]) == Some(0.0);
            let withheld = page.value("prefect_deployments_total", &[]).is_none();
            let old = page.value(AGE, &[("section", "deployments")]) > Some(least);
            (up && old && withheld >= lasts && sum(page, FINISHED) == counted).then_some(())
        });
    }

    /// The same for a fault before the first cycle.
    pub(super) fn is_down_from_the_start(&self) {
        self.wait("Prefect to be down", |page| {
            let up = page.value(UP, &[]) == Some(0.0);
            let withheld = page.value("prefect_deployments_total", &[]).is_none();
            let old = page.value(AGE, &[("section", "deployments")]) > Some(0.5);
            (up && withheld && old && sum(page, FINISHED) == 0.0).then_some(())
        });
        let (ready, _) = get(self.address, "/readyz", Duration::from_secs(60)).unwrap();
        assert_eq!(ready, 503);
    }

    /// These sections are older than all others, which are current.
    pub(super) fn lacks(&self, sections: &[&str]) {
        self.wait("sections to fail alone", |page| {
            let (old, new): (Vec<_>, Vec<_>) = ages(page)
                .into_iter()
                .partition(|(section, _)| sections.contains(&section.as_str()));
            assert_eq!(old.len(), sections.len(), "{old:?}");
            let youngest = old.iter().map(|(_, age)| *age).fold(f64::MAX, f64::min);
            let up = page.value(UP, &[]) == Some(1.0);
            let alone = new.iter().all(|(_, age)| *age < youngest);
            (up && alone && youngest > 3.0).then_some(())
        });
    }

    /// `/healthz` answers in time, and the process takes no more memory than it may.
    pub(super) fn is_alive(&self) {
        let healthy = || {
            let asked = Instant::now();
            let answer = get(self.address, "/healthz", Duration::from_secs(60));
            let (status, _) = answer.unwrap();
            assert_eq!(status, 200);
            asked.elapsed() < PROBE
        };
        assert!((0..PROBES).any(|_| healthy()), "/healthz is slow");
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(peak) = peak {
            let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
            assert!(peak < MOST_MEMORY_KB, "{peak} kB of memory");
        }
    }

    /// The warnings since the fault began.
    fn warnings(&self) -> Vec<String> {
        let mut log = self.process.log();
        log.drain(..self.logged);
        log.retain(|line| line.contains(" WARN ") || line.contains("ERROR"));
        log
    }

    /// There have been exactly this many warnings, each with `says`.
    pub(super) fn has_warned(&self, count: usize, says: &str) {
        let warnings = self.warnings();
        let fitting = warnings.iter().filter(|line| line.contains(says)).count();
        assert!(
            fitting == count && warnings.len() == count,
            "expected {count} warnings with {says:?}: {warnings:#?}"
        );
        let longest = warnings.iter().map(String::len).max().unwrap_or_default();
        assert!(longest < 2_000, "a line of {longest} bytes");
    }

    /// Among the warnings since the start, exactly one contains `says`.
    pub(super) fn has_warned_once(&self, says: &str) {
        let warnings = self.warnings();
        let fitting = warnings.iter().filter(|line| line.contains(says)).count();
        assert_eq!(
            fitting, 1,
            "expected one warning with {says:?}: {warnings:#?}"
        );
    }

    /// SIGTERM ends the process in time and with success. Returns the time that it took.
    pub(super) fn stop(mut self) -> Duration {
        let asked = Instant::now();
        self.process.signal("-TERM");
        let status = self.process.wait(Duration::from_secs(60));
        let took = asked.elapsed();
        assert!(status.success(), "{status}: {:#?}", self.process.log());
        assert!(took <= LONGEST_EXIT, "SIGTERM to exit took {took:?}");
        took
    }
}
