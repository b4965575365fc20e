//! What benchmarks of whole processes have in common: what a process costs, and where tables go.

use std::path::Path;
use std::time::Duration;

use crate::support::process::{AgentProcess, wait_for};

/// The cycles, of 10 s each, until a run that ended is no longer read again: the agent does so for two
/// minutes.
pub(crate) const OVERLAP: u32 = 13;

/// CPU time of a process: user and system, with a resolution of 10 ms.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = [11, 12].map(|index: usize| fields[index].parse::<u64>().unwrap());
    // USER_HZ is 100 on every Linux.
    Duration::from_millis((ticks[0] + ticks[1]) * 10)
}

/// Resident memory of a process in bytes.
pub(crate) fn memory(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kibibytes.parse::<f64>().unwrap() * 1024.0
}

pub(crate) fn milliseconds(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

pub(crate) fn mebibytes(bytes: f64) -> String {
    let mebibytes = bytes / f64::from(1 << 20);
    let digits = usize::from(mebibytes < 10.0);
    format!("{mebibytes:.digits$} MiB")
}

/// A table in Markdown: its head, and the cells of each row.
pub(crate) fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(head);
    text += &format!("|---|{}\n", "---:|".repeat(head.len() - 1));
    text + &rows.iter().map(|row| line(row)).collect::<String>()
}

/// Prints a table. With `UPDATE_DOCS=1`, it also replaces the one between the marks
/// `<!-- name -->` and `<!-- end of name -->` in these files.
pub(crate) fn publish(name: &str, table: &str, files: &[&str]) {
    println!("{table}");
    if std::env::var_os("UPDATE_DOCS").is_none() {
        return;
    }
    for file in files {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let (begin, end) = (
            format!("<!-- {name} -->\n"),
            format!("<!-- end of {name} -->"),
        );
        let (before, rest) = text.split_once(&begin).unwrap();
        let (_, after) = rest.split_once(&end).unwrap();
        let new = format!("{before}{begin}\n{table}\n{end}{after}");
        std::fs::write(path, new).unwrap();
    }
}

/// Waits until the agent has completed `count` cycles, according to its log, since scraping
/// `/metrics` would add to the cost.
pub(crate) fn wait_for_cycles(agent: &AgentProcess, count: u32) {
    let done =
        || (agent.process.lines_with("cycle outcome=\"success\"") >= count as usize).then_some(());
    wait_for("cycles", done);
    // The publication follows immediately.
    std::thread::sleep(Duration::from_secs(1));
}
