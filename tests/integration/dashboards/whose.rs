//! Every panel follows the variables, and identifies the agent and workspace of each object.
//! Queries are parsed by the real Prometheus.

use std::collections::BTreeSet;

use prefect_otel_agent::metrics::Source;

use super::json::{Panel, dashboards, none, panels_that};
use super::queries::{Query, Selector, catalogue};
use crate::support::programs::{Prometheus, programs};

/// Labels that identify objects. A query that uses one of them has to follow the variables for the
/// others too, with a join if the metric does not have the label.
const NAMED: [&str; 4] = [
    "flow_name",
    "deployment_name",
    "work_pool_name",
    "work_queue_name",
];

#[test]
fn every_panel_follows_the_variables() {
    let Some(programs) = programs("every_panel_follows_the_variables") else {
        return;
    };
    let prometheus = Prometheus::scraping(&programs, &[]);
    let catalogue = catalogue();
    none(panels_that(|dashboard, panel| {
        let mut wrong = BTreeSet::new();
        for query in Query::of(&prometheus, panel) {
            let selectors = query.selectors();
            let has = |selector: &Selector, label: &str| {
                { catalogue.get(&selector.metric) }.is_some_and(|labels| labels.contains(label))
            };
            for (variable, label) in dashboard.variables_of_labels() {
                let asked = { selectors.iter() }.any(|selector| {
                    has(selector, label)
                        || NAMED.contains(&label) && NAMED.iter().any(|other| has(selector, other))
                });
                let own = { selectors.iter() }
                    .filter(|selector| has(selector, label))
                    .all(|selector| selector.uses(label, variable));
                let used = selectors
                    .iter()
                    .any(|selector| selector.uses(label, variable));
                if asked && !(own && used) {
                    let metric = &selectors[0].metric;
                    wrong.insert(format!("a query of {metric} does not follow ${variable}"));
                }
            }
        }
        wrong.into_iter().collect()
    }));
}

/// The labels that distinguish objects with the same name in different workspaces.
/// Whether the series of a metric belong to a workspace, and not to the agent as a whole.
fn is_of_workspace(metric: &str) -> bool {
    let mut families = prefect_otel_agent::metrics::catalogue();
    let of_agent = families.any(|family| {
        let is_of_agent = matches!(family.source, Source::Agent(_));
        is_of_agent && family.prometheus_name() == metric
    });
    metric.starts_with("prefect_") && !of_agent
}

const WHOSE: [(&str, &str); 3] = [
    ("job", "job"),
    ("instance", "instance"),
    ("prefect_workspace", "workspace"),
];

#[test]
fn every_query_selects_job_instance_and_workspace() {
    let Some(programs) = programs("every_query_selects_job_instance_and_workspace") else {
        return;
    };
    let prometheus = Prometheus::scraping(&programs, &[]);
    let catalogue = catalogue();
    none(panels_that(|dashboard, panel| {
        let mut wrong = BTreeSet::new();
        if !dashboard.of_prefect() {
            return Vec::new();
        }
        for selector in Query::of(&prometheus, panel)
            .iter()
            .flat_map(Query::selectors)
        {
            for (label, variable) in WHOSE {
                let metric = &selector.metric;
                let has = label != "prefect_workspace" || is_of_workspace(metric);
                let known = catalogue.contains_key(metric);
                if known && has != selector.uses(label, variable) {
                    let how = if has { "without" } else { "with" };
                    wrong.insert(format!("{metric} {how} {label}=~\"${variable}\""));
                }
            }
        }
        wrong.into_iter().collect()
    }));
}

/// Every instrumented service has metrics about its process and HTTP.
#[test]
fn metrics_that_other_services_also_have_are_restricted_to_agents() {
    let Some(programs) = programs("metrics_that_other_services_also_have_are_restricted_to_agents")
    else {
        return;
    };
    let prometheus = Prometheus::scraping(&programs, &[]);
    let catalogue = catalogue();
    none(panels_that(|dashboard, panel| {
        if !dashboard.of_prefect() {
            return Vec::new();
        }
        let queries = Query::of(&prometheus, panel);
        let shared = |metric: &String| {
            let others = catalogue.contains_key(metric) || metric == "target_info";
            others && !metric.starts_with("prefect_")
        };
        let metrics = queries.iter().flat_map(Query::not_joined).filter(shared);
        metrics
            .map(|metric| format!("{metric} of every service"))
            .collect()
    }));
}

