//! A stub of a Prefect server, for faults and large fleets. It serves objects and errors that were
//! recorded from a real server (`tests/fixtures/record`), and supports the filters that the agent
//! sends.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, DATE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// A recorded answer.
pub(crate) fn recorded(name: &str) -> Value {
    static READ: Mutex<BTreeMap<String, Value>> = Mutex::new(BTreeMap::new());
    let read = || {
        let path = format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let mut all = READ.lock().unwrap();
    all.entry(name.to_owned()).or_insert_with(read).clone()
}

/// A recorded error as an answer.
pub(crate) fn recorded_error(name: &str) -> Response {
    let error = recorded(name);
    let status = StatusCode::from_u16(error["status"].as_u64().unwrap() as u16).unwrap();
    (status, axum::Json(error["body"].clone())).into_response()
}

/// The recorded answer to a request for too large a page, from a server that allows `largest`
/// objects.
fn limit_error(largest: u64) -> Response {
    let mut error = recorded("error_limit");
    let detail = error["body"]["detail"].as_str().unwrap();
    error["body"]["detail"] = json!(detail.replace("200", &largest.to_string()));
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    (status, axum::Json(error["body"].take())).into_response()
}

/// A request as received.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    /// The number of objects in the answer, if it was a list.
    pub(crate) listed: Option<usize>,
    /// The size of the answer in bytes, if it was not a fault.
    pub(crate) bytes: usize,
}

type Fault = Box<dyn FnMut(&Request) -> Option<Response> + Send>;
type Change = Box<dyn FnMut(&mut Vec<Value>) + Send>;
type Clock = Box<dyn FnMut(&Request) -> SignedDuration + Send>;

/// The content of the server, and the requests so far.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) deployments: Vec<Value>,
    pub(crate) flows: Vec<Value>,
    pub(crate) work_pools: Vec<Value>,
    pub(crate) work_queues: Vec<Value>,
    pub(crate) flow_runs: Vec<Value>,
    pub(crate) task_runs: Vec<Value>,
    pub(crate) workers: Vec<Value>,
    /// Earlier states of runs by run id, the oldest first.
    pub(crate) states: std::collections::HashMap<String, Vec<Value>>,
    pub(crate) requests: Vec<Request>,
    /// A fault, which can replace answers.
    pub(crate) fault: Option<Fault>,
    /// How far the server's clock is behind.
    pub(crate) clock_behind: SignedDuration,
    /// How far the clock of the answering server is ahead, per request.
    pub(crate) clock: Option<Clock>,
    /// How long each answer takes.
    pub(crate) delay: std::time::Duration,
    /// The maximum number of objects per page, if it is not 200.
    pub(crate) page_limit: Option<u64>,
    /// Runs after each answered page of flow runs.
    pub(crate) after_page: Option<Change>,
}

impl Contents {
    /// Sets the status of the only worker, and that of its pool as a server does.
    pub(crate) fn set_worker_status(&mut self, status: &str) {
        let [worker] = self.workers.as_mut_slice() else {
            panic!("one worker is expected");
        };
        worker["status"] = json!(status);
        let mut pools = self.work_pools.iter_mut();
        let pool = pools.find(|pool| pool["name"] == worker["work_pool"]);
        let pool = pool.unwrap();
        let ready = if status == "OFFLINE" {
            "NOT_READY"
        } else {
            "READY"
        };
        pool["status"] = json!(ready);
        pool["updated"] = json!(jiff::Timestamp::now().to_string());
    }

    fn list(&self, name: &str) -> Option<&Vec<Value>> {
        Some(match name {
            "deployments" => &self.deployments,
            "flows" => &self.flows,
            "work_pools" => &self.work_pools,
            "work_queues" => &self.work_queues,
            "flow_runs" => &self.flow_runs,
            "task_runs" => &self.task_runs,
            _ => return None,
        })
    }
}

/// The server. It stops with the test's runtime.
#[derive(Clone)]
pub(crate) struct Stub {
    contents: Arc<Mutex<Contents>>,
    pub(crate) url: String,
}

