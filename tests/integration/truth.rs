//! Counters are correct despite wrong clocks, proxies, replicas, restarts and manual changes.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use jiff::{SignedDuration, Timestamp};
use prefect_otel_agent::agent::Agent;
use serde_json::{Value, json};

use crate::support::otlp::{Receiver, translated};
use crate::support::page::Page;
use crate::support::process::{AgentProcess, Process, agent_command, wait_for};
use crate::support::stub::{Request, Stub, garbage, http_date, recorded};
use crate::support::{agent, current, cycle, fleet, small_stub};

const FINISHED: &str = "prefect_flow_runs_finished_total";
const TASKS: &str = "prefect_task_runs_finished_total";
const LAST_RUN_TIME: &str = "prefect_deployment_last_run_time_seconds";
const LAST_RUN_DURATION: &str = "prefect_deployment_last_run_duration_seconds";

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// The sum of a family, including the overflow series.
fn sum(page: &Page, family: &str) -> f64 {
    page.family(family).values().sum()
}

/// The number of flow runs that are counted after `cycles` cycles.
async fn counted_after(agent: &mut Agent, cycles: usize) -> f64 {
    for _ in 0..cycles {
        // Scrape each state.
        cycle(agent).await;
    }
    sum(&current(agent), FINISHED)
}

/// Advances the server's time. Its clock starts hours behind in these tests, so that it never gets
/// ahead of the wall clock.
fn pass(stub: &Stub, time: SignedDuration) {
    stub.contents().clock_behind -= time;
}

/// Adds a run that ended, or started if it has not ended, `seconds_ago` by the server's clock.
fn run(stub: &Stub, number: usize, state: &str, seconds_ago: i64) -> Value {
    let behind = stub.contents().clock_behind.as_secs();
    fleet::run_at(number, state, behind + seconds_ago)
}

/// Ends these runs.
fn end(stub: &Stub, numbers: Range<usize>) {
    for number in numbers {
        let run = run(stub, number, "COMPLETED", 0);
        stub.contents().flow_runs.push(run);
    }
}

/// Adds a run with these states, each with its age in seconds by the server's clock.
fn history(stub: &Stub, number: usize, states: &[(&str, i64)]) {
    let behind = stub.contents().clock_behind.as_secs();
    let state = |(index, (kind, seconds_ago)): (usize, &(&str, i64))| {
        let time = Timestamp::now() - SignedDuration::from_secs(behind + seconds_ago);
        let mut state = recorded("flow_run_states")[0].clone();
        state["id"] = json!(format!("{number}-{index}"));
        state["type"] = json!(kind);
        state["name"] = json!(kind);
        state["timestamp"] = json!(time.to_string());
        state
    };
    let history: Vec<_> = states.iter().enumerate().map(state).collect();
    let (kind, seconds_ago) = states[states.len() - 1];
    let mut run = run(stub, number, kind, seconds_ago);
    let starts = states.iter().filter(|(kind, _)| *kind == "RUNNING").count();
    run["run_count"] = json!(starts);
    run["state_id"] = history[history.len() - 1]["id"].clone();
    let mut contents = stub.contents();
    contents.states.insert(fleet::id(5, number), history);
    contents.flow_runs.retain(|other| other["id"] != run["id"]);
    contents.flow_runs.push(run);
}

/// The text of everything in a folder.
fn text_of(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).unwrap();
    files
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_error_page_with_a_wrong_date_counts_nothing_twice() {
    // In place of any answer of a cycle, which are requested one after the other.
    for number in 0..8 {
        let stub = small_stub().await;
        let settings = [("MAX_CONCURRENT_REQUESTS", "1")];
        let mut agent = agent(&stub.url, &settings).await;
        cycle(&mut agent).await;
        end(&stub, 0..20);
        assert_eq!(counted_after(&mut agent, 1).await, 20.0);
        let mut answers = 0..;
        stub.fault(move |_| {
            // The error page of a load balancer with a different clock.
            let date = http_date(Timestamp::now() + MINUTE * 10);
            let page = (StatusCode::BAD_GATEWAY, [("date", date)], "<html>");
            (answers.next() == Some(number)).then(|| page.into_response())
        });
        assert_eq!(counted_after(&mut agent, 4).await, 20.0, "answer {number}");
        end(&stub, 20..25);
        assert_eq!(counted_after(&mut agent, 2).await, 25.0, "answer {number}");
    }
}

