use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, NumberDataPoint, ResourceMetrics, ScopeMetrics, number_data_point,
};

use super::*;

fn gauge(series: &[&[(&str, &str)]]) -> Metric {
    let pair = |(key, value): &(&str, &str)| KeyValue {
        key: (*key).to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue((*value).to_owned())),
        }),
        ..KeyValue::default()
    };
    let points = series.iter().map(|attributes| NumberDataPoint {
        attributes: attributes.iter().map(pair).collect(),
        value: Some(number_data_point::Value::AsDouble(1.0)),
        ..NumberDataPoint::default()
    });
    Metric {
        name: "gauge".to_owned(),
        data: Some(Data::Gauge(Gauge {
            data_points: points.collect(),
        })),
        ..Metric::default()
    }
}

/// The marks after a collection at `seconds` with these series.
fn collect(ledger: &mut Ledger, seconds: u64, series: &[&[(&str, &str)]]) -> Vec<Metric> {
    ledger.begin(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    if !series.is_empty() {
        ledger.prepare(&mut gauge(series), &[]);
    }
    ledger.marks()
}

fn accept(ledger: &mut Ledger, metrics: Vec<Metric>) {
    ledger.accepted(&mut ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            scope_metrics: vec![ScopeMetrics {
                metrics,
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    });
}

fn cumulative() -> Ledger {
    Ledger::new(Temporality::Cumulative, Vec::new(), Baselines::default())
}

#[test]
fn marks_that_are_not_accepted_are_given_up_after_an_hour() {
    let mut ledger = cumulative();
    assert!(collect(&mut ledger, 1_000, &[&[("a", "1")]]).is_empty());
    assert_eq!(collect(&mut ledger, 1_030, &[]).len(), 1);
    assert_eq!(collect(&mut ledger, 1_030 + 3_600, &[]).len(), 1);
    assert!(collect(&mut ledger, 1_031 + 3_600, &[]).is_empty());
    assert!(ledger.metrics.is_empty(), "nothing is remembered");
}

#[test]
fn an_accepted_mark_ends_the_series_unless_it_has_returned() {
    let mut ledger = cumulative();
    collect(&mut ledger, 1_000, &[&[("a", "1")], &[("a", "2")]]);
    let marks = collect(&mut ledger, 1_030, &[&[("a", "2")]]);
    assert_eq!(marks.len(), 1);
    accept(&mut ledger, marks);
    assert_eq!(ledger.metrics["gauge"].series.len(), 1);
    let marks = collect(&mut ledger, 1_060, &[]);
    assert_eq!(marks.len(), 1);
    assert!(collect(&mut ledger, 1_090, &[&[("a", "2")]]).is_empty());
    accept(&mut ledger, marks);
    assert_eq!(
        collect(&mut ledger, 1_120, &[]).len(),
        1,
        "the series has returned"
    );
}

#[test]
fn the_order_of_attributes_does_not_matter() {
    let mut ledger = cumulative();
    collect(&mut ledger, 1_000, &[&[("a", "1"), ("b", "2")]]);
    assert!(collect(&mut ledger, 1_030, &[&[("b", "2"), ("a", "1")]]).is_empty());
    let swapped = collect(&mut ledger, 1_060, &[&[("a", "2"), ("b", "1")]]);
    assert_eq!(swapped.len(), 1);
}
