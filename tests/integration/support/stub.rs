//! A stand-in for a Prefect server, for faults and scale. It plays objects and errors that
//! were recorded from a real one (`tests/fixtures/record`), and answers the filters that the
//! agent sends as the real one does.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
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

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    /// Objects in the answer, where it was a list.
    pub(crate) listed: Option<usize>,
    /// Bytes of the answer, where it was not a fault.
    pub(crate) bytes: usize,
}

type Fault = Box<dyn FnMut(&Request) -> Option<Response> + Send>;
type Change = Box<dyn FnMut(&mut Vec<Value>) + Send>;

/// What the server has and what was asked of it.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) deployments: Vec<Value>,
    pub(crate) flows: Vec<Value>,
    pub(crate) work_pools: Vec<Value>,
    pub(crate) work_queues: Vec<Value>,
    pub(crate) flow_runs: Vec<Value>,
    pub(crate) task_runs: Vec<Value>,
    pub(crate) workers: Vec<Value>,
    /// Former states of a run by its id, the oldest first.
    pub(crate) states: std::collections::HashMap<String, Vec<Value>>,
    pub(crate) requests: Vec<Request>,
    /// Answers in place of the server, where it wants to.
    pub(crate) fault: Option<Fault>,
    /// How far the server's clock is behind.
    pub(crate) clock_behind: jiff::SignedDuration,
    /// Runs after each answered page of flow runs.
    pub(crate) after_page: Option<Change>,
}

impl Contents {
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

/// The server. It ends with the test's runtime.
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

    /// Over any listener, TLS say.
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

    /// Answers in place of the server from now on, where `fault` gives something.
    pub(crate) fn fault(&self, fault: impl FnMut(&Request) -> Option<Response> + Send + 'static) {
        self.contents().fault = Some(Box::new(fault));
    }

    /// Answers again.
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
        path: uri.path().trim_start_matches("/api").to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        listed: None,
        bytes: 0,
    };
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
    contents.requests.push(request);
    let date = std::time::SystemTime::from(Timestamp::now() - contents.clock_behind);
    let date = httpdate::fmt_http_date(date).parse().unwrap();
    answer.headers_mut().insert(axum::http::header::DATE, date);
    answer
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
            let limit = request.body["limit"].as_u64().unwrap_or(200) as usize;
            if limit > 200 {
                return Err(Box::new(recorded_error("error_limit")));
            }
            let offset = request.body["offset"].as_u64().unwrap_or(0) as usize;
            Ok(items
                .into_iter()
                .skip(offset)
                .take(limit)
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

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str().map(|text| text.parse().unwrap())
}

/// A condition of a filter.
type Condition<'a> = Box<dyn Fn(&Value) -> bool + 'a>;

/// The conditions of `filter`, by the server's rules, the cheapest first. A condition that the
/// stub does not know fails the test.
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
        for (name, bound) in condition {
            all.push(match name.as_str() {
                "any_" | "not_any_" => one_of(&filter[field], move |item| &item[field]),
                "is_null_" => {
                    let is_null = bound.as_bool().unwrap();
                    Box::new(move |item| item[field].is_null() == is_null)
                }
                "after_" | "before_" => {
                    let (bound, after) = (time(bound), name == "after_");
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

/// An answer with a body that nobody expects.
pub(crate) fn garbage(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, body.into()).into_response()
}
