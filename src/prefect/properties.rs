//! What must hold for any bytes that come from Prefect, or from a proxy in its place.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::de::IgnoredAny;

use super::objects::Resource;
use super::request::{FlowRunFilter, Order, Page, TaskRunFilter};
use super::retry_after;
use super::runs::FlowRun;
use super::{Answer, Error, Request, http_date};
use crate::properties::lines::{assert_is_a_short_line, first_line};
use crate::secrets::Secrets;

const PAGE: Page = Page {
    offset: 0,
    limit: 200,
};

const RESOURCES: [Resource; 7] = [
    Resource::Deployments,
    Resource::Flows,
    Resource::WorkPools,
    Resource::WorkQueues,
    Resource::GlobalLimits,
    Resource::TagLimits,
    Resource::Automations,
];

/// One request of each kind.
fn requests() -> Vec<Request> {
    let list = |resource| Request::List {
        resource,
        page: PAGE,
    };
    let mut requests: Vec<_> = RESOURCES.into_iter().map(list).collect();
    requests.extend([
        Request::Version,
        Request::Count(Resource::Deployments),
        Request::Workers {
            pool: Arc::from("pool"),
            since: Timestamp::UNIX_EPOCH,
            page: PAGE,
        },
        Request::RunHistory {
            since: Timestamp::MIN,
            until: Timestamp::MAX,
        },
        Request::FlowRuns {
            filter: FlowRunFilter::default(),
            order: Order::Id,
            limit: 200,
        },
        Request::FlowRunStates(Arc::from("run")),
        Request::TaskRuns {
            filter: TaskRunFilter::default(),
            page: PAGE,
        },
    ]);
    requests
}

/// The answer to `request` with this body, as the client reads it.
pub(crate) fn decode(request: &Request, body: &[u8]) -> Result<Answer, Error> {
    let none = Secrets::default();
    Answer::decode(request, body).map_err(|error| Error::body("POST /list", body, &error, &none))
}

/// Bodies of answers. Every object of a list is either used or reported as skipped, and what
/// cannot be read becomes a short line in the log.
pub fn answers(body: &[u8]) {
    let objects = serde_json::from_slice::<Vec<IgnoredAny>>(body).map_or(0, |list| list.len());
    for request in requests() {
        let answer = match decode(&request, body) {
            Ok(answer) => answer,
            Err(error) => {
                assert_is_a_short_line(&error.to_string());
                continue;
            }
        };
        let listed = match &answer {
            Answer::Objects(listed) => listed.len(),
            Answer::Workers(listed) => listed.len(),
            Answer::FlowRuns(listed) => listed.len(),
            Answer::FlowRunStates(listed) => listed.len(),
            Answer::TaskRuns(listed) => listed.len(),
            Answer::Version(_) | Answer::Count(_) | Answer::RunHistory(_) => continue,
        };
        assert_eq!(listed, objects);
        if let Answer::FlowRuns(runs) = &answer {
            runs.items.iter().for_each(times);
        }
    }
}

/// A time that was read can be sent in a filter.
fn times(run: &FlowRun) {
    for time in [run.start_time, run.end_time].into_iter().flatten() {
        assert_eq!(time.to_string().parse().ok(), Some(time));
    }
}

