//! The text format of Prometheus, written from points and from histograms of the SDK.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>
//!
//! The `prometheus` crate encodes objects that hold every name and label of every series, and needs
//! all of them at once. That takes ten times the CPU time, and several times the memory of the
//! text. A test compares both texts.

use std::borrow::Cow;
use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry::KeyValue;
use opentelemetry_sdk::metrics::data::Histogram;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder as _, TextEncoder};

use crate::metrics::{Family, Kind, Point};

/// So many bytes of text are compressed at once.
const CHUNK: usize = 32 * 1_024;

/// Integers up to this one are the same as a float and as an integer.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// A text that is being written.
pub(super) struct Text {
    /// What has been written; with gzip, what has not been compressed yet.
    written: Vec<u8>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// The labels of the series that is being written, without braces.
    labels: Vec<u8>,
}

impl Text {
    pub(super) fn plain() -> Self {
        Text {
            written: Vec::new(),
            gzip: None,
            labels: Vec::new(),
        }
    }

    /// A text in gzip. It is compressed while it is written, so that there is never a whole text
    /// without compression.
    pub(super) fn gzip() -> Self {
        // Text of this kind is hardly smaller at higher levels, which take longer.
        let gzip = GzEncoder::new(Vec::new(), Compression::new(2));
        Text {
            gzip: Some(gzip),
            ..Text::plain()
        }
    }

    /// Ends the text.
    pub(super) fn finish(mut self) -> io::Result<Bytes> {
        let mut all = match self.gzip {
            Some(mut gzip) => {
                gzip.write_all(&self.written)?;
                gzip.finish()?
            }
            None => std::mem::take(&mut self.written),
        };
        all.shrink_to_fit();
        Ok(Bytes::from(all))
    }

    /// Writes a family of the `prometheus` crate.
    pub(super) fn gathered(&mut self, family: MetricFamily) -> io::Result<()> {
        let encoded = TextEncoder::new().encode(&[family], &mut self.written);
        encoded.map_err(io::Error::other)?;
        self.pass_on()
    }

    /// Writes a family that is not a histogram; nothing without points.
    pub(super) fn points(&mut self, family: &Family, points: &[Point]) -> io::Result<()> {
        let name = family.prometheus_name();
        if !points.is_empty() {
            self.head(family, &name)?;
        }
        for point in points {
            self.set_labels(point.attributes.iter());
            self.sample(&name, "", point.value)?;
            self.pass_on()?;
        }
        Ok(())
    }

    /// Writes a histogram of which each of `parts` has some series; nothing without series.
    pub(super) fn histogram(
        &mut self,
        family: &Family,
        parts: &[&Histogram<f64>],
    ) -> io::Result<()> {
        let name = family.prometheus_name();
        let points = || parts.iter().flat_map(|part| part.data_points());
        let Some(first) = points().next() else {
            return Ok(());
        };
        self.head(family, &name)?;
        // All series of a family have the same buckets.
        let bounds = first.bounds().map(|bound| bound.to_string());
        let bounds: Vec<_> = bounds.chain(["+Inf".to_owned()]).collect();
        for point in points() {
            self.set_labels(point.attributes());
            let own = self.labels.len();
            let mut count = 0_u64;
            for (bound, of_bucket) in bounds.iter().zip(point.bucket_counts()) {
                count = count.saturating_add(of_bucket);
                self.labels.truncate(own);
                self.add_label("le", bound);
                self.sample(&name, "_bucket", count as f64)?;
            }
            self.labels.truncate(own);
            self.sample(&name, "_sum", point.sum())?;
            self.sample(&name, "_count", point.count() as f64)?;
            self.pass_on()?;
        }
        Ok(())
    }

    fn head(&mut self, family: &Family, name: &str) -> io::Result<()> {
        let kind = match family.kind {
            Kind::Gauge | Kind::UpDownCounter => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram(_) => "histogram",
        };
        let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
        writeln!(self.written, "# HELP {name} {help}\n# TYPE {name} {kind}")
    }

    fn sample(&mut self, name: &str, suffix: &str, value: f64) -> io::Result<()> {
        let out = &mut self.written;
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(suffix.as_bytes());
        if !self.labels.is_empty() {
            out.push(b'{');
            out.extend_from_slice(&self.labels);
            out.push(b'}');
        }
        out.push(b' ');
        match value {
            _ if value.is_nan() => out.extend_from_slice(b"NaN"),
            f64::INFINITY => out.extend_from_slice(b"+Inf"),
            f64::NEG_INFINITY => out.extend_from_slice(b"-Inf"),
            // Integers are written several times as fast.
            _ if value.fract() == 0.0 && value.abs() <= MAX_EXACT => {
                write!(out, "{}", value as i64)?;
            }
            _ => write!(out, "{value}")?,
        }
        out.push(b'\n');
        Ok(())
    }

    /// Compresses what has been written, if that is enough.
    fn pass_on(&mut self) -> io::Result<()> {
        if let Some(gzip) = &mut self.gzip
            && self.written.len() >= CHUNK
        {
            gzip.write_all(&self.written)?;
            self.written.clear();
        }
        Ok(())
    }

    fn set_labels<'a>(&mut self, attributes: impl Iterator<Item = &'a KeyValue>) {
        let mut labels: Vec<(Cow<'_, str>, Cow<'_, str>)> = attributes
            .map(|attribute| (label_name(attribute.key.as_str()), attribute.value.as_str()))
            .collect();
        let is_sorted = labels.is_sorted_by(|one, other| one.0 < other.0);
        if !is_sorted {
            labels.sort_by(|one, other| one.0.cmp(&other.0));
            labels = joined(labels);
        }
        self.labels.clear();
        for (name, value) in &labels {
            self.add_label(name, value);
        }
    }

    fn add_label(&mut self, name: &str, value: &str) {
        let out = &mut self.labels;
        if !out.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"=\"");
        match value
            .bytes()
            .any(|byte| matches!(byte, b'\\' | b'"' | b'\n'))
        {
            false => out.extend_from_slice(value.as_bytes()),
            true => {
                for byte in value.bytes() {
                    match byte {
                        b'\\' => out.extend_from_slice(b"\\\\"),
                        b'"' => out.extend_from_slice(b"\\\""),
                        b'\n' => out.extend_from_slice(b"\\n"),
                        other => out.push(other),
                    }
                }
            }
        }
        out.push(b'"');
    }
}

/// The label of an attribute.
/// <https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/#metric-attributes>
fn label_name(key: &str) -> Cow<'_, str> {
    let is_valid = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | ':');
    match key.chars().all(is_valid) {
        true => Cow::Borrowed(key),
        false => Cow::Owned(key.replace(|char| !is_valid(char), "_")),
    }
}

/// Joins the values of equal names, as the same specification requires.
fn joined<'a>(sorted: Vec<(Cow<'a, str>, Cow<'a, str>)>) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
    let mut joined: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::with_capacity(sorted.len());
    for (name, value) in sorted {
        match joined.last_mut() {
            Some(last) if last.0 == name => {
                let values = last.1.to_mut();
                values.push(';');
                values.push_str(&value);
            }
            _ => joined.push((name, value)),
        }
    }
    joined
}

#[cfg(test)]
mod tests;
