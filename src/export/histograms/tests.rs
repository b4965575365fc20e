use std::collections::HashSet;
use std::time::SystemTime;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};

use super::*;
use crate::export::instruments::{Common, Slots};
use crate::export::outlet::Part;
use crate::metrics::{Options, catalogue};
use crate::settings::{Settings, Sources};

struct Exported {
    histograms: Histograms,
    pushed: Arc<Outlet>,
    scraped: Arc<Outlet>,
    options: Options,
}

fn exported(limit: &str) -> Exported {
    let environment = [
        ("METRICS_CARDINALITY_LIMIT", limit),
        ("TASK_RUNS_ENABLED", "True"),
    ];
    let environment = environment.map(|(name, value)| (name.into(), value.into()));
    let settings = Settings::load(&Sources {
        environment: environment.into_iter().collect(),
        ..Sources::default()
    });
    let options = Options::new(&settings.unwrap()).unwrap();
    let common = Arc::new(Common {
        options: options.clone(),
        resource: Resource::builder_empty().build(),
        slots: Slots::new(&options),
    });
    let measured = |how| Arc::new(Outlet::new(how, Part::Measured, &common));
    let pushed = measured(How::SCRAPED);
    let scraped = measured(How::SCRAPED);
    let mut histograms = Histograms::new(options.cardinality_limit);
    histograms.add(&pushed);
    histograms.add(&scraped);
    Exported {
        pushed,
        scraped,
        histograms,
        options,
    }
}

/// A series of a push: the value of its first attribute, its count and its start time.
type Series = (String, u64, SystemTime);

impl Exported {
    fn record(&self, family: &str, first: &str) {
        self.record_in(0, family, first);
    }

    fn record_in(&self, workspace: usize, family: &str, first: &str) {
        let mut families = catalogue();
        let family = families.find(|declared| declared.name == family).unwrap();
        let mut values = vec![Label::from("etl"); family.attributes.len()];
        values[0] = Label::from(first);
        let attributes = self.options.counted(family, &values, &[]);
        let add = |recording: &mut Recording<'_>| {
            recording.add(family, workspace, &values, 1.5, &attributes);
        };
        self.histograms.record(add, || {});
    }

    fn run(&self, deployment: &str) {
        self.record("prefect.flow_run.duration", deployment);
    }

    fn forget_all_but(&self, alive: &[&str]) -> bool {
        self.histograms
            .forget(0, || true, |deployment, _| alive.contains(&&**deployment))
            == Forgotten::Deleted
    }

    fn pushed(&self) -> Vec<Series> {
        Self::series(&self.pushed)
    }

    fn series(outlet: &Outlet) -> Vec<Series> {
        let parts = outlet.collect().unwrap();
        let scopes = parts.iter().flat_map(|part| part.scope_metrics());
        let mut series = Vec::new();
        for metric in scopes.flat_map(|scope| scope.metrics()) {
            let AggregatedMetrics::F64(MetricData::Histogram(histogram)) = metric.data() else {
                panic!("{metric:?}");
            };
            series.extend(histogram.data_points().map(|point| {
                let first = point.attributes().next().unwrap();
                (
                    first.value.to_string(),
                    point.count(),
                    histogram.start_time(),
                )
            }));
        }
        series.sort();
        series
    }

    fn scraped(&self) -> usize {
        Self::series(&self.scraped).len()
    }
}

#[test]
fn under_churn_the_series_of_deleted_deployments_are_dropped() {
    let exported = exported("50000");
    let mut most = 0;
    for round in 0..40 {
        exported.run("stays");
        let now: Vec<_> = (0..250).map(|number| format!("{round}-{number}")).collect();
        now.iter().for_each(|deployment| exported.run(deployment));
        let mut alive: Vec<_> = now.iter().map(String::as_str).collect();
        alive.push("stays");
        exported.forget_all_but(&alive);
        most = most.max(exported.pushed().len());
        assert_eq!(exported.scraped(), exported.pushed().len());
    }
    // 10,001 deployments have existed; at most `FEW` series of deleted ones are kept.
    assert!(most <= FEW + 251, "{most}");
    assert!(exported.histograms.recorded().families.len() <= 1);
}

