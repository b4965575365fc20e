//! Whether everything that the agent reads from Prefect can be read.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};

use super::PATIENCE;
use super::areas::{Area, Tried, areas, bounded, name};
use super::report::{Line, Report};
use crate::core::sections::Section;
use crate::core::version;
use crate::metrics::Options;
use crate::prefect::request::{FlowRunFilter, Order};
use crate::prefect::{Answer, Client, Error, Reply, Request, RequestObserver, RequestRecord};
use crate::settings::{Credentials, Prefect, Settings};

/// Tolerance for clock differences: `Date` only has whole seconds, and the answer takes time.
const SAME_TIME: SignedDuration = SignedDuration::from_secs(3);

/// The checks in this file, in order.
const CHECKS: [&str; 5] = ["Prefect", "version", "permissions", "clock", "page size"];

/// Measures nothing.
struct Unobserved;

impl RequestObserver for Unobserved {
    fn on_request(&self, _: &RequestRecord<'_>) {}
}

/// The information in the first answer.
struct First {
    version: Option<Arc<str>>,
    dated: Option<Dated>,
    took: Duration,
}

/// The server's date, when the request was sent, and how long it took.
type Dated = (Timestamp, Timestamp, Duration);

pub(super) async fn check<W: Write>(
    settings: &Settings,
    options: &Options,
    report: &mut Report<W>,
) -> io::Result<()> {
    let url = settings.prefect.api_url.as_str();
    let short = Prefect {
        max_retries: 0,
        request_timeout: settings.prefect.request_timeout.min(PATIENCE),
        ..settings.prefect.clone()
    };
    let client = match Client::new(&short, Arc::new(Unobserved)) {
        Ok(client) => client,
        Err(error) => return stop(report, failed("Prefect", &error)),
    };
    let first = match first(&client).await {
        Ok(first) => first,
        Err(error) => {
            let line = failed("Prefect", &error);
            return stop(report, line.hint_if(better_hint(&short, &error).await));
        }
    };
    if let Some(error) = first.version.as_deref().and_then(version::unsupported) {
        report.add(first.line(url))?;
        return stop(report, failed("version", &error));
    }
    let results = match read(&client, areas(options)).await {
        Ok(results) => results,
        Err(line) => return stop(report, line),
    };
    report.add(first.line(url))?;
    report.add(version_line(first.version.as_deref()))?;
    let reads_runs = permissions(&results, report)?;
    report.add(clock(first.dated, &results))?;
    report.add(match reads_runs {
        true => page_size(&client, settings.prefect.pagination_limit).await,
        false => Line::skipped("page size", "flow runs cannot be read"),
    })
}

/// Adds a line that fails, and skips the checks after it.
fn stop<W: Write>(report: &mut Report<W>, line: Line) -> io::Result<()> {
    let failed = line.check;
    let after = CHECKS.iter().skip_while(|name| **name != failed);
    let since = format!("the check {failed} failed");
    report.add(line)?;
    for name in after.skip(1) {
        report.add(Line::skipped(name, &since))?;
    }
    Ok(())
}

/// Asks for the version, which needs no database.
async fn first(client: &Client) -> Result<First, Error> {
    let (began, sent) = (Instant::now(), Timestamp::now());
    let answer = bounded(client.execute(&Request::Version)).await;
    let took = began.elapsed();
    match answer {
        Ok(Reply { answer, date }) => Ok(First {
            version: match answer {
                Answer::Version(version) => Some(version),
                _ => None,
            },
            dated: date.map(|date| (date, sent, took)),
            took,
        }),
        // Prefect Cloud does not report its version, and a key may lack the permission: whether the
        // lists can be read decides.
        Err(Error::Status {
            status: 403..=405, ..
        }) => Ok(First {
            version: None,
            dated: None,
            took,
        }),
        Err(error) => Err(error),
    }
}

/// A more specific hint for an error, derived from the settings.
async fn better_hint(settings: &Prefect, error: &Error) -> Option<String> {
    if let Error::Status { status: 401, .. } = error {
        let hint = match &settings.authentication.credentials {
            Credentials::None => {
                "set PREFECT_API_KEY (Prefect Cloud), or PREFECT_API_AUTH_STRING to the server's user:password"
            }
            Credentials::Bearer(_) => {
                "PREFECT_API_KEY was rejected: create a new key; a self-hosted server uses PREFECT_API_AUTH_STRING instead"
            }
            Credentials::Basic { .. } => {
                "PREFECT_API_AUTH_STRING was rejected: set it to the PREFECT_SERVER_API_AUTH_STRING of the server"
            }
        };
        return Some(hint.to_owned());
    }
    if !error.is_not_prefect() || settings.api_url.path().contains("/api") {
        return None;
    }
    // The most common mistake is to use the address of the user interface.
    let mut api_url = settings.api_url.clone();
    api_url.set_path(&format!("{}/api", api_url.path().trim_end_matches('/')));
    let there = Prefect {
        api_url: api_url.clone(),
        ..settings.clone()
    };
    let client = Client::new(&there, Arc::new(Unobserved)).ok()?;
    let answer = first(&client).await.ok()?;
    answer.version?;
    Some(format!(
        "the API is at {api_url}: set PREFECT_API_URL to this URL"
    ))
}

impl First {
    fn line(&self, url: &str) -> Line {
        let name = match &self.version {
            Some(version) => format!("Prefect {version}"),
            None => "an API without a version, such as Prefect Cloud,".to_owned(),
        };
        let milliseconds = self.took.as_millis();
        let detail = format!("{name} at {url} answers in {milliseconds} ms");
        Line::ok("Prefect", detail)
    }
}

/// Sends a request to each part of the API.
async fn read(client: &Client, areas: Vec<Area>) -> Result<Vec<Tried>, Line> {
    let asked = areas.iter().map(|area| area.try_it(client));
    let results = join_all(asked).await;
    match not_prefect(&results) {
        Some(error) => Err(failed("Prefect", error)),
        None => Ok(results),
    }
}

fn failed(what: &'static str, error: &Error) -> Line {
    Line::fail(what, error.problem()).hint_if(hint(error))
}

/// What to do about an error. A timeout is that of this command, whatever the settings allow.
fn hint(error: &Error) -> Option<Cow<'static, str>> {
    match error.kind().as_ref() {
        "timeout" | "deadline" => Some(Cow::Owned(format!(
            "the server accepted the request, but did not answer within {} s: is it overloaded, or is another program listening there?",
            PATIENCE.as_secs()
        ))),
        _ => error.hint(),
    }
}

