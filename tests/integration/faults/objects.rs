//! Rows: objects of Prefect with odd values.

use serde_json::{Value, json};

use crate::support::fleet;
use crate::support::stub::Contents;

use super::row::{Effect, Row, Strike};

const ID: &str = "0dd00000-0000-4000-8000-000000000000";
const SKIPPED: Effect = Effect::Skipped("cannot be decoded");

/// Adds a changed copy of the first object.
fn odd(list: &mut Vec<Value>, change: fn(&mut Value)) {
    let mut odd = list[0].clone();
    odd["id"] = json!(ID);
    change(&mut odd);
    list.push(odd);
}

/// Adds a changed run in this state.
fn odd_run(contents: &mut Contents, state: &str, change: fn(&mut Value)) {
    let mut odd = fleet::run_at(0x0dd, state, 5);
    change(&mut odd);
    contents.flow_runs.push(odd);
}

macro_rules! objects {
    ($($name:literal, $fault:literal, $list:ident, $change:expr, $effect:expr;)*) => {
        [$(Row::new($name, $fault, Strike::Contents(|contents| odd(&mut contents.$list, $change)), $effect)),*]
    };
}

macro_rules! runs {
    ($($name:literal, $fault:literal, $state:literal, $change:expr, $effect:expr;)*) => {
        [$(Row::new($name, $fault, Strike::Contents(|contents| odd_run(contents, $state, $change)), $effect)),*]
    };
}

#[rustfmt::skip]
pub(super) const OBJECTS: &[Row] = &objects! {
    "a_deployment_with_a_number_as_its_name", "the name of a deployment is a number",
        deployments, |odd| odd["name"] = json!(7), SKIPPED;
    "a_deployment_with_a_huge_number_as_its_name", "the name of a deployment is 1e300",
        deployments, |odd| odd["name"] = json!(1e300), SKIPPED;
    "a_deployment_with_a_text_as_paused", "`paused` of a deployment is the string `maybe`",
        deployments, |odd| odd["paused"] = json!("maybe"), SKIPPED;
    "a_deployment_with_tags_in_a_text", "the tags of a deployment are a string",
        deployments, |odd| odd["tags"] = json!("a,b"), SKIPPED;
    "a_deployment_with_tags_of_other_types", "the tags of a deployment are numbers",
        deployments, |odd| odd["tags"] = json!([1, null, {}]), SKIPPED;
    "a_deployment_of_nulls", "every field of a deployment is null",
        deployments, |odd| for (key, value) in odd.as_object_mut().unwrap() {
            if key != "id" {
                *value = Value::Null;
            }
        }, Effect::Nothing;
    "a_deployment_without_fields", "a deployment has only an id",
        deployments, |odd| *odd = json!({"id": ID}), Effect::Nothing;
    "a_deployment_with_the_name_of_another", "two deployments of a flow have the same name",
        deployments, |_| {}, Effect::Nothing;
    "a_deployment_whose_name_ends_a_label", "a name has quotes, braces, backslashes and line breaks",
        deployments, |odd| odd["name"] = json!("\"} 1\nprefect_up 0\\\r\n# TYPE x gauge\\n"), Effect::Nothing;
    "a_deployment_with_control_characters", "a name has NUL, escape sequences and a change of the text direction",
        deployments, |odd| odd["name"] = json!("\u{0}\u{1b}[31m\u{7}\u{202e}\u{feff}"), Effect::Nothing;
    "a_deployment_with_an_empty_name", "a name is empty",
        deployments, |odd| odd["name"] = json!(""), Effect::Nothing;
    "a_flow_with_a_list_as_its_name", "the name of a flow is a list",
        flows, |odd| odd["name"] = json!(["a"]), SKIPPED;
    "a_work_pool_with_a_text_as_its_limit", "the limit of a work pool is a string",
        work_pools, |odd| odd["concurrency_limit"] = json!("many"), SKIPPED;
    "a_work_pool_with_a_negative_limit", "the limit of a work pool is -1",
        work_pools, |odd| odd["concurrency_limit"] = json!(-1), SKIPPED;
    "a_work_pool_with_slots_beyond_64_bits", "the slots of a work pool are 2^80",
        work_pools, |odd| odd["active_slots"] = json!(1.2e24), SKIPPED;
    "a_work_queue_with_an_object_as_its_priority", "the priority of a work queue is an object",
        work_queues, |odd| odd["priority"] = json!({}), SKIPPED;
    "a_work_queue_polled_yesterday", "the last poll of a work queue is not a time",
        work_queues, |odd| odd["last_polled"] = json!("yesterday"), SKIPPED;
    "a_work_queue_of_no_pool", "the work pool of a work queue does not exist",
        work_queues, |odd| odd["work_pool_name"] = json!("gone"), Effect::Nothing;
};

#[rustfmt::skip]
pub(super) const RUNS: &[Row] = &runs! {
    "a_run_that_started_yesterday", "the start of a run is not a time",
        "RUNNING", |odd| odd["start_time"] = json!("yesterday"), SKIPPED;
    "a_run_that_started_in_a_list", "the start of a run is a list",
        "RUNNING", |odd| odd["start_time"] = json!([2026, 1, 1]), SKIPPED;
    "a_run_expected_at_the_end_of_the_calendar", "a run is expected in the year 9999",
        "RUNNING", |odd| odd["expected_start_time"] = json!("9999-12-31T23:59:59.999999+00:00"), Effect::Nothing;
    "a_run_that_starts_in_the_future", "a running run starts in an hour",
        "RUNNING", |odd| fleet::at(odd, -3_600), Effect::Nothing;
    "a_run_that_started_in_1970", "a running run started in 1970",
        "RUNNING", |odd| odd["start_time"] = json!("1970-01-01T00:00:00Z"), Effect::Nothing;
    "a_run_in_an_unknown_state", "a run has a state that does not exist",
        "RUNNING", |odd| odd["state_name"] = json!("Exploded"), Effect::Nothing;
    "a_run_of_a_deleted_deployment", "the deployment of a run does not exist",
        "RUNNING", |odd| odd["deployment_id"] = json!(ID), Effect::Nothing;
    "a_run_of_a_deleted_flow", "the flow of a run does not exist",
        "RUNNING", |odd| odd["flow_id"] = json!(ID), Effect::Nothing;
    "a_run_with_a_name_that_ends_a_label", "the name of a run has quotes and line breaks",
        "RUNNING", |odd| odd["name"] = json!("\"} 1\nprefect_up 0"), Effect::Nothing;
};
