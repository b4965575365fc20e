//! Deployments that come and go: what is gone leaves.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::support::{agent, cycle, fleet, small_stub};

const RUNS: &str = "prefect_flow_run_duration_seconds_count";

#[tokio::test(flavor = "multi_thread")]
async fn histograms_of_deleted_deployments_leave_and_the_others_go_on() {
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
            // Fewer each time, so that a reset shows as a drop.
            let of_it = std::iter::repeat_n(0, ROUNDS - round);
            for number in of_it.chain(first..first + EACH) {
                let mut run = fleet::run(number, "COMPLETED");
                run["id"] = json!(uuid::Uuid::new_v4().to_string());
                run["deployment_id"] = json!(fleet::id(1, number));
                run["end_time"] = json!(Timestamp::now().to_string());
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
        // The living and fewer than a thousand dead, or as many as are alive.
        assert!((EACH..=2 * EACH + 1_000).contains(&shown), "{shown}");
        let count = page.value(RUNS, &stays).unwrap();
        // As Prometheus and OTLP have it: a drop is a reset.
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