impl Stub {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        Stub::on(listener)
    }

    pub(crate) fn on(listener: tokio::net::TcpListener) -> Self {
        let url = format!("http://{}/api", listener.local_addr().unwrap());
        Stub::at(url, listener)
    }

    /// Starts it on any listener, such as TLS.
    pub(crate) fn at<L: axum::serve::Listener<Addr: std::fmt::Debug>>(
        url: String,
        listener: L,
    ) -> Self {
        let stub = Stub {
            contents: Arc::default(),
            url,
        };
        let router = Router::new().fallback(answer).with_state(stub.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        stub
    }

    pub(crate) fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap()
    }

    /// From now on, answers with the result of `fault`, if there is one.
    pub(crate) fn fault(&self, fault: impl FnMut(&Request) -> Option<Response> + Send + 'static) {
        self.contents().fault = Some(Box::new(fault));
    }

    /// Removes the fault.
    pub(crate) fn heal(&self) {
        self.contents().fault = None;
    }

    /// The requests since the last call.
    pub(crate) fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.contents().requests)
    }
}

async fn answer(
    State(stub): State<Stub>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut request = Request {
        path: percent_encoding::percent_decode_str(uri.path())
            .decode_utf8()
            .unwrap()
            .trim_start_matches("/api")
            .to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        listed: None,
        bytes: 0,
    };
    let delay = stub.contents().delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let mut contents = stub.contents();
    let fault = contents.fault.as_mut().and_then(|fault| fault(&request));
    let mut answer = match fault {
        Some(answer) => answer,
        None => match respond(&contents, &method, &request) {
            Ok(value) => {
                request.listed = value.as_array().map(Vec::len);
                let text = value.to_string();
                request.bytes = text.len();
                ([(CONTENT_TYPE, "application/json")], text).into_response()
            }
            Err(answer) => *answer,
        },
    };
    if request.path == "/flow_runs/filter"
        && let Some(mut after_page) = contents.after_page.take()
    {
        after_page(&mut contents.flow_runs);
        contents.after_page = Some(after_page);
    }
    let ahead = contents.clock.as_mut().map(|clock| clock(&request));
    contents.requests.push(request);
    // A fault may set its own date.
    if !answer.headers().contains_key(DATE) {
        let behind = contents.clock_behind - ahead.unwrap_or_default();
        let date = http_date(Timestamp::now() - behind).parse().unwrap();
        answer.headers_mut().insert(DATE, date);
    }
    answer
}

/// A time in the format of `Date`.
pub(crate) fn http_date(time: Timestamp) -> String {
    httpdate::fmt_http_date(time.into())
}

fn respond(
    contents: &Contents,
    method: &Method,
    request: &Request,
) -> Result<Value, Box<Response>> {
    let missing = || Box::new(StatusCode::NOT_FOUND.into_response());
    let mut parts = request.path.trim_matches('/').split('/');
    let (name, call) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    match (method.as_str(), name, call) {
        ("GET", "admin", "version") => Ok(recorded("version")),
        ("GET", "csrf-token", "") => Err(Box::new(recorded_error("error_csrf_disabled"))),
        ("GET", "flow_run_states", _) => {
            let run = request.query.strip_prefix("flow_run_id=").unwrap();
            Ok(json!(contents.states.get(run).cloned().unwrap_or_default()))
        }
        ("POST", "v2", "concurrency_limits") => Ok(recorded("global_limits")),
        ("POST", "concurrency_limits", "filter") => Ok(recorded("tag_limits")),
        ("POST", "automations", "filter") => Ok(recorded("automations")),
        ("POST", "flow_runs", "history") => Ok(recorded("flow_run_history")),
        ("POST", "work_pools", pool) if request.path.ends_with("/workers/filter") => {
            let of_pool = |worker: &&Value| worker["work_pool"] == pool;
            Ok(contents.workers.iter().filter(of_pool).cloned().collect())
        }
        ("POST", _, "filter" | "count") => {
            let items = contents.list(name).ok_or_else(missing)?;
            let conditions = conditions(&request.body[name]);
            let fits = |item: &&Value| conditions.iter().all(|condition| condition(item));
            let mut items: Vec<&Value> = items.iter().filter(fits).collect();
            if call == "count" {
                // The real server counts everything but work queues.
                return if name == "work_queues" {
                    Err(missing())
                } else {
                    Ok(json!(items.len()))
                };
            }
            sort(&mut items, request.body["sort"].as_str());
            let largest = contents.page_limit.unwrap_or(200);
            let limit = request.body["limit"].as_u64().unwrap_or(largest);
            if limit > largest {
                return Err(Box::new(limit_error(largest)));
            }
            let offset = request.body["offset"].as_u64().unwrap_or(0) as usize;
            Ok(items
                .into_iter()
                .skip(offset)
                .take(limit as usize)
                .cloned()
                .collect())
        }
        _ => Err(missing()),
    }
}

