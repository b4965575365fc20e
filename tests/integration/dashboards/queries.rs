//! The queries of the dashboards, parsed by the real Prometheus.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::json::Panel;
use crate::support::programs::Prometheus;
use crate::support::stack::project_text;

/// A selector in a query.
#[derive(Debug, Clone)]
pub(super) struct Selector {
    pub(super) metric: String,
    /// Label, operator and value of each matcher. The value still contains the dashboard's
    /// variables.
    pub(super) matchers: Vec<(String, String, String)>,
}

impl Selector {
    /// Whether it is a condition that Prefect, or a section, is being read, instead of the data of
    /// the panel.
    pub(super) fn is_condition(&self) -> bool {
        let of_one_section = { self.matchers.iter() }.any(|(name, ..)| name == "section");
        self.metric == "prefect_up"
            || self.metric == "prefect_agent_section_age_seconds" && of_one_section
    }

    /// Whether `label` is matched with the variable `variable`.
    pub(super) fn uses(&self, label: &str, variable: &str) -> bool {
        let named = |value: &str| {
            value == format!("${variable}") || value.starts_with(&format!("${{{variable}"))
        };
        { self.matchers.iter() }.any(|(name, _, value)| name == label && named(value))
    }
}

/// A query as a tree.
pub(super) struct Query(Value);

/// Grafana's variables for durations, with example values.
const DURATIONS: [(&str, &str); 6] = [
    ("${__rate_interval}", "61s"),
    ("$__rate_interval", "61s"),
    ("${__interval}", "59s"),
    ("$__interval", "59s"),
    ("$__range_s", "3607"),
    ("$__range", "3607s"),
];

impl Query {
    pub(super) fn parse(prometheus: &Prometheus, expression: &str) -> Self {
        let mut text = expression.to_owned();
        for (variable, duration) in DURATIONS {
            text = text.replace(variable, duration);
        }
        let tree = prometheus.get("/api/v1/parse_query", &[("query", &text)]);
        Query(tree.unwrap_or_else(|error| panic!("{expression}: {error}")))
    }

    /// The queries of a panel.
    pub(super) fn of(prometheus: &Prometheus, panel: Panel<'_>) -> Vec<Self> {
        let expressions = panel.expressions();
        expressions
            .map(|expression| Query::parse(prometheus, expression))
            .collect()
    }

    /// Every node of the tree.
    fn nodes(&self) -> Vec<&Value> {
        nodes(&self.0)
    }

    pub(super) fn selectors(&self) -> Vec<Selector> {
        selectors(self.nodes())
    }

    /// The selectors with a range.
    pub(super) fn over_time(&self) -> Vec<Selector> {
        let nodes = self.nodes().into_iter();
        selectors(
            nodes
                .filter(|node| node["type"] == "matrixSelector")
                .collect(),
        )
    }

    /// The metrics that are not restricted by an `and` with a metric of the agent.
    pub(super) fn not_joined(&self) -> Vec<String> {
        fn restricted(node: &Value, found: &mut BTreeSet<String>) {
            let of_agent = |selector: &Selector| selector.metric.starts_with("prefect_");
            if node["op"] == "and" && selectors(nodes(&node["rhs"])).iter().any(of_agent) {
                let metrics = selectors(nodes(&node["lhs"])).into_iter();
                found.extend(metrics.map(|selector| selector.metric));
            }
        }
        let mut joined = BTreeSet::new();
        self.nodes()
            .iter()
            .for_each(|node| restricted(node, &mut joined));
        let metrics = self.selectors().into_iter().map(|selector| selector.metric);
        metrics.filter(|metric| !joined.contains(metric)).collect()
    }

    /// The labels of each `by (…)` and `on (…)`.
    pub(super) fn groupings(&self) -> Vec<Vec<String>> {
        let labels = |list: &Value| serde_json::from_value(list.clone()).unwrap_or_default();
        let nodes = self.nodes();
        let by = { nodes.iter() }
            .filter(|node| node["type"] == "aggregation" && node["without"] == false)
            // An aggregation over everything does not have rows.
            .filter(|node| node["grouping"].as_array().is_some_and(|by| !by.is_empty()))
            .map(|node| labels(&node["grouping"]));
        let on = { nodes.iter() }
            .filter(|node| node["matching"]["on"] == true)
            .map(|node| labels(&node["matching"]["labels"]));
        by.chain(on).collect()
    }
}

/// Every node of a tree.
fn nodes(tree: &Value) -> Vec<&Value> {
    let mut nodes = Vec::new();
    let mut left = vec![tree];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(fields) => {
                nodes.extend(fields.contains_key("type").then_some(value));
                left.extend(fields.values());
            }
            Value::Array(values) => left.extend(values),
            _ => {}
        }
    }
    nodes
}

fn selectors(nodes: Vec<&Value>) -> Vec<Selector> {
    let of = |node: &Value| {
        let matchers = node["matchers"].as_array()?;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Some(Selector {
            metric: text(&node["name"]),
            matchers: { matchers.iter() }
                .map(|one| (text(&one["name"]), text(&one["type"]), text(&one["value"])))
                .collect(),
        })
    };
    nodes.into_iter().filter_map(of).collect()
}

/// The metrics in docs/metrics.md by Prometheus name, with their labels.
pub(super) fn catalogue() -> BTreeMap<String, BTreeSet<String>> {
    let text = project_text("docs/metrics.md");
    let mut metrics = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let name = cells[0].trim_matches(['`', ' ']);
        let labels: BTreeSet<String> = { cells[4].split('`') }
            .map(|label| label.trim().replace('.', "_"))
            .filter(|label| !label.is_empty())
            .collect();
        let names: &[&str] = match cells[2] {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        for suffix in names {
            metrics.insert(format!("{name}{suffix}"), labels.clone());
        }
    }
    assert!(metrics.len() > 50, "{metrics:?}");
    metrics
}

/// The names of the metrics that currently have a value.
pub(super) fn known_now(prometheus: &Prometheus) -> BTreeSet<String> {
    let answer = prometheus.query("count by (__name__) ({__name__=~\".+\"})");
    { answer.unwrap().into_iter() }
        .map(|(mut labels, _)| labels.remove("__name__").unwrap())
        .collect()
}
