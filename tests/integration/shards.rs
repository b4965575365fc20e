//! Several agents of one workspace, each with `SHARD`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::page::{Labels, Page};
use crate::support::stub::Stub;
use crate::support::{agent, cycle, fleet, small_stub};

/// The series of Prefect on a page.
pub(crate) fn of_prefect(page: &Page) -> BTreeMap<(String, Labels), f64> {
    let series = page.series.iter().filter(|((name, _), _)| {
        name.starts_with("prefect_") && !name.starts_with("prefect_agent_") && name != "prefect_up"
    });
    series
        .map(|(series, value)| (series.clone(), *value))
        .collect()
}

/// Checks that each series of `whole` is in one of `shards`, with the same value unless it is a
/// time or a duration that passes.
pub(crate) fn add_up(whole: &Page, shards: &[Page]) {
    let whole = of_prefect(whole);
    let mut all = BTreeMap::new();
    for (number, shard) in shards.iter().enumerate() {
        let shard = of_prefect(shard);
        assert!(!shard.is_empty(), "shard {number}");
        for (series, value) in shard {
            let other = all.insert(series.clone(), value);
            assert_eq!(other, None, "{series:?} is in two shards");
        }
    }
    let names = |all: &BTreeMap<_, _>| all.keys().cloned().collect::<BTreeSet<_>>();
    let (expected, actual) = (names(&whole), names(&all));
    let different: Vec<_> = expected.symmetric_difference(&actual).collect();
    assert!(different.is_empty(), "{different:#?}");
    for (series, value) in whole {
        let passes = series.0.contains("time") || series.0.contains("seconds");
        assert!(
            passes || all[&series] == value,
            "{series:?}: {value} and {}",
            all[&series]
        );
    }
}

/// Adds runs that have just ended: one of each deployment, and one without a deployment.
fn add_runs(stub: &Stub) {
    let mut contents = stub.contents();
    let mut runs: Vec<_> = (0..20)
        .map(|number| fleet::ended(number, "FAILED"))
        .collect();
    let mut alone = fleet::ended(0, "FAILED");
    alone["deployment_id"] = Value::Null;
    runs.push(alone);
    contents.flow_runs.extend(runs);
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_add_up_to_the_workspace() {
    let stub = small_stub().await;
    for number in 1..20 {
        fleet::deploy(&mut stub.contents(), number);
    }
    let every = [("METRICS_INCLUDE", "*"), ("TASK_RUNS_ENABLED", "True")];
    let mut whole = agent(&stub.url, &every).await;
    let mut shards = Vec::new();
    for shard in ["0/3", "1/3", "2/3"] {
        let settings = [every.as_slice(), &[("SHARD", shard)]].concat();
        shards.push(agent(&stub.url, &settings).await);
    }
    for ended in [false, true, true] {
        if ended {
            add_runs(&stub);
        }
        // What ended is counted in the next cycle, and its series begin with a zero.
        for _ in 0..3 {
            let expected = cycle(&mut whole).await;
            let mut pages = Vec::new();
            for shard in &mut shards {
                pages.push(cycle(shard).await);
            }
            add_up(&expected, &pages);
        }
    }
    let page = cycle(&mut whole).await;
    let failed = page.family("prefect_flow_runs_finished_total");
    assert_eq!(failed.values().sum::<f64>(), 42.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_reads_only_what_it_exports() {
    let stub = small_stub().await;
    let mut first = agent(&stub.url, &[("SHARD", "0/2")]).await;
    cycle(&mut first).await;
    let asks = |path: &str| {
        let requests = stub.take_requests();
        requests.iter().any(|request| request.path.ends_with(path))
    };
    assert!(asks("/automations/filter"));
    let mut second = agent(&stub.url, &[("SHARD", "1/2")]).await;
    cycle(&mut second).await;
    assert!(!asks("/automations/filter"));
}
