//! Calls that are not lists of one path: workers of a pool, states of a run, run history.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::{Call, Client, Error};
use crate::snapshot::{State, StateCount, Worker, before};

impl Client {
    /// The workers of a pool that were heard of at `since` or later.
    ///
    /// # Errors
    ///
    /// When the request fails.
    pub async fn workers(&self, pool: &str, since: Timestamp) -> Result<Vec<Worker>, Error> {
        let limit = self.paging.limit;
        let mut workers: Vec<Worker> = Vec::new();
        loop {
            let body = json!({
                "workers": {"last_heartbeat_time": {"after_": since.to_string()}},
                "limit": limit,
                "offset": workers.len(),
            });
            let call = Call {
                name: pool,
                body: Some(&body),
                ..Call::new(Method::POST, "/work_pools/{name}/workers/filter")
            };
            let page: Vec<Worker> = self.request(&call).await?;
            let last = page.len() < limit || !self.paging.enabled;
            workers.extend(page);
            if last {
                return Ok(workers);
            }
        }
    }

    /// Every state that a flow run has been in, the oldest first.
    ///
    /// # Errors
    ///
    /// When the request fails.
    pub async fn states(&self, flow_run: &Arc<str>) -> Result<Vec<State>, Error> {
        let mut states: Vec<State> = self
            .request(&Call {
                query: &[("flow_run_id", flow_run)],
                ..Call::new(Method::GET, "/flow_run_states/")
            })
            .await?;
        states.sort_by_key(|state| state.timestamp);
        Ok(states)
    }

    /// Flow runs by state within `window` up to now, as the server counts them.
    ///
    /// # Errors
    ///
    /// When the request fails.
    pub async fn run_history(&self, window: Duration) -> Result<Vec<StateCount>, Error> {
        #[derive(Deserialize)]
        struct Interval {
            states: Vec<StateCount>,
        }
        let now = self.clock.now();
        let body = json!({
            "history_start": before(now, window).to_string(),
            "history_end": now.to_string(),
            "history_interval_seconds": window.as_secs(),
        });
        let intervals: Vec<Interval> = self.post("/flow_runs/history", &body).await?;
        Ok(intervals
            .into_iter()
            .flat_map(|interval| interval.states)
            .collect())
    }
}