/// Two servers whose clocks are ten minutes apart answer in turn.
async fn two_servers_count_each_run_once(first_is_ahead: bool) {
    let stub = small_stub().await;
    let mut ahead = !first_is_ahead;
    stub.contents().clock = Some(Box::new(move |_| {
        ahead = !ahead;
        if ahead {
            MINUTE * 10
        } else {
            SignedDuration::ZERO
        }
    }));
    let mut agent = agent(&stub.url, &[]).await;
    cycle(&mut agent).await;
    end(&stub, 0..20);
    assert_eq!(counted_after(&mut agent, 12).await, 20.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_whose_clocks_are_ten_minutes_apart_count_each_run_once() {
    two_servers_count_each_run_once(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_that_is_ahead_may_answer_first() {
    two_servers_count_each_run_once(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_date_of_a_cached_answer_is_ignored() {
    let stub = small_stub().await;
    for number in 0..20 {
        let run = fleet::run_at(number, "COMPLETED", 600);
        stub.contents().flow_runs.push(run);
    }
    stub.fault(|request| {
        let version = request.path == "/admin/version";
        let date = http_date(Timestamp::now() - HOUR);
        let headers = [("date", date), ("age", "3600".to_owned())];
        version.then(|| (headers, axum::Json("3.8.8")).into_response())
    });
    let mut agent = agent(&stub.url, &[]).await;
    // They ended before the start.
    assert_eq!(counted_after(&mut agent, 3).await, 0.0);
    end(&stub, 20..25);
    assert_eq!(counted_after(&mut agent, 3).await, 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_clock_that_is_set_back_by_an_hour_counts_each_run_once() {
    let stub = small_stub().await;
    stub.contents().clock_behind = HOUR * 3;
    let mut agent = agent(&stub.url, &[]).await;
    cycle(&mut agent).await;
    pass(&stub, HOUR * 2);
    counted_after(&mut agent, 3).await;
    end(&stub, 0..20);
    assert_eq!(counted_after(&mut agent, 2).await, 20.0);
    for _ in 0..20 {
        pass(&stub, MINUTE);
        counted_after(&mut agent, 1).await;
    }
    pass(&stub, -HOUR);
    assert_eq!(counted_after(&mut agent, 3).await, 20.0);
    end(&stub, 20..30);
    assert_eq!(counted_after(&mut agent, 3).await, 30.0);
    // The clock reaches the previous time, and passes it.
    for _ in 0..9 {
        pass(&stub, MINUTE * 10);
        assert_eq!(counted_after(&mut agent, 1).await, 30.0);
    }
    end(&stub, 30..35);
    assert_eq!(counted_after(&mut agent, 3).await, 35.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_clock_that_is_set_back_beyond_the_agents_start_loses_nothing() {
    let stub = small_stub().await;
    let mut agent = agent(&stub.url, &[]).await;
    cycle(&mut agent).await;
    end(&stub, 0..20);
    assert_eq!(counted_after(&mut agent, 2).await, 20.0);
    pass(&stub, -HOUR);
    assert_eq!(counted_after(&mut agent, 3).await, 20.0);
    end(&stub, 20..30);
    assert_eq!(counted_after(&mut agent, 3).await, 30.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_answer_that_is_an_hour_ahead_does_not_move_the_start() {
    let stub = small_stub().await;
    let mut answered = false;
    stub.contents().clock = Some(Box::new(move |_| {
        let is_first = !std::mem::replace(&mut answered, true);
        if is_first { HOUR } else { SignedDuration::ZERO }
    }));
    let mut agent = agent(&stub.url, &[]).await;
    cycle(&mut agent).await;
    end(&stub, 0..20);
    assert_eq!(counted_after(&mut agent, 3).await, 20.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_shows_a_finished_run_as_running_for_minutes_brings_it_back_once() {
    let stub = small_stub().await;
    stub.contents().clock_behind = HOUR;
    let mut agent = agent(&stub.url, &[]).await;
    cycle(&mut agent).await;
    end(&stub, 0..20);
    assert_eq!(counted_after(&mut agent, 2).await, 20.0);
    let finished = stub.contents().flow_runs.clone();
    let running: Vec<_> = (0..20)
        .map(|number| run(&stub, number, "RUNNING", 60))
        .collect();
    for _ in 0..30 {
        // Every other answer comes from the lagging replica.
        stub.contents().flow_runs = running.clone();
        pass(&stub, SignedDuration::from_secs(20));
        assert_eq!(counted_after(&mut agent, 1).await, 20.0);
    }
    stub.contents().flow_runs = finished;
    assert_eq!(counted_after(&mut agent, 3).await, 20.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_are_retried_manually_while_finished_runs_are_paged_hide_no_others() {
    let stub = small_stub().await;
    stub.contents().clock_behind = HOUR * 2;
    let mut agent = agent(&stub.url, &[]).await;
    cycle(&mut agent).await;
    pass(&stub, HOUR);
    for number in 0..450 {
        // The run with the highest number ended last.
        let ago = 3_000 - 5 * number as i64;
        history(&stub, number, &[("RUNNING", ago + 5), ("FAILED", ago)]);
    }
    // Retried after the first page of finished runs was read, so the next one moves up.
    let first_page = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&first_page);
    stub.fault(move |request| {
        let body = &request.body;
        let is_first = body["sort"] == "END_TIME_DESC" && body["offset"] == 0;
        let is_page = request.path == "/flow_runs/filter";
        if is_page && is_first && body["flow_runs"]["end_time"]["after_"].is_string() {
            asked.store(true, Ordering::Relaxed);
        }
        None
    });
    let again: Vec<_> = {
        let retried = |number: usize| {
            let mut run = run(&stub, number, "RUNNING", 0);
            run["run_count"] = json!(2);
            run
        };
        (400..450).map(retried).collect()
    };
    let mut pending = Some(again);
    stub.contents().after_page = Some(Box::new(move |runs| {
        if first_page.load(Ordering::Relaxed)
            && let Some(again) = pending.take()
        {
            runs.truncate(400);
            runs.extend(again);
        }
    }));
    for number in 400..450 {
        // Its states after it was retried.
        let id = fleet::id(5, number);
        let mut contents = stub.contents();
        let states = contents.states.get_mut(&id).unwrap();
        for kind in ["SCHEDULED", "RUNNING"] {
            let mut state = states[0].clone();
            state["id"] = json!(format!("{number}-{kind}"));
            state["type"] = json!(kind);
            state["timestamp"] = json!((Timestamp::now() - HOUR).to_string());
            states.push(state);
        }
    }
    assert_eq!(counted_after(&mut agent, 6).await, 450.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_too_slow_for_one_cycle_is_read_over_several_cycles() {
    let stub = small_stub().await;
    stub.contents().clock_behind = HOUR;
    let settings = [
        ("SAMPLE_INTERVAL_SECONDS", "1"),
        ("REQUEST_TIMEOUT_SECONDS", "1"),
        ("PAGINATION_LIMIT", "20"),
        ("MAX_CONCURRENT_REQUESTS", "3"),
    ];
    let mut agent = agent(&stub.url, &settings).await;
    counted_after(&mut agent, 2).await;
    end(&stub, 0..900);
    // Two seconds per cycle are enough for 24 pages in total.
    stub.contents().delay = Duration::from_millis(250);
    let mut counted = Vec::new();
    for _ in 0..30 {
        counted.push(counted_after(&mut agent, 1).await);
        if counted.last() >= Some(&900.0) {
            break;
        }
    }
    assert_eq!(counted.last(), Some(&900.0), "{counted:?}");
    assert!(
        counted.len() > 1,
        "it took more than one cycle: {counted:?}"
    );
}

/// Refuses the states of a run with `status` once.
async fn refused_states_are_asked_for_again(status: StatusCode) {
    let stub = small_stub().await;
    let settings = [("SAMPLE_INTERVAL_SECONDS", "1")];
    let mut agent = agent(&stub.url, &settings).await;
    cycle(&mut agent).await;
    let states = [
        ("RUNNING", 0),
        ("FAILED", 0),
        ("RUNNING", 0),
        ("COMPLETED", 0),
    ];
    history(&stub, 1, &states);
    let mut refused = false;
    stub.fault(move |request| {
        let states = request.path == "/flow_run_states/";
        let refuse = states && !std::mem::replace(&mut refused, true);
        refuse.then(|| garbage(status, ""))
    });
    assert!(counted_after(&mut agent, 1).await >= 1.0);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(counted_after(&mut agent, 3).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn states_that_are_forbidden_once_are_asked_for_again() {
    refused_states_are_asked_for_again(StatusCode::FORBIDDEN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn states_that_are_not_found_once_are_asked_for_again() {
    refused_states_are_asked_for_again(StatusCode::NOT_FOUND).await;
}

/// A run has passed through `states` since the last cycle, two of which are terminal.
async fn two_terminal_states_count(states: &[(&str, i64)]) {
    let stub = small_stub().await;
    stub.contents().clock_behind = HOUR * 2;
    let mut agent = agent(&stub.url, &[]).await;
    cycle(&mut agent).await;
    pass(&stub, HOUR);
    counted_after(&mut agent, 8).await;
    history(&stub, 1, states);
    // A state after the current one is treated as newer for one cycle.
    assert_eq!(counted_after(&mut agent, 5).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_state_that_a_slow_clock_puts_after_the_current_one_is_counted() {
    // The last two states come from a worker whose clock is a minute slow.
    let states = [
        ("RUNNING", 30),
        ("FAILED", 20),
        ("RUNNING", 90),
        ("COMPLETED", 80),
    ];
    two_terminal_states_count(&states).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_state_that_a_slow_clock_puts_before_the_cursor_is_counted() {
    // The first two states come from a worker whose clock is five minutes slow.
    let states = [
        ("RUNNING", 330),
        ("FAILED", 300),
        ("RUNNING", 10),
        ("COMPLETED", 5),
    ];
    two_terminal_states_count(&states).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deployments_that_cannot_be_read_after_a_restart_keep_their_last_runs() {
    let (stub, folder) = (small_stub().await, tempfile::tempdir().unwrap());
    let settings = [("STATE_DIR", folder.path().to_str().unwrap())];
    stub.contents().clock_behind = HOUR * 2;
    {
        let mut agent = agent(&stub.url, &settings).await;
        cycle(&mut agent).await;
        end(&stub, 0..1);
        let page = cycle(&mut agent).await;
        assert_eq!(page.family(LAST_RUN_TIME).len(), 1);
        // An hour later the server has deleted it.
        stub.contents().flow_runs.clear();
        pass(&stub, HOUR);
        counted_after(&mut agent, 8).await;
    }
    {
        let mut agent = agent(&stub.url, &settings).await;
        let mut failed = false;
        stub.fault(move |request| {
            let fail =
                request.path == "/deployments/filter" && !std::mem::replace(&mut failed, true);
            fail.then(|| garbage(StatusCode::INTERNAL_SERVER_ERROR, "boom"))
        });
        cycle(&mut agent).await;
        let page = cycle(&mut agent).await;
        assert_eq!(page.family(LAST_RUN_TIME).len(), 1, "once they are read");
    }
    let mut agent = agent(&stub.url, &settings).await;
    let page = cycle(&mut agent).await;
    assert_eq!(page.family(LAST_RUN_TIME).len(), 1, "after another restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_days_ago_is_not_the_last_run() {
    let stub = small_stub().await;
    let failed = fleet::run_at(1, "FAILED", 3 * 86_400);
    let succeeded = fleet::run_at(2, "COMPLETED", 86_400);
    stub.contents().flow_runs.extend([failed, succeeded]);
    let settings = [
        ("OFFSET_MINUTES", "3"),
        ("FAILED_RUNS_OFFSET_MINUTES", "10080"),
    ];
    let mut agent = agent(&stub.url, &settings).await;
    cycle(&mut agent).await;
    let page = cycle(&mut agent).await;
    assert!(page.family(LAST_RUN_DURATION).is_empty());
    end(&stub, 3..4);
    let page = cycle(&mut agent).await;
    assert_eq!(page.family(LAST_RUN_DURATION).len(), 1);
}

fn end_tasks(stub: &Stub, numbers: Range<usize>) {
    for number in numbers {
        let mut task = recorded("task_run");
        let end = Timestamp::now() - stub.contents().clock_behind;
        task["id"] = json!(fleet::id(6, number));
        task["state_id"] = json!(fleet::id(7, number));
        task["start_time"] = json!((end - SignedDuration::from_secs(1)).to_string());
        task["end_time"] = json!(end.to_string());
        stub.contents().task_runs.push(task);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn task_runs_that_are_no_longer_counted_are_dropped_from_the_checkpoint() {
    let (stub, folder) = (small_stub().await, tempfile::tempdir().unwrap());
    let state_dir = ("STATE_DIR", folder.path().to_str().unwrap());
    stub.contents().clock_behind = HOUR * 4;
    {
        let settings = [state_dir, ("TASK_RUNS_ENABLED", "True")];
        let mut agent = agent(&stub.url, &settings).await;
        cycle(&mut agent).await;
        end_tasks(&stub, 0..10);
        counted_after(&mut agent, 2).await;
        assert_eq!(sum(&current(&agent), TASKS), 10.0);
        assert!(text_of(folder.path()).contains(&fleet::id(6, 9)));
    }
    let mut agent = agent(&stub.url, &[state_dir]).await;
    cycle(&mut agent).await;
    // Hours later, not right away.
    for hour in 0..3 {
        pass(&stub, HOUR);
        counted_after(&mut agent, 8).await;
        stub.contents().flow_runs.clear();
        end(&stub, hour * 10..hour * 10 + 10);
        assert_eq!(counted_after(&mut agent, 2).await, (hour * 10 + 10) as f64);
    }
    let text = text_of(folder.path());
    assert!(!text.contains(&fleet::id(6, 9)), "a task run is remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_in_overflow_survive_a_restart() {
    let (stub, folder) = (small_stub().await, tempfile::tempdir().unwrap());
    let settings = [
        ("STATE_DIR", folder.path().to_str().unwrap()),
        ("METRICS_CARDINALITY_LIMIT", "6"),
    ];
    {
        let mut agent = agent(&stub.url, &settings).await;
        cycle(&mut agent).await;
        end(&stub, 0..20);
        for (number, run) in stub.contents().flow_runs.iter_mut().enumerate() {
            run["state_name"] = json!(format!("Custom {number}"));
        }
        assert_eq!(counted_after(&mut agent, 2).await, 20.0);
        let page = current(&agent);
        let overflow = page.value(FINISHED, &[("otel_metric_overflow", "true")]);
        assert!(overflow > Some(0.0), "{overflow:?}");
    }
    let mut agent = agent(&stub.url, &settings).await;
    assert_eq!(counted_after(&mut agent, 2).await, 20.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_wrong_url_does_not_destroy_the_checkpoint() {
    let (stub, other) = (small_stub().await, small_stub().await);
    let folder = tempfile::tempdir().unwrap();
    let settings = [("STATE_DIR", folder.path().to_str().unwrap())];
    {
        let mut agent = agent(&stub.url, &settings).await;
        cycle(&mut agent).await;
        end(&stub, 0..20);
        assert_eq!(counted_after(&mut agent, 2).await, 20.0);
    }
    {
        let mut agent = agent(&other.url, &settings).await;
        end(&other, 100..105);
        assert_eq!(counted_after(&mut agent, 2).await, 5.0);
    }
    end(&stub, 20..25);
    let mut agent = agent(&stub.url, &settings).await;
    assert_eq!(counted_after(&mut agent, 2).await, 25.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_the_same_state_is_refused() {
    let (stub, folder) = (small_stub().await, tempfile::tempdir().unwrap());
    let settings = [("STATE_DIR", folder.path().to_str().unwrap())];
    tokio::task::block_in_place(|| {
        let first = AgentProcess::start(&stub.url, &settings);
        first.wait_for_page("a cycle", |page| {
            page.value("prefect_up", &[]).filter(|up| *up == 1.0)
        });
        let mut second = Process::start(&mut agent_command(&[
            ("PREFECT_API_URL", stub.url.as_str()),
            ("METRICS_ADDR", "127.0.0.1"),
            ("METRICS_PORT", "0"),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            settings[0],
        ]));
        let status = second.wait(Duration::from_secs(30));
        assert!(!status.success(), "{status}");
        second.wait_for_line("STATE_DIR");
        // The first agent is not affected.
        assert_eq!(first.get("/readyz").0, 200);
    });
}

/// The total of a counter that starts at zero; as in Prometheus and OTLP, a decrease is a reset.
fn increase(values: &[f64]) -> f64 {
    let before = [&[0.0], values].concat();
    let pairs = before.iter().zip(values);
    pairs
        .map(|(before, now)| if now < before { *now } else { now - before })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_during_a_cycle_counts_no_task_run_twice() {
    let (stub, folder) = (small_stub().await, tempfile::tempdir().unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let receiver = Receiver::http(listener).await;
    let settings = [
        ("STATE_DIR", folder.path().to_str().unwrap()),
        ("TASK_RUNS_ENABLED", "True"),
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
    ];
    let cycles = |page: &Page, count: f64| {
        let cycles = page.value("prefect_agent_cycles_total", &[("outcome", "success")]);
        cycles.filter(|cycles| *cycles >= count)
    };
    stub.contents().clock_behind = HOUR * 4;
    tokio::task::block_in_place(|| {
        let mut first = AgentProcess::start(&stub.url, &settings);
        first.wait_for_page("a cycle", |page| cycles(page, 1.0));
        {
            // After an outage of two hours, there is much to read from a slow server.
            end_tasks(&stub, 0..10);
            let mut contents = stub.contents();
            contents.clock_behind -= HOUR * 2;
            contents.delay = Duration::from_millis(300);
        }
        wait_for("the task runs to be read", || {
            let contents = stub.contents();
            let read = |request: &Request| {
                request.path == "/task_runs/filter" && request.listed == Some(10)
            };
            contents.requests.iter().any(read).then_some(())
        });
        std::thread::sleep(Duration::from_millis(100));
        first.process.signal("-TERM");
        assert!(first.process.wait(Duration::from_secs(10)).success());
        stub.contents().delay = Duration::ZERO;
        let second = AgentProcess::start(&stub.url, &settings);
        second.wait_for_page("three cycles", |page| cycles(page, 3.0));
    });
    let pushes = receiver.pushes.lock().unwrap();
    let values: Vec<_> = pushes
        .iter()
        .filter_map(|push| translated(push).value(TASKS, &[]))
        .collect();
    assert_eq!(values.last(), Some(&10.0), "{values:?}");
    assert_eq!(increase(&values), 10.0, "{values:?}");
}