/// `Retry-After` in the first line, `Date` in the second one: no wait is negative or longer than five
/// minutes, and a number of seconds is read exactly.
pub fn headers(data: &[u8]) {
    let (wait, date) = first_line(data);
    let (Ok(wait), Ok(date)) = (std::str::from_utf8(wait), std::str::from_utf8(date)) else {
        return;
    };
    let read = retry_after::wait(wait, Some(date));
    assert!(read.is_none_or(|wait| wait <= retry_after::LONGEST));
    let digits = wait.trim().trim_start_matches('0');
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(seconds) = digits.parse::<u64>().ok().filter(|_| is_number) {
        let exactly = Duration::from_secs(seconds);
        assert_eq!(read, Some(exactly.min(retry_after::LONGEST)));
    }
    if let Some(time) = http_date(wait) {
        let again = httpdate::fmt_http_date(time.into());
        assert_eq!(http_date(&again), Some(time));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::Listed;
    use super::super::decode::objects;
    use super::super::runs::StateType;
    use super::super::url;
    use super::*;

    /// Any JSON, with the names of fields that are read.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            Just(json!("2026-06-01T10:00:00Z")),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            let names = prop::sample::select(vec![
                "id",
                "name",
                "tags",
                "state",
                "state_type",
                "state_id",
                "end_time",
                "start_time",
                "timestamp",
                "type",
                "states",
                "count_runs",
                "run_count",
                "total_run_time",
            ]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((names, inner), 0..6).prop_map(|fields| {
                    let fields = fields.into_iter();
                    Value::Object(
                        fields
                            .map(|(name, value)| (name.to_owned(), value))
                            .collect(),
                    )
                }),
            ]
        })
    }

    fn timestamp() -> impl Strategy<Value = Timestamp> {
        let range = Timestamp::MIN.as_microsecond()..=Timestamp::MAX.as_microsecond();
        range.prop_map(|micros| Timestamp::from_microsecond(micros).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_bytes_are_an_answer_or_an_error(body in prop::collection::vec(any::<u8>(), 0..400)) {
            answers(&body);
        }

        #[test]
        fn any_json_is_an_answer_or_an_error(body in any_json()) {
            answers(body.to_string().as_bytes());
            answers(json!([body, body]).to_string().as_bytes());
        }

        /// The name of a work pool cannot change which path of which server is requested.
        #[test]
        fn a_name_stays_one_segment_of_the_path(name in "\\PC{1,20}") {
            // No URL can contain these segments.
            prop_assume!(name != "." && name != "..");
            let base = reqwest::Url::parse("http://host:4200/base/api").unwrap();
            let request = Request::Workers {
                pool: Arc::from(name.as_str()),
                since: Timestamp::UNIX_EPOCH,
                page: PAGE,
            };
            let url = url(&base, &request.call());
            prop_assert_eq!(url.origin().ascii_serialization(), "http://host:4200");
            prop_assert!(url.query().is_none() && url.fragment().is_none());
            let segments: Vec<_> = url.path().split('/').collect();
            let ["", "base", "api", "work_pools", pool, "workers", "filter"] = segments[..] else {
                panic!("{url}");
            };
            let pool = percent_encoding::percent_decode_str(pool).decode_utf8().unwrap();
            prop_assert_eq!(pool, name);
        }

        /// One object that cannot be read takes no other with it.
        #[test]
        fn objects_that_can_be_read_are_used_whatever_is_between_them(
            between in prop::collection::vec(any_json(), 0..4),
        ) {
            let mut list = vec![json!({"id": "first"})];
            let strange = between.iter().enumerate();
            list.extend(strange.map(|(number, value)| {
                json!({"id": format!("strange-{number}"), "start_time": value})
            }));
            list.push(json!({"id": "last"}));
            let listed: Listed<FlowRun> = objects(json!(list).to_string().as_bytes(), 6).unwrap();
            let ids: Vec<_> = listed.items.iter().map(|run| &*run.id).collect();
            prop_assert_eq!(listed.len(), list.len());
            prop_assert_eq!(ids.first(), Some(&"first"));
            prop_assert_eq!(ids.last(), Some(&"last"));
        }

        #[test]
        fn times_are_read_exactly_with_any_offset(time in timestamp(), minutes in -1_439..=1_439_i32) {
            let offset = jiff::tz::Offset::from_seconds(minutes * 60).unwrap();
            let shown = time.display_with_offset(offset).to_string();
            let run = json!({"id": "r", "start_time": shown, "end_time": time.to_string()});
            let run: FlowRun = serde_json::from_value(run).unwrap();
            prop_assert_eq!(run.start_time, Some(time));
            prop_assert_eq!(run.end_time, Some(time));
        }

        #[test]
        fn the_type_of_a_state_is_known_or_unknown(text in "\\PC{0,12}") {
            let kind: StateType = serde_json::from_value(json!(text)).unwrap();
            let known = kind != StateType::Unknown;
            prop_assert_eq!(known, kind.as_str() == text && text != "UNKNOWN");
        }

        #[test]
        fn any_text_can_be_a_header(text in "\\PC{0,40}", date in "\\PC{0,40}") {
            headers(format!("{text}\n{date}").as_bytes());
        }

        #[test]
        fn seconds_and_dates_mean_the_same_wait(now in 0..4_000_000_000_u64, wait in any::<u32>()) {
            let at = |second| {
                let time = std::time::UNIX_EPOCH + Duration::from_secs(second);
                httpdate::fmt_http_date(time)
            };
            let until = now + u64::from(wait);
            let read = Duration::from_secs(u64::from(wait)).min(retry_after::LONGEST);
            let read = Some(read);
            prop_assert_eq!(retry_after::wait(&wait.to_string(), Some(&at(now))), read);
            prop_assert_eq!(retry_after::wait(&at(until), Some(&at(now))), read);
            // A date in the past is no wait.
            prop_assert_eq!(retry_after::wait(&at(now), Some(&at(until))), Some(Duration::ZERO));
        }
    }
}
