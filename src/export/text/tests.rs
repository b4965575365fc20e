use std::collections::HashMap;
use std::io::Read as _;
use std::sync::Arc;

use flate2::read::GzDecoder;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use prometheus::Registry;

use super::*;
use crate::export::instruments::{self, Common, Slots};
use crate::export::outlet::{How, Outlet, Part};
use crate::export::reader;
use crate::metrics::{Options, catalogue};
use crate::settings::{Settings, Sources};

/// Labels that need care: empty, quoted, of several lines, not ASCII, not text.
const VALUES: [&str; 6] = [
    "etl",
    "",
    "a \"b\" c",
    "C:\\temp\nnext",
    "düsseldorf 🦀",
    "=",
];

/// Values that need care.
const NUMBERS: [f64; 8] = [
    0.0,
    1.0,
    -3.0,
    0.1,
    1e-9,
    1.5e300,
    123_456_789.25,
    9_007_199_254_740_992.0,
];

fn common() -> Arc<Common> {
    let environment = [
        ("METRICS_INCLUDE", "*"),
        ("TASK_RUNS_ENABLED", "true"),
        ("DEPLOYMENT_TAG_LABELS", "team"),
        ("METRICS_ATTRIBUTES", "deployment.environment=prod,zone=a"),
    ];
    let settings = Settings::load(&Sources {
        environment: environment
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        ..Sources::default()
    });
    let options = Options::new(&settings.unwrap()).unwrap();
    Arc::new(Common {
        slots: Slots::new(&options),
        resource: Resource::builder_empty().build(),
        options,
    })
}

/// Series of a family, each with other values of its attributes.
fn attributes(common: &Common, family: &Family) -> Vec<Vec<KeyValue>> {
    let series = (0..VALUES.len()).map(|number| {
        let mut values = VALUES
            .iter()
            .cycle()
            .skip(number)
            .map(|value| (*value).into());
        let own: Vec<_> = values.by_ref().take(family.attributes.len()).collect();
        common.options.counted(family, &own, &["data".into()])
    });
    let mut all: Vec<_> = series.collect();
    all.dedup();
    all
}

/// The lines of all families, sorted, as `opentelemetry-prometheus` writes them.
fn expected(common: &Common, families: &[&'static Family]) -> Vec<String> {
    let registry = Registry::new();
    let builder = SdkMeterProvider::builder().with_reader(reader::bridge(&registry).unwrap());
    let limits = families.iter().map(|family| (family.name, 100)).collect();
    let (_provider, histograms) =
        instruments::provider(builder, common, families, Arc::new(limits), false);
    record(common, |name, value, attributes| {
        histograms[name].record(value, attributes);
    });
    let gathered = registry.gather();
    let gathered = gathered
        .iter()
        .filter(|family| family.name() != "target_info");
    let gathered: Vec<_> = gathered.cloned().collect();
    sorted(&TextEncoder::new().encode_to_string(&gathered).unwrap())
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Records values into every histogram.
fn record(common: &Common, mut into: impl FnMut(&'static str, f64, &[KeyValue])) {
    for family in catalogue().filter(|family| matches!(family.kind, Kind::Histogram(_))) {
        for (number, attributes) in attributes(common, family).iter().enumerate() {
            for value in [0.0, 0.3, 5.0, 1e9].iter().take(number + 1) {
                into(family.name, *value, attributes);
            }
        }
    }
}

/// What is written for all families.
fn written(common: &Arc<Common>, families: &[&'static Family], mut text: Text) -> Bytes {
    let [measured, recorded] =
        [Part::Measured, Part::Recorded].map(|part| Outlet::new(How::SCRAPED, part, common));
    let own = recorded.histograms();
    record(common, |name, value, attributes| match own.get(name) {
        Some(histogram) => histogram.record(value, attributes),
        None => measured.record(0, name, value, attributes),
    });
    let mut all = measured.collect().unwrap();
    all.extend(recorded.collect().unwrap());
    let scopes = all.iter().flat_map(ResourceMetrics::scope_metrics);
    let metrics = scopes.flat_map(|scope| scope.metrics());
    let histograms: HashMap<_, _> = metrics
        .map(|metric| (metric.name(), metric.data()))
        .collect();
    for family in families {
        match histograms.get(family.name) {
            Some(AggregatedMetrics::F64(MetricData::Histogram(data))) => {
                text.histogram(family, &[data]).unwrap();
            }
            _ => text
                .points(family, &common.slots.points(family.name))
                .unwrap(),
        }
    }
    text.finish().unwrap()
}

/// Common settings, and all families, each with points.
fn filled() -> (Arc<Common>, Vec<&'static Family>) {
    let common = common();
    let families: Vec<_> = catalogue().collect();
    for family in &families {
        let series = attributes(&common, family)
            .into_iter()
            .zip(NUMBERS.iter().cycle());
        let points = series.map(|(attributes, value)| Point {
            value: *value,
            attributes,
            start: None,
        });
        common.slots.set(family.name, Arc::new(points.collect()));
    }
    (common, families)
}

#[test]
fn every_family_is_written_as_opentelemetry_prometheus_writes_it() {
    let (common, families) = filled();
    let text = written(&common, &families, Text::plain());
    let text = sorted(std::str::from_utf8(&text).unwrap());
    let expected = expected(&common, &families);
    assert!(expected.len() > 1_000, "{}", expected.len());
    let mut pairs = text.iter().zip(&expected);
    assert_eq!(pairs.find(|(one, other)| one != other), None);
    assert_eq!(text.len(), expected.len());
}

#[test]
fn a_compressed_text_is_the_same() {
    let (common, families) = filled();
    let plain = written(&common, &families, Text::plain());
    assert!(plain.len() > 2 * CHUNK, "compressed in several parts");
    let packed = written(&common, &families, Text::gzip());
    let mut unpacked = Vec::new();
    GzDecoder::new(&*packed).read_to_end(&mut unpacked).unwrap();
    let lines = |text: &[u8]| sorted(std::str::from_utf8(text).unwrap());
    assert_eq!(lines(&unpacked), lines(&plain));
}

fn line(attributes: &[KeyValue], value: f64) -> String {
    let family = catalogue()
        .find(|family| family.name == "prefect.up")
        .unwrap();
    let mut text = Text::plain();
    let point = Point {
        value,
        attributes: attributes.to_vec(),
        start: None,
    };
    text.points(family, &[point]).unwrap();
    let text = String::from_utf8(text.finish().unwrap().to_vec()).unwrap();
    text.lines().last().unwrap().to_owned()
}

#[test]
fn numbers_that_are_not_finite_are_written_as_prometheus_reads_them() {
    assert_eq!(line(&[], f64::NAN), "prefect_up NaN");
    assert_eq!(line(&[], f64::INFINITY), "prefect_up +Inf");
    assert_eq!(line(&[], f64::NEG_INFINITY), "prefect_up -Inf");
}

#[test]
fn attributes_with_the_same_label_are_joined() {
    let attributes = [("a.z", "1"), ("a/b", "2"), ("a_b", "3"), ("a_c", "4")];
    let attributes = attributes.map(|(key, value)| KeyValue::new(key, value));
    let expected = r#"prefect_up{a_b="2;3",a_c="4",a_z="1"} 1"#;
    assert_eq!(line(&attributes, 1.0), expected);
}
