use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use opentelemetry::KeyValue;

use super::*;
use crate::metrics::{Point, catalogue};
use crate::settings::Sources;

fn readings(points: usize) -> Vec<Reading> {
    let observed = |family: &&Family| matches!(family.source, Source::Read(..));
    let points = (0..points).map(|number| Point {
        value: 1.0,
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
