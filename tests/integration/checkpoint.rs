//! Checkpoints: what survives a restart.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use prefect_otel_agent::checkpoint::{Checkpoint, Error};

use crate::support::page::Page;
use crate::support::process::AgentProcess;
use crate::support::stub::Stub;
use crate::support::{agent, current, cycle, fleet, memory, small_stub};

fn failed(page: &Page) -> Option<f64> {
    let labels = [("state_type", "FAILED"), ("state_name", "Failed")];
    page.value("prefect_flow_runs_finished_total", &labels)
}

fn add(stub: &Stub, number: usize, state: &str, seconds_ago: i64) {
    let run = fleet::run_at(number, state, seconds_ago);
    stub.contents().flow_runs.push(run);
}

fn text(folder: &Path) -> String {
    folder.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_resume_and_runs_that_ended_meanwhile_are_counted_once() {
    let (stub, folder) = (small_stub().await, tempfile::tempdir().unwrap());
    let folder = text(folder.path());
    let settings = [("STATE_DIR", folder.as_str())];
    let mut first = agent(&stub.url, &settings).await;
    assert_eq!(failed(&cycle(&mut first).await), Some(0.0));
    add(&stub, 1, "FAILED", 0);
    assert_eq!(failed(&cycle(&mut first).await), Some(1.0));
    // It is active when the agent is killed, and its end is reported much later.
    add(&stub, 2, "RUNNING", 1_000);
    cycle(&mut first).await;
    drop(first);
    stub.contents().flow_runs[1] = fleet::run_at(2, "FAILED", 900);
    add(&stub, 3, "FAILED", 0);
    for counted in [1.0, 3.0] {
        let mut next = agent(&stub.url, &settings).await;
        let restored = failed(&current(&next));
        assert_eq!(
            restored,
            Some(counted),
            "what was counted before is shown first"
        );
        assert_eq!(failed(&cycle(&mut next).await), Some(3.0));
        assert_eq!(failed(&cycle(&mut next).await), Some(3.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_state_dir_counters_start_at_zero_and_old_runs_are_not_counted() {
    let stub = small_stub().await;
    let mut first = agent(&stub.url, &[]).await;
    cycle(&mut first).await;
    add(&stub, 1, "FAILED", 0);
    assert_eq!(failed(&cycle(&mut first).await), Some(1.0));
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let mut next = agent(&stub.url, &[]).await;
    assert_eq!(failed(&cycle(&mut next).await), Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_resume_with_either_temporality() {
    let (stub, folder) = (small_stub().await, tempfile::tempdir().unwrap());
    let folder = text(folder.path());
    let settings = [
        ("STATE_DIR", folder.as_str()),
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
    ];
    let mut first = agent(&stub.url, &settings).await;
    cycle(&mut first).await;
    add(&stub, 1, "FAILED", 0);
    assert_eq!(failed(&cycle(&mut first).await), Some(1.0));
    drop(first);
    add(&stub, 2, "FAILED", 0);
    let mut next = agent(&stub.url, &settings).await;
    cycle(&mut next).await;
    assert_eq!(failed(&cycle(&mut next).await), Some(2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn catching_up_has_a_bound() {
    let (stub, folder) = (small_stub().await, tempfile::tempdir().unwrap());
    let folder_text = text(folder.path());
    let mut checkpoint = Checkpoint::new(folder.path(), &stub.url);
    let hours_ago = |hours: i64| Timestamp::now() - SignedDuration::from_hours(hours);
    let memory = memory(hours_ago(48), Some(hours_ago(6)));
    checkpoint.write(memory).unwrap();
    drop(checkpoint);
    for (number, hours) in [(1, 5), (2, 3), (3, 1)] {
        add(&stub, number, "FAILED", hours * 3_600 + 60);
    }
    let settings = [("STATE_DIR", folder_text.as_str()), ("CATCH_UP_HOURS", "4")];
    let mut agent = agent(&stub.url, &settings).await;
    cycle(&mut agent).await;
    // The series appeared in the first cycle, where it was exported at zero.
    assert_eq!(failed(&cycle(&mut agent).await), Some(2.0));
}

#[test]
fn a_truncated_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoint = Checkpoint::new(folder.path(), "http://here/api");
    assert!(matches!(checkpoint.read(), Ok(None)));
    let now = Timestamp::now();
    checkpoint.write(memory(now, Some(now))).unwrap();
    let good = std::fs::read(checkpoint.path()).unwrap();
    assert!(matches!(checkpoint.read(), Ok(Some(_))));
    for length in 0..good.len() {
        std::fs::write(checkpoint.path(), &good[..length]).unwrap();
        assert!(matches!(checkpoint.read(), Err(Error::Damaged(..))));
    }
    let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    std::fs::write(checkpoint.path(), &bytes).unwrap();
    assert!(matches!(checkpoint.read(), Err(Error::Damaged(..))));
}

#[test]
fn a_checkpoint_whose_lock_file_is_deleted_has_one_writer() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Checkpoint::new(folder.path(), "http://here/api");
    let saved = || memory(Timestamp::now(), None);
    let mut first = open();
    first.write(saved()).unwrap();
    let lock = first.path().with_extension("lock");
    std::fs::remove_file(&lock).unwrap();
    let mut second = open();
    second.lock().unwrap();
    assert!(matches!(first.write(saved()), Err(Error::InUse(_))));
    drop(second);
    std::fs::remove_file(&lock).unwrap();
    first.write(saved()).unwrap();
    assert!(matches!(open().lock(), Err(Error::InUse(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_cannot_be_written_is_read() {
    let (stub, folder) = (small_stub().await, tempfile::tempdir().unwrap());
    let checkpoint = Checkpoint::new(folder.path(), &stub.url);
    let lock = checkpoint.path().with_extension("lock");
    let folder = text(folder.path());
    let settings = [("STATE_DIR", folder.as_str())];
    let mut first = agent(&stub.url, &settings).await;
    cycle(&mut first).await;
    add(&stub, 1, "FAILED", 0);
    assert_eq!(failed(&cycle(&mut first).await), Some(1.0));
    drop(first);
    // As in a folder that is read-only, the file cannot be created.
    std::fs::remove_file(&lock).unwrap();
    std::os::unix::fs::symlink("/nowhere/lock", &lock).unwrap();
    add(&stub, 2, "FAILED", 0);
    let mut second = agent(&stub.url, &settings).await;
    assert_eq!(failed(&current(&second)), Some(1.0));
    assert_eq!(failed(&cycle(&mut second).await), Some(2.0));
    // Its content is in use, so it is replaced once that is possible.
    std::fs::remove_file(&lock).unwrap();
    add(&stub, 3, "FAILED", 0);
    assert_eq!(failed(&cycle(&mut second).await), Some(3.0));
    drop(second);
    assert_eq!(
        failed(&current(&agent(&stub.url, &settings).await)),
        Some(3.0)
    );
}

/// Reserves the address of a stub, and returns the path of its checkpoint in `folder`.
fn reserved(folder: &Path) -> (std::net::TcpListener, std::path::PathBuf) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/api", listener.local_addr().unwrap());
    let path = Checkpoint::new(folder, &url).path().to_owned();
    (listener, path)
}

/// Runs three cycles of an agent with this directory. Returns the log lines that name the setting.
fn log_of_three_cycles(listener: std::net::TcpListener, folder: &str) -> Vec<String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(async {
        listener.set_nonblocking(true).unwrap();
        let stub = Stub::on(tokio::net::TcpListener::from_std(listener).unwrap());
        fleet::small(&mut stub.contents());
        stub
    });
    let agent = AgentProcess::start(&stub.url, &[("STATE_DIR", folder)]);
    agent.wait_for_page("three cycles", |page| {
        let cycles = page.value("prefect_agent_cycles_total", &[("outcome", "success")]);
        cycles.filter(|count| *count >= 3.0)
    });
    assert_eq!(agent.page().value("prefect_up", &[]), Some(1.0));
    let log = agent.process.log().into_iter();
    log.filter(|line| line.contains("STATE_DIR")).collect()
}

#[test]
fn a_damaged_checkpoint_is_renamed_and_a_new_one_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let (listener, path) = reserved(folder.path());
    std::fs::write(&path, "{\"version\":2,").unwrap();
    let log = log_of_three_cycles(listener, &text(folder.path()));
    assert_eq!(log.len(), 2, "{log:?}");
    assert!(
        log[0].contains("WARN") && log[0].contains("damaged"),
        "{log:?}"
    );
    assert!(
        log[1].contains("could not be read at the start was renamed"),
        "{log:?}"
    );
    let kept = std::fs::read_to_string(path.with_extension("json.damaged-0")).unwrap();
    assert_eq!(kept, "{\"version\":2,");
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written.contains("\"cursor\""), "{written}");
}

#[test]
fn a_directory_that_is_not_writable_is_a_single_warning() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (listener, _) = reserved(folder.path());
    let log = log_of_three_cycles(listener, &text(&file.join("state")));
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].contains("cannot write the checkpoint"), "{log:?}");
}

#[test]
fn a_full_disk_is_a_single_warning_and_keeps_the_previous_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (listener, path) = reserved(folder.path());
    // Writing to this device fails with a full disk.
    std::os::unix::fs::symlink("/dev/full", path.with_extension("json.new")).unwrap();
    let log = log_of_three_cycles(listener, &text(folder.path()));
    // The other line reports that there is no checkpoint yet.
    let full = log.iter().filter(|line| line.contains("No space left"));
    assert_eq!((log.len(), full.count()), (2, 1), "{log:?}");
}
