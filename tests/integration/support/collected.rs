//! Custom collections of the SDK, and a delivery that exports them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Histogram, MeterProvider as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader as _;
use opentelemetry_sdk::metrics::{
    Aggregation, Instrument, InstrumentKind, SdkMeterProvider, Stream, Temporality,
};
use prefect_otel_agent::export::Reader;
use prefect_otel_agent::export::otlp::{DeliveredFile, Delivery, DeliveryConfig};
use prefect_otel_agent::metrics::{Options, Point};
use prefect_otel_agent::settings::Settings;
use tokio::sync::Notify;

/// The values of instruments; each series has one attribute, `key`.
#[derive(Clone, Default)]
pub(crate) struct Collection {
    gauges: Vec<(String, f64)>,
    counters: Vec<(String, f64)>,
    histograms: Vec<(String, Vec<f64>)>,
    exponential: bool,
    process: Process,
}

/// The instruments of a process, which its collections share, and with them the start time.
#[derive(Clone, Default)]
pub(crate) struct Process(Arc<OnceLock<Instruments>>);

struct Instruments {
    _provider: SdkMeterProvider,
    reader: Reader,
    histogram: Histogram<f64>,
    /// The values that are observed now.
    gauges: Slot,
    counters: Slot,
    /// The number of values recorded for each series.
    recorded: Mutex<HashMap<String, usize>>,
}

type Slot = Arc<Mutex<Vec<(String, f64)>>>;

impl Collection {
    pub(crate) fn gauge(mut self, key: &str, value: f64) -> Self {
        self.gauges.push((key.to_owned(), value));
        self
    }

    pub(crate) fn counter(mut self, key: &str, value: f64) -> Self {
        self.counters.push((key.to_owned(), value));
        self
    }

    /// All values recorded for a series since the start of the process.
    pub(crate) fn histogram(mut self, key: &str, values: &[f64]) -> Self {
        self.histograms.push((key.to_owned(), values.to_vec()));
        self
    }

    /// Makes histograms exponential.
    pub(crate) fn exponential(mut self) -> Self {
        self.exponential = true;
        self
    }

    /// Assigns the collection to this process; otherwise, it has its own.
    pub(crate) fn of(mut self, process: &Process) -> Self {
        self.process = process.clone();
        self
    }

    /// The SDK's collection, with `test.gauge`, `test.counter` and `test.histogram`.
    pub(crate) fn collect(&self) -> ResourceMetrics {
        let new = || Instruments::new(self.exponential);
        let instruments = self.process.0.get_or_init(new);
        self.gauges
            .clone_into(&mut instruments.gauges.lock().unwrap());
        self.counters
            .clone_into(&mut instruments.counters.lock().unwrap());
        let mut recorded = instruments.recorded.lock().unwrap();
        for (name, values) in &self.histograms {
            let before = recorded.insert(name.clone(), values.len());
            for value in &values[before.unwrap_or_default()..] {
                instruments.histogram.record(*value, &key(name));
            }
        }
        let mut metrics = ResourceMetrics::default();
        instruments.reader.collect(&mut metrics).unwrap();
        metrics
    }
}

impl Instruments {
    fn new(exponential: bool) -> Self {
        let reader = Reader::new(Temporality::Cumulative);
        let view = move |instrument: &Instrument| {
            let mut stream = Stream::builder().with_cardinality_limit(200_000);
            if exponential && instrument.kind() == InstrumentKind::Histogram {
                stream = stream.with_aggregation(Aggregation::Base2ExponentialHistogram {
                    max_size: 160,
                    max_scale: 20,
                    record_min_max: true,
                });
            }
            stream.build().ok()
        };
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", "delivery-test"),
            KeyValue::new("service.instance.id", "one"),
        ]);
        let provider = SdkMeterProvider::builder()
            .with_reader(reader.clone())
            .with_view(view)
            .with_resource(resource.build())
            .build();
        let meter = provider.meter("test");
        let (gauges, counters) = (Slot::default(), Slot::default());
        let observed = Arc::clone(&gauges);
        meter
            .f64_observable_gauge("test.gauge")
            .with_callback(move |observer| observe(&observed, observer))
            .build();
        let observed = Arc::clone(&counters);
        meter
            .f64_observable_counter("test.counter")
            .with_callback(move |observer| observe(&observed, observer))
            .build();
        let histogram = meter
            .f64_histogram("test.histogram")
            .with_boundaries(vec![1.0, 10.0])
            .build();
        Instruments {
            _provider: provider,
            reader,
            histogram,
            gauges,
            counters,
            recorded: Mutex::default(),
        }
    }
}

fn key(key: &str) -> [KeyValue; 1] {
    [KeyValue::new("key", key.to_owned())]
}

fn observe(slot: &Slot, observer: &dyn AsyncInstrument<f64>) {
    for (name, value) in slot.lock().unwrap().iter() {
        observer.observe(*value, &key(name));
    }
}

/// A delivery according to settings. With `STATE_DIR`, the counts of the counter survive a restart.
pub(crate) fn delivery(endpoint: &str, more: &[(&str, &str)], points: Vec<Point>) -> Delivery {
    let mut all = vec![
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
    ];
    all.extend(more);
    let settings = super::settings("http://prefect/api", &all);
    delivery_by(&settings, points)
}

fn delivery_by(settings: &Settings, points: Vec<Point>) -> Delivery {
    let points = Arc::new(points);
    let config = DeliveryConfig {
        temporality: settings.otel.temporality,
        max_message_bytes: settings.otel.max_message_bytes,
        interval: settings.sampling.interval,
        points: Arc::new(move |name| match name {
            "test.counter" => Arc::clone(&points),
            _ => Arc::default(),
        }),
        counted: vec!["test.counter"],
        file: settings.state_dir.as_ref().map(|folder| {
            let identity = Options::new(settings).unwrap().identity();
            DeliveredFile::new(folder, "http://prefect/api", identity, Vec::new())
        }),
    };
    Delivery::new(settings.otel.otlp_metrics.as_ref().unwrap(), config).unwrap()
}

/// Exports a collection. Returns the text of the error, if there is one.
pub(crate) async fn export(delivery: &Delivery, collection: &Collection) -> Result<(), String> {
    export_until(delivery, collection, &Notify::new()).await
}

/// The same, until `give_up` is notified.
pub(crate) async fn export_until(
    delivery: &Delivery,
    collection: &Collection,
    give_up: &Notify,
) -> Result<(), String> {
    let collected = collection.collect();
    let delivered = delivery.deliver(&[&collected], give_up).await;
    delivered.map_err(|error| error.reason)
}

/// The number of points so far with this outcome.
pub(crate) fn outcome(delivery: &Delivery, outcome: &str) -> u64 {
    let counts = delivery.counts().by_outcome();
    let found = counts.iter().find(|(name, _)| *name == outcome);
    found.unwrap().1
}