/// The error if none of the core lists, which every server has, can be read.
fn not_prefect(results: &[Tried]) -> Option<&Error> {
    let lists = results.iter().filter(|tried| tried.section.matters());
    let errors: Option<Vec<_>> = lists.map(|tried| tried.answer.as_ref().err()).collect();
    let errors = errors?;
    let wrong = |error: &&&Error| error.is_not_prefect() || error.concerns_whole_server();
    errors.iter().find(wrong).copied()
}

fn version_line(version: Option<&str>) -> Line {
    let Some(version) = version else {
        let detail = "not reported; Prefect Cloud is always recent enough";
        return Line::ok("version", detail);
    };
    if version::is_newer_than_tested(version) {
        let detail = format!("{version} is newer than the versions that this agent is tested with");
        return Line::warn("version", detail)
            .hint("the agent reads what it can; see whether there is a newer prefect-otel-agent");
    }
    let missing = version::missing(version);
    match missing.is_empty() {
        true => Line::ok(
            "version",
            format!("{version} has everything that the agent reads"),
        ),
        false => Line::warn("version", format!("{version} lacks {}", missing.join("; ")))
            .hint("the other metrics are complete"),
    }
}

/// One line for each part of the API that cannot be read, and one for all the others. Returns
/// whether flow runs can be read.
fn permissions<W: Write>(results: &[Tried], report: &mut Report<W>) -> io::Result<bool> {
    let mut refused: Vec<(&str, Line)> = Vec::new();
    let has = |lines: &[(&str, Line)], name| lines.iter().any(|(other, _)| *other == name);
    for tried in results {
        let name = name(tried.section);
        if let Some(line) = refusal(tried).filter(|_| !has(&refused, name)) {
            refused.push((name, line));
        }
    }
    let names = results.iter().map(|tried| name(tried.section));
    let mut readable: Vec<_> = names.filter(|name| !has(&refused, name)).collect();
    readable.dedup();
    let runs = name(Section::ActiveRuns);
    let reads_runs = readable.contains(&runs);
    for (_, line) in refused {
        report.add(line)?;
    }
    if !readable.is_empty() {
        let detail = format!("can read {}", readable.join(", "));
        report.add(Line::ok("permissions", detail))?;
    }
    Ok(reads_runs)
}

