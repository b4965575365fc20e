//! Task runs that ended, where they are asked for.

use std::time::Duration;

use super::runs::OVERLAP;
use super::within;
use crate::ledger::{FinishedTask, Ledger};
use crate::prefect::list::Order;
use crate::prefect::{Client, Error, filter};
use crate::snapshot::{StateType, TaskRun, before};

/// Tasks are many: what has ended is read so much at a time.
const SLICE: Duration = Duration::from_secs(600);

/// Once a cycle has counted so many, the rest is left to the next one.
const MOST: usize = 20_000;

/// Counts the task runs that ended since the last time.
///
/// # Errors
///
/// When a slice cannot be read; those before it are counted.
pub(super) async fn refresh(
    client: &Client,
    ledger: &mut Ledger,
    catch_up: Duration,
    deadline: Duration,
    news: &mut Vec<FinishedTask>,
) -> Result<(), Error> {
    let now = client.clock().now();
    let cursor = ledger.task_cursor().map(|cursor| before(cursor, OVERLAP));
    let mut since = cursor
        .or(ledger.since())
        .unwrap_or(now)
        .min(now)
        .max(before(now, catch_up));
    loop {
        let end = since.checked_add(SLICE).unwrap_or(now);
        let until = (end < now).then_some(end);
        let body = filter::task_runs(&StateType::FINAL, since, until);
        let runs = client.list::<TaskRun>(&body, Order::EndTime);
        let runs = within(deadline, runs).await?;
        news.extend(runs.iter().filter_map(|run| ledger.count_task(run, now)));
        ledger.move_task_cursor(until.unwrap_or(now));
        match until {
            Some(until) if news.len() < MOST => since = until,
            _ => return Ok(()),
        }
    }
}