fn sort(items: &mut [&Value], order: Option<&str>) {
    match order {
        Some("ID_DESC") => items.sort_by(|a, b| b["id"].as_str().cmp(&a["id"].as_str())),
        Some("END_TIME_DESC") => {
            items.sort_by_cached_key(|item| std::cmp::Reverse(time(&item["end_time"])))
        }
        Some("START_TIME_DESC") => {
            items.sort_by_cached_key(|item| std::cmp::Reverse(time(started_or_expected(item))))
        }
        Some("EXPECTED_START_TIME_ASC") => {
            items.sort_by_cached_key(|item| time(&item["expected_start_time"]))
        }
        Some(other) => panic!("the stub does not know the order {other}"),
        None => {}
    }
}

/// The time of an object; invalid times come after all others.
fn time(value: &Value) -> Option<Timestamp> {
    value
        .as_str()
        .map(|text| text.parse().unwrap_or(Timestamp::MAX))
}

/// The time in a filter.
fn bound(value: &Value) -> Option<Timestamp> {
    value.as_str().map(|text| text.parse().unwrap())
}

/// A condition of a filter.
type Condition<'a> = Box<dyn Fn(&Value) -> bool + 'a>;

/// The conditions of `filter`, by the server's rules, the cheapest first. An unknown condition
/// fails the test.
fn conditions(filter: &Value) -> Vec<Condition<'_>> {
    let Some(filter) = filter.as_object() else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for (field, condition) in filter {
        let condition = condition.as_object().unwrap();
        if field == "state" {
            for (part, condition) in condition {
                all.insert(
                    0,
                    one_of(condition, move |item| &item[format!("state_{part}")]),
                );
            }
            continue;
        }
        let value = move |item: &'_ Value| -> Value {
            match field.as_str() {
                "start_time" => started_or_expected(item).clone(),
                field => item[field].clone(),
            }
        };
        for (name, operand) in condition {
            all.push(match name.as_str() {
                "any_" | "not_any_" => one_of(&filter[field], move |item| &item[field]),
                "is_null_" => {
                    let is_null = operand.as_bool().unwrap();
                    Box::new(move |item| item[field].is_null() == is_null)
                }
                "after_" | "before_" => {
                    let (bound, after) = (bound(operand), name == "after_");
                    Box::new(move |item| {
                        time(&value(item)).is_some_and(|value| match after {
                            true => Some(value) >= bound,
                            false => Some(value) <= bound,
                        })
                    })
                }
                other => panic!("the stub does not know the condition {other}"),
            });
        }
    }
    all
}

fn one_of<'a>(condition: &'a Value, value: impl Fn(&Value) -> &Value + 'a) -> Condition<'a> {
    let texts = |list: &'a Value| -> Option<HashSet<&'a str>> {
        let list = list.as_array()?;
        Some(list.iter().map(|text| text.as_str().unwrap()).collect())
    };
    let (any, not_any) = (texts(&condition["any_"]), texts(&condition["not_any_"]));
    Box::new(move |item| {
        let Some(text) = value(item).as_str() else {
            return false;
        };
        any.as_ref().is_none_or(|any| any.contains(text))
            && !not_any
                .as_ref()
                .is_some_and(|not_any| not_any.contains(text))
    })
}

/// The server compares coalesce(start_time, expected_start_time).
fn started_or_expected(item: &Value) -> &Value {
    match item["start_time"].is_null() {
        true => &item["expected_start_time"],
        false => &item["start_time"],
    }
}

/// An answer with an unexpected body.
pub(crate) fn garbage(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, body.into()).into_response()
}
