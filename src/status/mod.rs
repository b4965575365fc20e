//! The status page: what `/` shows and `/status` returns as JSON.
//!
//! The JSON is generated whenever metrics are published, from the same snapshot as the metrics.
//! Lists have a limited length and report how much is omitted, so its size does not depend on the
//! size of the workspace.

mod deployments;
mod format;
pub mod journal;
mod links;
mod make;
mod model;
pub mod page;
mod problems;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;

use crate::export::Delivered;
use crate::metrics::{Reading, View};
use crate::secrets::without_query;
use crate::settings::Settings;
use journal::Journal;
use links::Ui;

/// The latest JSON of `/status`.
#[derive(Debug, Clone, Default)]
pub struct Latest(Arc<RwLock<Bytes>>);

impl Latest {
    /// The JSON.
    pub fn json(&self) -> Bytes {
        let json = self.0.read().unwrap_or_else(PoisonError::into_inner);
        json.clone()
    }

    fn set(&self, json: Vec<u8>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Bytes::from(json);
    }
}

/// The data that a status is generated from.
pub struct Input<'a> {
    /// The data that the metrics are generated from.
    pub view: &'a View<'a>,
    /// The metrics.
    pub readings: &'a [Reading],
    /// The history of cycles and requests.
    pub journal: &'a Journal,
    /// The state of the exporters.
    pub delivered: Vec<Delivered>,
}

/// Generates the status.
#[derive(Debug)]
pub struct Writer {
    /// The settings do not accept a URL with credentials.
    api_url: String,
    ui: Ui,
    interval: Duration,
    inventory_interval: Duration,
    serves_metrics: bool,
    latest: Latest,
}

impl Writer {
    /// A writer for these settings.
    pub fn new(settings: &Settings) -> Self {
        let api_url = &settings.prefect.api_url;
        Writer {
            api_url: without_query(api_url.as_str()).to_owned(),
            ui: Ui::of(api_url),
            interval: settings.sampling.interval,
            inventory_interval: settings.sampling.inventory_interval,
            serves_metrics: settings.otel.metrics.prometheus,
            latest: Latest::default(),
        }
    }

    /// The latest status, which `write` replaces.
    pub fn latest(&self) -> Latest {
        self.latest.clone()
    }

    /// Generates the status, which is the latest from now on.
    pub fn write(&self, input: &Input<'_>) {
        match serde_json::to_vec(&self.make(input)) {
            Ok(json) => self.latest.set(json),
            Err(error) => tracing::error!(%error, "the status cannot be encoded as JSON"),
        }
    }
}
