//! Churn: the series of deleted deployments are dropped.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::support::process::AgentProcess;
use crate::support::{agent, cycle, fleet, small_stub};

const RUNS: &str = "prefect_flow_run_duration_seconds_count";

#[tokio::test(flavor = "multi_thread")]
async fn histograms_of_deleted_deployments_end_and_the_others_continue() {
    const ROUNDS: usize = 4;
    const EACH: usize = 700;
    let stub = small_stub().await;
    let settings = [
        ("SAMPLE_INTERVAL_SECONDS", "1"),
        ("INVENTORY_INTERVAL_SECONDS", "1"),
    ];
    let mut agent = agent(&stub.url, &settings).await;
    cycle(&mut agent).await;
    let stays = [("deployment_name", "deployment-0")];
    let (mut total, mut before) = (0.0, 0.0);
    for round in 0..ROUNDS {
        {
            let mut contents = stub.contents();
            contents.deployments.truncate(1);
            contents.flow_runs.clear();
            let first = 1 + round * EACH;
            // Fewer each time, so that a reset is visible as a decrease.
            let of_it = std::iter::repeat_n(0, ROUNDS - round);
            for number in of_it.chain(first..first + EACH) {
                let mut run = fleet::run(number, "COMPLETED");
                run["id"] = json!(uuid::Uuid::new_v4().to_string());
                run["deployment_id"] = json!(fleet::id(1, number));
                let now = Timestamp::now().to_string();
                run["start_time"] = json!(now);
                run["end_time"] = json!(now);
                contents.flow_runs.push(run);
                if number > 0 {
                    let mut deployment = contents.deployments[0].clone();
                    deployment["id"] = json!(fleet::id(1, number));
                    deployment["name"] = json!(format!("churned-{number}"));
                    contents.deployments.push(deployment);
                }
            }
        }
        // The inventory is due again.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let page = cycle(&mut agent).await;
        let shown = page.family(RUNS).len();
        // The existing deployments, and deleted ones up to a thousand or as many as exist.
        assert!((EACH..=2 * EACH + 1_000).contains(&shown), "{shown}");
        let count = page.value(RUNS, &stays).unwrap();
        // As in Prometheus and OTLP, a decrease is a reset.
        total += if count < before {
            count
        } else {
            count - before
        };
        before = count;
    }
    let runs: usize = (1..=ROUNDS).sum();
    assert_eq!(total, runs as f64, "every run of the one that stays");
    assert!(before < runs as f64, "there was a reset");
}

/// The resident memory of a process, in bytes.
fn resident(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kilobytes.parse::<usize>().unwrap() * 1_024
}

#[tokio::test(flavor = "multi_thread")]
async fn page_and_memory_of_a_process_are_bounded_under_churn() {
    const ROUNDS: usize = 12;
    const EACH: usize = 400;
    let stub = small_stub().await;
    // Counts of deleted deployments are kept for an hour, and failed runs for a week, so they are
    // excluded.
    let settings = [
        (
            "METRICS_INCLUDE",
            "prefect_flow_run_*,prefect_info_deployment",
        ),
        ("FAILED_RUNS_OFFSET_MINUTES", "0"),
        ("OFFSET_MINUTES", "1"),
    ];
    let (mut sizes, mut memory) = (Vec::new(), Vec::new());
    tokio::task::block_in_place(|| {
        let agent = AgentProcess::start(&stub.url, &settings);
        // Runs that end before its first cycle are not counted.
        agent.wait_for_page("the first cycle", |page| {
            (!page.family("prefect_info_deployment").is_empty()).then_some(())
        });
        for round in 0..ROUNDS {
            let numbers = 1 + round * EACH..1 + (round + 1) * EACH;
            let last = format!("deployment-{}", numbers.end - 1);
            {
                let mut contents = stub.contents();
                contents.deployments.truncate(1);
                contents.flow_runs.clear();
                for number in numbers {
                    fleet::deploy(&mut contents, number);
                    let runs = ["COMPLETED", "FAILED"].map(|state| fleet::ended(number, state));
                    contents.flow_runs.extend(runs);
                }
            }
            let having = [("deployment_name", last.as_str()), ("state_type", "FAILED")];
            // The existing deployments, and deleted ones up to a thousand. A page between two
            // checks for deleted deployments may have more.
            let most = 2 * EACH + 1_000;
            agent.wait_for_page("the new ones, and no more than allowed", |page| {
                page.value(RUNS, &having)?;
                (page.family(RUNS).len() <= most).then_some(())
            });
            sizes.push(agent.get("/metrics").1.len());
            memory.push(resident(agent.process.id()));
        }
    });
    for (what, values) in [("page", sizes), ("memory", memory)] {
        let most = |rounds: std::ops::Range<usize>| *values[rounds].iter().max().unwrap();
        let (early, late) = (most(0..ROUNDS / 3), most(ROUNDS * 2 / 3..ROUNDS));
        assert!(late < 2 * early, "{what}, round by round: {values:?}");
    }
}
