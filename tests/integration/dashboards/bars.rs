//! Bars: the counts of a panel add up to the number of events.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::json::{Panel, dashboards, none};
use super::queries::{Query, Selector, catalogue};
use super::shown::{Look, now, packages, show};
use super::workspace::of_deployment;
use crate::support::programs::{Prometheus, programs};
use crate::support::stack::with_history;

/// Seconds between two scrapes, as in prometheus.yml.
const SCRAPE: u64 = 15;
const HALF_AN_HOUR: u64 = 1_800;
const SIX_HOURS: u64 = 21_600;

/// Panels that count events for each interval.
fn counts(panel: Panel<'_>) -> bool {
    let counter = |text: &str| text.contains("_total{");
    panel.has_bars() && panel.expressions().any(counter)
}

/// The series of a counter: one for each of some values of the label that splits the bars.
fn series(metric: &str, labels: &BTreeSet<String>) -> Vec<String> {
    let split = ["state_type", "outcome", "exporter"];
    let values: &[&str] = match labels {
        labels if labels.contains("state_type") => &["COMPLETED", "FAILED", "CRASHED"],
        labels if labels.contains("outcome") => &["success", "failure", "partial"],
        _ => &["one"],
    };
    let of = |value: &&str| {
        let job = match metric.starts_with("numbers_") {
            true => "numbers",
            false => "prefect-otel-agent",
        };
        let mut text = format!("{metric}{{job={job:?},instance=\"one\"");
        for label in labels {
            let value = if split.contains(&label.as_str()) {
                *value
            } else {
                "one"
            };
            write!(text, ",{label}={value:?}").unwrap();
        }
        text + "}"
    };
    values.iter().map(of).collect()
}

/// Hours of scrapes of these counters, with events at random times, about two hundred per counter
/// in half an hour. `scraped` returns whether there is a scrape at a time, in seconds before the
/// end.
fn history(metrics: &BTreeSet<String>, end: u64, scraped: fn(u64) -> bool) -> String {
    let known = catalogue();
    let mut random = fastrand::Rng::with_seed(186);
    let mut text = String::new();
    for metric in metrics {
        let labels = known.get(metric).cloned().unwrap_or_default();
        let family = metric.strip_suffix("_total").unwrap();
        writeln!(text, "# TYPE {family} counter").unwrap();
        let all = series(metric, &labels);
        for series in &all {
            let mut value = 0;
            // Not aligned with the steps of the panel.
            let mut time = end - SIX_HOURS - 3_600 + 7;
            while time <= end {
                let likely = 200.0 / (HALF_AN_HOUR / SCRAPE) as f64 / all.len() as f64;
                value += (0..4).filter(|_| random.f64() < likely / 4.0).count();
                if scraped(end - time) {
                    writeln!(text, "{series} {value} {time}").unwrap();
                }
                time += SCRAPE;
            }
        }
    }
    text + "# EOF\n"
}

/// The true increase of the counters in a query.
fn truth(prometheus: &Prometheus, selector: &Selector, from: u64, to: u64) -> f64 {
    let constant = selector
        .matchers
        .iter()
        .filter(|(_, _, value)| !value.contains('$'));
    let matchers: Vec<String> = constant
        .map(|(name, operator, value)| format!("{name}{operator}{value:?}"))
        .collect();
    let at = |time: u64| format!("sum({{{}}} @ {time})", matchers.join(","));
    let value = |time| prometheus.value(&at(time)).unwrap_or(0.0);
    value(to) - value(from)
}

#[test]
fn bars_add_up_to_what_happened() {
    add_up("bars_add_up_to_what_happened", |_| true);
}

/// Every hour, nothing arrives for ten minutes, each time starting at another second of a minute.
#[test]
fn bars_include_events_that_are_caught_up_after_an_outage() {
    let scraped = |before: u64| {
        let shifted = before + before / 3_600 * 11;
        !(600..1_200).contains(&(shifted % 3_600))
    };
    add_up(
        "bars_include_events_that_are_caught_up_after_an_outage",
        scraped,
    );
}

fn add_up(test: &str, scraped: fn(u64) -> bool) {
    let (Some(programs), Some(packages)) = (programs(test), packages(test)) else {
        return;
    };
    let parser = Prometheus::scraping(&programs, &[]);
    let all = dashboards();
    let counting = all
        .iter()
        .flat_map(|one| one.panels())
        .filter(|panel| counts(*panel));
    let metrics: BTreeSet<String> = counting
        .flat_map(|panel| Query::of(&parser, panel))
        .flat_map(|query| query.selectors())
        .map(|selector| selector.metric)
        .filter(|metric| metric.ends_with("_total"))
        .collect();
    assert!(metrics.len() > 3, "{metrics:?}");
    // A full minute, so that the last bar is complete.
    let end = now() as u64 / 60 * 60;
    let prometheus = with_history(&programs, &history(&metrics, end, scraped));
    let mut wrong = Vec::new();
    for range in [HALF_AN_HOUR, SIX_HOURS] {
        let looks: Vec<Look> = { all.iter() }
            .map(|dashboard| {
                let mut look = of_deployment(&dashboard.file, "one", "one");
                (look.range, look.to) = (range, Some(end));
                look
            })
            .collect();
        for (dashboard, shown) in all.iter().zip(show(&packages, &prometheus, &looks)) {
            for panel in dashboard.panels().filter(|panel| counts(*panel)) {
                let shown = shown.panel(panel);
                let values = shown.series.iter().flat_map(|series| &series.values);
                let bars: f64 = values.filter_map(serde_json::Value::as_f64).sum();
                // The first bar is of the interval before the range.
                let step = shown.step as u64;
                let (from, to) = ((end - range) / step * step - step, end / step * step);
                let queries = Query::of(&parser, panel);
                let selectors = queries.iter().filter_map(|query| {
                    let mut counters = query.over_time().into_iter();
                    counters.find(|selector| metrics.contains(&selector.metric))
                });
                let happened: f64 = selectors
                    .map(|selector| truth(&prometheus, &selector, from, to))
                    .sum();
                if happened < 50.0 || (bars - happened).abs() > 0.5 {
                    wrong.push(format!(
                        "{}: {happened} in {} minutes, bars add up to {bars:.1}",
                        panel.identity(),
                        range / 60
                    ));
                }
            }
        }
    }
    none(wrong);
}
