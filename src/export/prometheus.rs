//! The Prometheus bridge: the text of `/metrics`, rendered when it is first asked for after metrics
//! were published.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use jiff::Timestamp;
use opentelemetry::metrics::Histogram;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use prometheus::Registry;
use prometheus::proto::MetricFamily;

use super::instruments::{self, Common};
use super::outlet::{self, Outlet, Part};
use super::shown::Shown;
use super::text::Text;
use super::{Delivered, Error, reader};
use crate::blocking::in_thread;
use crate::core::clock::before;
use crate::metrics::{Family, Point};

/// The content type of the text format.
/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text of `/metrics`.
#[derive(Clone)]
pub struct Page {
    pub(super) source: Arc<Source>,
    shown: Shown,
}

/// How the text is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// In gzip.
    Gzip,
}

/// What the text is rendered from.
pub(super) struct Source {
    common: Arc<Common>,
    /// The agent's own histograms, which `registry` gathers.
    recorded: SdkMeterProvider,
    registry: Registry,
    /// The histograms of Prefect's objects.
    measured: Arc<Outlet>,
    /// Locked while the values of the instruments are replaced or read, so that a text never shows
    /// two publications.
    values: Mutex<()>,
    /// The number of the publication that the instruments show.
    published: AtomicU64,
    /// Each is dropped with the next publication: large texts take most of the memory.
    identity: RwLock<Option<Rendered>>,
    gzip: RwLock<Option<Rendered>>,
    /// One scrape renders, and the others wait for it.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A rendered text.
#[derive(Debug, Clone)]
pub struct Rendered {
    /// The text, in its coding.
    pub body: Bytes,
    /// The number of the publication that it shows.
    pub(super) number: u64,
}

impl Page {
    /// Returns the text for a scrape. Its publication then counts as delivered. Rendering may take
    /// seconds for hundreds of thousands of series.
    ///
    /// # Errors
    ///
    /// If it cannot be rendered.
    pub fn scrape(&self) -> io::Result<Bytes> {
        let rendered = self.source.render(Coding::Identity)?;
        self.delivered(&rendered);
        Ok(rendered.body)
    }

    /// The text of the last publication. It is rendered only once, and not on the threads that run
    /// the cycles.
    ///
    /// # Errors
    ///
    /// If it cannot be rendered.
    pub async fn current(&self, coding: Coding) -> io::Result<Rendered> {
        if let Some(rendered) = self.source.current(coding) {
            return Ok(rendered);
        }
        // A client may disconnect before the thread has ended.
        let turn = Arc::clone(&self.source.turn).lock_owned().await;
        let source = Arc::clone(&self.source);
        let render = move || {
            let rendered = source.render(coding);
            drop(turn);
            rendered
        };
        in_thread("render", render).await?
    }

    /// Notes that a scrape is answered with this text.
    pub fn delivered(&self, rendered: &Rendered) {
        self.shown.note(rendered.number);
    }
}

/// A family to render.
enum Content<'a> {
    Points(&'static Family, Arc<Vec<Point>>),
    Measured(&'static Family, Vec<&'a Buckets>),
    Recorded(MetricFamily),
}

type Buckets = opentelemetry_sdk::metrics::data::Histogram<f64>;

/// The families that are not histograms, with their points.
type Observed = Vec<(&'static Family, Arc<Vec<Point>>)>;

impl Source {
    fn rendered(&self, coding: Coding) -> &RwLock<Option<Rendered>> {
        match coding {
            Coding::Identity => &self.identity,
            Coding::Gzip => &self.gzip,
        }
    }

    /// What was rendered last, if it shows the last publication.
    pub(super) fn current(&self, coding: Coding) -> Option<Rendered> {
        let published = self.published.load(Ordering::Acquire);
        let rendered = self.rendered(coding).read();
        let rendered = rendered.unwrap_or_else(PoisonError::into_inner).clone();
        rendered.filter(|rendered| rendered.number == published)
    }

    /// Renders the current values of the instruments, unless that has been done.
    pub(super) fn render(&self, coding: Coding) -> io::Result<Rendered> {
        if let Some(rendered) = self.current(coding) {
            return Ok(rendered);
        }
        let (number, points) = self.points();
        let measured = self.measured.collect().map_err(io::Error::other)?;
        let mut text = match coding {
            Coding::Identity => Text::plain(),
            Coding::Gzip => Text::gzip(),
        };
        for content in self.contents(points, &measured).into_values() {
            match content {
                Content::Points(family, points) => text.points(family, &points)?,
                Content::Measured(family, parts) => text.histogram(family, &parts)?,
                Content::Recorded(family) => text.gathered(family)?,
            }
        }
        let new = Rendered {
            body: text.finish()?,
            number,
        };
        let rendered = self.rendered(coding).write();
        let mut rendered = rendered.unwrap_or_else(PoisonError::into_inner);
        // Another publication may have been made, which nobody has asked for yet.
        if number == self.published.load(Ordering::Acquire) {
            *rendered = Some(new.clone());
        }
        Ok(new)
    }

    /// The number of the last publication, and its points.
    fn points(&self) -> (u64, Observed) {
        let _values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let families = self.common.options.families();
        let observed = families.filter(|family| Part::of(family) == Part::Observed);
        let points = observed.map(|family| (family, self.common.slots.points(family.name)));
        (self.published.load(Ordering::Acquire), points.collect())
    }

    /// Everything to render, by name.
    fn contents<'a>(
        &self,
        points: Observed,
        measured: &'a [ResourceMetrics],
    ) -> BTreeMap<String, Content<'a>> {
        let points = points.into_iter().map(|(family, points)| {
            let name = family.prometheus_name();
            (name, Content::Points(family, points))
        });
        let mut parts = parts(measured);
        let families = self.common.options.families();
        let measured = families.filter_map(|family| {
            let parts = parts.remove(family.name)?;
            Some((family.prometheus_name(), Content::Measured(family, parts)))
        });
        let recorded = self.registry.gather().into_iter().map(|family| {
            let name = family.name().to_owned();
            (name, Content::Recorded(family))
        });
        points.chain(measured).chain(recorded).collect()
    }
}

