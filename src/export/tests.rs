use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use opentelemetry::KeyValue;

use super::*;
use crate::metrics::{Point, catalogue};
use crate::settings::Sources;

fn readings(points: usize) -> Vec<Reading> {
    with_value(points, 1.0)
}

fn with_value(points: usize, value: f64) -> Vec<Reading> {
    let observed = |family: &&Family| matches!(family.source, Source::Read(..));
    let points = (0..points).map(|number| Point {
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
            let rendered = page.source.render();
            shown = rendered.number;
            let text = String::from_utf8(rendered.text.to_vec()).unwrap();
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
    assert!(page.source.last().text.is_empty());
    assert_eq!(exporters.shown(Duration::from_secs(60)), 0);
    let (first, again) = (page.scrape(), page.scrape());
    assert!(!first.is_empty());
    assert_eq!(first.as_ptr(), again.as_ptr());
    assert_eq!(exporters.shown(Duration::from_secs(60)), 1);
    exporters.publish(2, with_value(20, 2.0));
    assert_ne!(page.scrape(), first);
}
