//! What outlives the process: the checkpoint in `STATE_DIR`.

use std::sync::Arc;

use crate::ledger::Ledger;
use crate::ledger::checkpoint::{Checkpoint, Error, Restored};
use crate::sampler::Sampler;
use crate::settings::{Settings, Temporality};

/// Keeps the checkpoint, where there is to be one.
pub struct Memory {
    checkpoint: Option<Arc<Checkpoint>>,
    /// Whether the last one could not be written: only changes are logged.
    failing: bool,
}

impl Memory {
    /// By `settings`, and what the last process left.
    pub fn new(settings: &Settings) -> (Self, Restored) {
        let url = settings.prefect.api_url.as_str();
        let folder = settings.state_dir.clone();
        let checkpoint = folder.map(|folder| Arc::new(Checkpoint::new(folder, url)));
        let restored = match &checkpoint {
            Some(checkpoint) => restore(checkpoint, settings),
            None => fresh(settings),
        };
        let memory = Memory {
            checkpoint,
            failing: false,
        };
        (memory, restored)
    }

    /// Writes a checkpoint of what `sampler` has counted. What fails is said once; the one
    /// before stays.
    pub async fn keep(&mut self, sampler: &Sampler) {
        let Some(checkpoint) = &self.checkpoint else {
            return;
        };
        let Some(text) = checkpoint.encode(sampler.ledger(), sampler.awaited()) else {
            return;
        };
        let path = checkpoint.path();
        let checkpoint = Arc::clone(checkpoint);
        let written = tokio::task::spawn_blocking(move || checkpoint.write(&text)).await;
        let failure = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let path = path.display();
        match failure {
            Some(error) if !self.failing => {
                tracing::warn!(%path, error, "STATE_DIR: the checkpoint cannot be written; the agent goes on, and a restart goes on from the last one written");
                self.failing = true;
            }
            None if self.failing => {
                tracing::info!(%path, "STATE_DIR: the checkpoint can be written again");
                self.failing = false;
            }
            _ => {}
        }
    }
}

fn fresh(settings: &Settings) -> Restored {
    Restored {
        ledger: Ledger::new(settings.metrics.cardinality_limit),
        unfinished: Vec::new(),
    }
}

fn restore(checkpoint: &Checkpoint, settings: &Settings) -> Restored {
    // Over OTLP with delta temporality, the first value of a process is the first increment:
    // what was pushed before must not be in it.
    let delta = settings.otel.temporality == Temporality::Delta;
    let tallies = !(delta && settings.otel.otlp_metrics.is_some());
    let path = checkpoint.path();
    let path = path.display();
    match checkpoint.read(settings.metrics.cardinality_limit, tallies) {
        Ok(restored) => {
            if let Some(cursor) = restored.ledger.cursor() {
                tracing::info!(%path, %cursor, "goes on from the checkpoint; runs that ended since are counted now");
            }
            restored
        }
        Err(error @ Error::Missing) => {
            tracing::warn!(%path, %error, "STATE_DIR: no checkpoint, as at the first start; counts runs that end from now on");
            fresh(settings)
        }
        Err(error) => {
            tracing::warn!(%path, %error, "STATE_DIR: the checkpoint cannot be used; counts runs that end from now on, and writes a new one");
            fresh(settings)
        }
    }
}