/// The parts of each histogram, by name.
fn parts(measured: &[ResourceMetrics]) -> HashMap<&str, Vec<&Buckets>> {
    let scopes = measured.iter().flat_map(ResourceMetrics::scope_metrics);
    let mut parts = HashMap::<&str, Vec<&Buckets>>::new();
    for metric in scopes.flat_map(|scope| scope.metrics()) {
        if let AggregatedMetrics::F64(MetricData::Histogram(part)) = metric.data() {
            parts.entry(metric.name()).or_default().push(part);
        }
    }
    parts
}

/// The page of an exporter that is scraped.
pub(super) struct Bridge(Page);

impl Bridge {
    /// The bridge, and the histograms that the agent records for it. Those of Prefect's objects are
    /// read from `measured`.
    pub(super) fn new(
        common: &Arc<Common>,
        measured: Arc<Outlet>,
    ) -> Result<(Self, HashMap<&'static str, Histogram<f64>>), Error> {
        let registry = Registry::new();
        let builder = SdkMeterProvider::builder()
            .with_resource(common.resource.clone())
            .with_reader(reader::bridge(&registry)?);
        let families = common.options.families();
        let families: Vec<_> = families
            .filter(|family| Part::of(family) == Part::Recorded)
            .collect();
        let limits = outlet::limits(&families, common, &[], 0);
        let (recorded, histograms) =
            instruments::provider(builder, common, &families, limits, false);
        let source = Source {
            common: Arc::clone(common),
            recorded,
            registry,
            measured,
            values: Mutex::default(),
            published: AtomicU64::default(),
            identity: RwLock::default(),
            gzip: RwLock::default(),
            turn: Arc::default(),
        };
        let page = Page {
            source: Arc::new(source),
            shown: Shown::default(),
        };
        Ok((Bridge(page), histograms))
    }

    pub(super) fn page(&self) -> Page {
        self.0.clone()
    }

    /// What has been scraped.
    pub(super) fn shown(&self) -> &Shown {
        &self.0.shown
    }

    /// When it was last scraped.
    pub(super) fn delivered(&self) -> Delivered {
        let scraped = self.0.shown.since();
        Delivered {
            name: "prometheus",
            target: "/metrics".to_owned(),
            pushes: None,
            last_success: scraped.map(|since| before(Timestamp::now(), since)),
            last_error: None,
            failing_since: None,
        }
    }

    /// Replaces the values of the instruments with those of the publication `number`.
    pub(super) fn publish(&self, number: u64, replace: impl FnOnce()) {
        let source = &self.0.source;
        let values = source.values.lock().unwrap_or_else(PoisonError::into_inner);
        replace();
        source.published.store(number, Ordering::Release);
        drop(values);
        for rendered in [&source.identity, &source.gzip] {
            let mut rendered = rendered.write().unwrap_or_else(PoisonError::into_inner);
            rendered.take_if(|rendered| rendered.number != number);
        }
    }

    /// Shuts the meter providers down.
    pub(super) fn shutdown(&self) {
        outlet::shut_down(&self.0.source.recorded);
        self.0.source.measured.shutdown();
    }
}
