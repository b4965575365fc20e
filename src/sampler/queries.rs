//! What is asked about flow runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument as _;

use super::runs::{Id, Run};
use super::{span, within};
use crate::prefect::filter::FlowRuns;
use crate::prefect::list::Order;
use crate::prefect::{Client, Error};
use crate::snapshot::{FlowRun, Section, StateType, before};

pub(super) async fn read_active(client: &Client) -> Result<Vec<FlowRun>, Error> {
    let filter = FlowRuns::default().of_types(&StateType::ACTIVE);
    list(client, filter, Order::Id).await
}

pub(super) async fn read_failed(client: &Client, offset: Duration) -> Result<Vec<FlowRun>, Error> {
    let filter = FlowRuns::default()
        .of_types(&StateType::FAILURE)
        .of_deployments()
        .started_or_expected_since(before(client.clock().now(), offset));
    list(client, filter, Order::Id).await
}

pub(super) fn list(
    client: &Client,
    filter: FlowRuns,
    order: Order,
) -> impl Future<Output = Result<Vec<FlowRun>, Error>> {
    let body = filter.into_body();
    async move { client.list(&body, order).await }
}

pub(super) async fn look_up(client: &Client, ids: &[Id]) -> Result<Vec<FlowRun>, Error> {
    let body = |ids: &[Id]| {
        FlowRuns::default()
            .with_ids(ids.iter().map(|id| &**id))
            .into_body()
    };
    client.by_id(ids, body).await
}

pub(super) async fn read<T>(
    section: Section,
    deadline: Duration,
    reading: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    within(deadline, reading).instrument(span(section)).await
}

pub(super) fn by_id(runs: Vec<FlowRun>) -> HashMap<Id, Run> {
    runs.into_iter()
        .map(|run| (Arc::clone(&run.id), Arc::new(run)))
        .collect()
}
