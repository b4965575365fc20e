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
use crate::metrics::agent::Stats;
use crate::metrics::{Reading, View};
use crate::secrets::without_query;
use crate::settings::Settings;
use journal::Journal;
use links::Ui;

/// The latest JSON of `/status`, for each workspace by its name.
#[derive(Debug, Clone, Default)]
pub struct Latest(Arc<RwLock<Vec<Json>>>);

/// The name of a workspace, if there are several, and its status.
type Json = (Option<Arc<str>>, Bytes);

impl Latest {
    /// The JSON of this workspace, or of the first one. `None` if there is none with this name.
    pub fn json(&self, workspace: Option<&str>) -> Option<Bytes> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(wanted) = workspace else {
            return Some(
                all.first()
                    .map(|(_, json)| json.clone())
                    .unwrap_or_default(),
            );
        };
        let found = all.iter().find(|(name, _)| name.as_deref() == Some(wanted));
        found.map(|(_, json)| json.clone())
    }

    fn set(&self, all: Vec<Json>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = all;
    }
}

/// A workspace whose status is generated.
#[derive(Debug)]
pub struct Source {
    name: Option<Arc<str>>,
    /// The settings do not accept a URL with credentials.
    api_url: String,
    ui: Ui,
}

impl Source {
    /// The workspace with this name, if there are several, and these settings.
    pub fn new(name: Option<&Arc<str>>, settings: &Settings) -> Self {
        let api_url = &settings.prefect.api_url;
        Source {
            name: name.cloned(),
            api_url: without_query(api_url.as_str()).to_owned(),
            ui: Ui::of(api_url),
        }
    }
}

/// The data that the status of a workspace is generated from.
pub struct Input<'a> {
    /// The workspace.
    pub source: &'a Source,
    /// The data that its metrics are generated from.
    pub view: &'a View<'a>,
    /// The history of its cycles and requests.
    pub journal: &'a Journal,
}

/// The data that is the same for all workspaces.
pub struct Common<'a> {
    /// The agent's statistics about itself.
    pub agent: &'a Stats,
    /// The metrics.
    pub readings: &'a [Reading],
    /// The state of the exporters.
    pub delivered: Vec<Delivered>,
}

/// Generates the status.
#[derive(Debug)]
pub struct Writer {
    interval: Duration,
    inventory_interval: Duration,
    serves_metrics: bool,
    latest: Latest,
}

impl Writer {
    /// A writer for these settings.
    pub fn new(settings: &Settings) -> Self {
        Writer {
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

    /// Generates the status of each workspace, which is the latest from now on.
    pub fn write(&self, inputs: &[Input<'_>], common: &Common<'_>) {
        let made = inputs.iter().map(|input| self.make(input, common));
        let mut made: Vec<_> = made.collect();
        let named = inputs.iter().zip(&made);
        let workspaces: Vec<_> = named
            .filter_map(|(input, status)| {
                Some(model::Named {
                    name: input.source.name.clone()?,
                    status: status.status,
                })
            })
            .collect();
        let mut all = Vec::new();
        for (input, status) in inputs.iter().zip(&mut made) {
            status.workspaces.clone_from(&workspaces);
            match serde_json::to_vec(status) {
                Ok(json) => all.push((input.source.name.clone(), Bytes::from(json))),
                Err(error) => tracing::error!(%error, "the status cannot be encoded as JSON"),
            }
        }
        self.latest.set(all);
    }
}