#[test]
fn series_of_existing_deployments_continue_with_a_new_start_time() {
    let exported = exported("50000");
    for _ in 0..3 {
        exported.run("stays");
    }
    let (_, count, started) = exported.pushed().remove(0);
    assert_eq!(count, 3);
    for number in 0..FEW {
        exported.run(&format!("gone-{number}"));
    }
    assert!(!exported.forget_all_but(&["stays"]), "a few are kept");
    exported.run("gone too");
    let last_shown = SystemTime::now();
    assert!(exported.forget_all_but(&["stays"]));
    assert_eq!((exported.pushed(), exported.scraped()), (vec![], 0));
    exported.run("stays");
    let after = exported.pushed();
    assert_eq!((after.len(), after[0].1), (1, 1), "a reset: {after:?}");
    assert!(after[0].2 >= last_shown && last_shown >= started);
}

#[test]
fn more_series_get_more_room_and_each_keeps_its_count() {
    let exported = exported("50000");
    let most = room(0) + room(1) + 1;
    for round in 1..=2 {
        for number in 0..most {
            exported.run(&format!("{number}"));
        }
        let pushed = exported.pushed();
        assert_eq!((pushed.len(), exported.scraped()), (most, most));
        assert!(pushed.iter().all(|(_, count, _)| *count == round));
        let names: HashSet<_> = pushed.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), most);
    }
}

#[test]
fn at_the_limit_deleted_deployments_make_room_for_new_series() {
    let exported = exported("10");
    for number in 0..15 {
        exported.run(&format!("old-{number}"));
    }
    exported.run("new");
    let names = || -> Vec<String> {
        let series = exported.pushed().into_iter();
        series.map(|(name, ..)| name).collect()
    };
    assert!(
        names().contains(&"true".to_owned()),
        "overflow: {:?}",
        names()
    );
    assert!(!names().contains(&"new".to_owned()));
    assert!(exported.forget_all_but(&["new", "old-1"]));
    exported.run("new");
    exported.run("old-1");
    assert_eq!(names(), ["new", "old-1"]);
}

#[test]
fn many_series_of_existing_deployments_are_not_reset() {
    let exported = exported("10");
    for number in 0..15 {
        exported.run("alive");
        exported.run(&format!("alive-{number}"));
        // Whether a task still exists is unknown.
        exported.record("prefect.task_run.duration", &format!("task-{number}"));
    }
    let forgotten =
        exported
            .histograms
            .forget(0, || true, |deployment, _| deployment.starts_with("alive"));
    assert_eq!(forgotten, Forgotten::Nothing);
    let alive = exported.pushed();
    let alive = alive.iter().find(|(name, ..)| name == "alive").unwrap();
    assert_eq!(alive.1, 15);
}

#[test]
fn deleted_deployments_of_several_workspaces_are_dropped_together() {
    let exported = exported("50000");
    let half = FEW / 2 + 1;
    for workspace in [0, 1] {
        for number in 0..half {
            let name = format!("{workspace}-{number}");
            exported.record_in(workspace, "prefect.flow_run.duration", &name);
        }
    }
    let forget = |workspace, is_delivered| {
        let histograms = &exported.histograms;
        histograms.forget(workspace, || is_delivered, |_, _| false)
    };
    assert_eq!(forget(0, true), Forgotten::Nothing, "a few are kept");
    assert_eq!(forget(1, false), Forgotten::NotYet);
    assert_eq!(exported.pushed().len(), 2 * half);
    assert_eq!(forget(1, true), Forgotten::Deleted);
    assert_eq!((exported.pushed(), exported.scraped()), (vec![], 0));
}

#[test]
fn nothing_is_dropped_while_values_are_recorded() {
    let exported = exported("50000");
    (0..=FEW).for_each(|number| exported.run(&format!("gone-{number}")));
    let is_noted = std::sync::atomic::AtomicBool::new(false);
    let load = || is_noted.load(std::sync::atomic::Ordering::SeqCst);
    std::thread::scope(|scope| {
        let (began, begins) = std::sync::mpsc::channel();
        let (exported, is_noted) = (&exported, &is_noted);
        scope.spawn(move || {
            let wait = |_: &mut Recording<'_>| {
                began.send(()).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(100));
            };
            let note = || is_noted.store(true, std::sync::atomic::Ordering::SeqCst);
            exported.histograms.record(wait, note);
        });
        begins.recv().unwrap();
        let forgotten = exported.histograms.forget(0, || !load(), |_, _| false);
        assert_eq!(forgotten, Forgotten::NotYet);
    });
}