/// The line for a part of the API that cannot be read.
fn refusal(tried: &Tried) -> Option<Line> {
    let name = name(tried.section);
    let error = tried.answer.as_ref().err()?;
    // Servers before 3.6.22 do not have this filter, and the agent does not need it.
    if error.is_refused() && tried.section == Section::TaskRuns {
        return None;
    }
    // An older server: the agent leaves out the metrics that need this list.
    if error.is_not_found() && !tried.section.matters() {
        let detail = format!("{name}: not available on this server");
        return Some(Line::warn("permissions", detail).hint(error.problem()));
    }
    let line = Line::fail("permissions", format!("{name}: {}", error.problem()));
    Some(match error {
        Error::Status { status: 403, .. } => line.hint(format!(
            "the key needs the permission to view {name}; in Prefect Cloud, the workspace role Viewer has it"
        )),
        _ => line.hint_if(hint(error)),
    })
}

/// Compares the server's clock with this machine's, using an answer that has a date.
fn clock(dated: Option<Dated>, results: &[Tried]) -> Line {
    let mut others = results.iter().filter_map(|tried| {
        let date = tried.answer.as_ref().ok()?.date?;
        Some((date, tried.sent, tried.took))
    });
    let Some((date, sent, took)) = dated.or_else(|| others.next()) else {
        return Line::ok(
            "clock",
            "the server does not report its time; this machine's is used",
        );
    };
    let half = SignedDuration::try_from(took.mul_f64(0.5)).unwrap_or_default();
    let ahead = date.duration_since(sent).saturating_sub(half);
    let tolerated = SAME_TIME.saturating_add(SignedDuration::try_from(took).unwrap_or_default());
    if ahead.abs() <= tolerated {
        return Line::ok("clock", "the server's clock agrees with this machine's");
    }
    let (seconds, side) = (
        ahead.abs().as_secs(),
        if ahead.is_positive() {
            "ahead of"
        } else {
            "behind"
        },
    );
    let detail = format!("the server's clock is {seconds} s {side} this machine's");
    Line::warn("clock", detail).hint("synchronize both clocks (NTP): the agent uses the server's clock for runs, and this machine's clock for the timestamps of data points")
}

async fn page_size(client: &Client, wanted: usize) -> Line {
    // The list of ids is empty, so the answer is an empty page, whatever the limit.
    let request = Request::FlowRuns {
        filter: FlowRunFilter::of_ids([]),
        order: Order::Id,
        limit: wanted,
    };
    match bounded(client.execute(&request)).await {
        Ok(_) => Line::ok("page size", format!("{wanted} objects per page")),
        Err(error) => match error.page_limit() {
            Some(limit) => {
                let detail = format!(
                    "the server allows {limit} objects per page, fewer than PAGINATION_LIMIT ({wanted}); the agent uses {limit}"
                );
                Line::ok("page size", detail)
            }
            None => failed("page size", &error),
        },
    }
}