#[test]
fn rows_and_joins_keep_job_instance_and_workspace() {
    let Some(programs) = programs("rows_and_joins_keep_job_instance_and_workspace") else {
        return;
    };
    let prometheus = Prometheus::scraping(&programs, &[]);
    none(panels_that(|dashboard, panel| {
        if !dashboard.of_prefect() || panel.kind() != "table" {
            return Vec::new();
        }
        let queries = Query::of(&prometheus, panel);
        let groupings = queries.iter().flat_map(Query::groupings);
        let wrong: BTreeSet<String> = groupings
            .filter(|labels| {
                !WHOSE
                    .iter()
                    .all(|(label, _)| labels.iter().any(|one| one == label))
            })
            .map(|labels| format!("by or on ({})", labels.join(", ")))
            .collect();
        wrong.into_iter().collect()
    }));
}

#[test]
fn variables_choose_job_instance_and_workspace_first() {
    let mut wrong = Vec::new();
    for dashboard in dashboards()
        .iter()
        .filter(|dashboard| dashboard.of_prefect())
    {
        let names = dashboard.variable_names();
        let first = ["datasource", "job", "instance", "workspace"];
        if !names.starts_with(&first) {
            wrong.push(format!("{}: {names:?}", dashboard.file));
        }
        for variable in dashboard.variables() {
            let name = variable["name"].as_str().unwrap();
            let chosen = variable["allValue"] == ".*" && variable["includeAll"] == true;
            if first[1..].contains(&name) && !chosen {
                wrong.push(format!("{}: ${name} cannot be everything", dashboard.file));
            }
        }
    }
    none(wrong);
}

/// Metrics of other programs than the agent.
const OTHERS: [&str; 8] = [
    "ALERTS",
    "up",
    "target_info",
    "scrape_",
    "otelcol_",
    "prometheus_",
    "process_",
    "numbers_",
];

#[test]
fn every_metric_that_a_query_names_exists() {
    let Some(programs) = programs("every_metric_that_a_query_names_exists") else {
        return;
    };
    let prometheus = Prometheus::scraping(&programs, &[]);
    let catalogue = catalogue();
    none(panels_that(|_, panel| {
        let queries = Query::of(&prometheus, panel);
        let selectors = queries.iter().flat_map(Query::selectors);
        let unknown = selectors.filter(|selector| {
            let name = selector.metric.as_str();
            !catalogue.contains_key(name) && !OTHERS.iter().any(|other| name.starts_with(other))
        });
        unknown.map(|selector| selector.metric).collect()
    }));
}

#[test]
fn the_deployment_dashboard_shows_late_runs() {
    let all = dashboards();
    let deployment = all
        .iter()
        .find(|one| one.file == "deployment.json")
        .unwrap();
    let late = |panel: Panel<'_>| {
        panel
            .expressions()
            .any(|text| text.contains("prefect_flow_runs_late"))
    };
    assert!(deployment.panels().any(late));
}

#[test]
fn queries_do_not_depend_on_labels_of_specific_deployments() {
    let Some(programs) = programs("queries_do_not_depend_on_labels_of_specific_deployments") else {
        return;
    };
    let prometheus = Prometheus::scraping(&programs, &[]);
    let catalogue = catalogue();
    none(panels_that(|_, panel| {
        let queries = Query::of(&prometheus, panel);
        let known: BTreeSet<&str> = { catalogue.values().flatten().map(String::as_str) }
            .chain(["le", "job", "instance", "prefect_workspace", "quantile"])
            .collect();
        let metrics = queries.iter().flat_map(Query::selectors);
        let ours = metrics
            .filter(|selector| catalogue.contains_key(&selector.metric))
            .count()
            > 0;
        let text = panel.json["transformations"].to_string();
        let used = queries.iter().flat_map(Query::groupings).flatten();
        // Labels that a query creates itself are string literals in it.
        let made = |label: &str| {
            panel
                .expressions()
                .any(|text| text.contains(&format!("{label:?}")))
        };
        let unknown = used.filter(|label| ours && !known.contains(label.as_str()) && !made(label));
        unknown
            .chain(text.contains("\"team\"").then(|| "team".to_owned()))
            .collect()
    }));
}
