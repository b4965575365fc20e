use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use opentelemetry::KeyValue;

use super::prometheus::Coding;
use super::*;
use crate::metrics::{Point, catalogue};
use crate::settings::Sources;

fn readings(points: usize) -> Vec<Reading> {
    with_value(points, 1.0)
}

fn with_value(points: usize, value: f64) -> Vec<Reading> {
    with_ids(0..points, value)
}

fn with_ids(ids: std::ops::Range<usize>, value: f64) -> Vec<Reading> {
    let observed = |family: &&Family| matches!(family.source, Source::Read(..));
    let points = ids.map(|number| Point {
        value,
        attributes: vec![KeyValue::new("id", number.to_string())],
        start: None,
    });
    let points: Arc<Vec<_>> = Arc::new(points.collect());
    let reading = |family| Reading {
        family,
        points: Arc::clone(&points),
    };
    catalogue().filter(observed).take(20).map(reading).collect()
}

#[test]
fn series_that_appear_while_a_push_is_collected_are_never_combined() {
    let settings = Settings::load(&Sources::default()).unwrap();
    let options = Options::new(&settings).unwrap();
    for _ in 0..20 {
        let (exporters, collector) = Exporters::collecting(&settings, &options).unwrap();
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for points in [1, 20, 200, 800] {
                    exporters.publish(1, readings(points));
                }
                is_done.store(true, Ordering::Release);
            });
            while !is_done.load(Ordering::Acquire) {
                let collected = format!("{:?}", collector.collect().unwrap());
                assert!(!collected.contains("overflow"), "{collected:.1000}");
            }
        });
    }
}

#[test]
fn series_that_replace_all_others_between_two_pushes_are_never_combined() {
    let settings = Settings::load(&Sources::default()).unwrap();
    let options = Options::new(&settings).unwrap();
    for points in [10, 300] {
        let (exporters, collector) = Exporters::collecting(&settings, &options).unwrap();
        for number in 0..5 {
            let all = with_ids(number * points..(number + 1) * points, 1.0);
            exporters.publish(number as u64, all);
            let collected = format!("{:?}", collector.collect().unwrap());
            assert!(
                !collected.contains("overflow"),
                "{number}: {collected:.1000}"
            );
        }
    }
}

#[test]
fn a_page_shows_one_publication_while_others_are_made() {
    let settings = Settings::load(&Sources::default()).unwrap();
    let options = Options::new(&settings).unwrap();
    let (exporters, _) = Exporters::collecting(&settings, &options).unwrap();
    let page = exporters.page().unwrap();
    let last = 500;
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=last {
                exporters.publish(number, with_value(20, number as f64));
            }
        });
        let mut shown = 0;
        while shown < last {
            let rendered = page.source.render(Coding::Identity).unwrap();
            shown = rendered.number;
            let text = String::from_utf8(rendered.body.to_vec()).unwrap();
            let samples = text.lines().filter(|line| line.contains("{id="));
            let others = samples.filter(|line| !line.ends_with(&format!(" {shown}")));
            assert_eq!(
                others.collect::<Vec<_>>(),
                [""; 0],
                "in the text of {shown}"
            );
        }
    });
}

#[test]
fn a_publication_is_rendered_once_and_only_if_it_is_scraped() {
    let settings = Settings::load(&Sources::default()).unwrap();
    let options = Options::new(&settings).unwrap();
    let (exporters, _) = Exporters::collecting(&settings, &options).unwrap();
    let page = exporters.page().unwrap();
    exporters.publish(1, readings(20));
    assert!(page.source.current(Coding::Identity).is_none());
    assert_eq!(exporters.shown(Duration::from_secs(60)), 0);
    let (first, again) = (page.scrape().unwrap(), page.scrape().unwrap());
    assert!(!first.is_empty());
    assert_eq!(first.as_ptr(), again.as_ptr());
    assert_eq!(exporters.shown(Duration::from_secs(60)), 1);
    exporters.publish(2, with_value(20, 2.0));
    assert!(page.source.current(Coding::Identity).is_none());
    assert_ne!(page.scrape().unwrap(), first);
}

#[test]
fn a_histogram_in_several_layers_is_on_the_page_once() {
    let settings = Settings::load(&Sources::default()).unwrap();
    let options = Options::new(&settings).unwrap();
    let (exporters, _) = Exporters::collecting(&settings, &options).unwrap();
    let family = catalogue().find(|family| family.name == "prefect.flow_run.duration");
    let family = family.unwrap();
    let series = outlet::room(0) + 1;
    let measure = |recording: &mut Recording<'_>| {
        for number in 0..series {
            let mut values = vec![crate::core::tally::Label::from("etl"); family.attributes.len()];
            values[0] = number.to_string().into();
            let attributes = options.counted(family, &values, &[]);
            recording.add(family, 0, &values, 1.5, &attributes);
        }
    };
    exporters.histograms().record(measure, || {});
    exporters.publish(1, Vec::new());
    let text = exporters.page().unwrap().scrape().unwrap();
    let text = std::str::from_utf8(&text).unwrap();
    let head = "# TYPE prefect_flow_run_duration_seconds histogram";
    assert_eq!(text.lines().filter(|line| *line == head).count(), 1);
    let counts = text.lines();
    let counts = counts.filter(|line| line.starts_with("prefect_flow_run_duration_seconds_count"));
    assert_eq!(counts.count(), series);
}
