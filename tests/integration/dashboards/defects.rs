//! Checks of the dashboard files for earlier defects.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::json::{collect_links, dashboards, none, panels_that, unless};
use super::shown::is_grey;

/// Whether a color, by name or value, is neutral.
fn is_neutral(color: &Value) -> bool {
    color.as_str().is_some_and(|color| is_grey(Some(color)))
}

// 1. Unknown values are shown as unknown.

#[test]
fn no_query_turns_an_unknown_value_into_zero() {
    none(panels_that(|_, panel| {
        let made = |expression: &&str| expression.contains("vector(");
        // This tile reports agents that are silent, so missing data is a value for it.
        let made = panel.expressions().filter(made);
        made.filter(|_| panel.title() != "Agent")
            .map(str::to_owned)
            .collect()
    }));
}

#[test]
fn an_unknown_value_of_a_tile_is_a_grey_question_mark() {
    none(panels_that(|_, panel| {
        if !panel.is_tile() {
            return Vec::new();
        }
        let defaults = panel.defaults();
        let mappings = defaults["mappings"].as_array().into_iter().flatten();
        let unknown = { mappings }.any(|mapping| {
            let options = &mapping["options"];
            mapping["type"] == "special"
                && options["match"] == "null+nan"
                && options["result"]["text"] == "?"
                && is_neutral(&options["result"]["color"])
        });
        let base = &defaults["thresholds"]["steps"][0];
        [
            unless(defaults["noValue"] == "?", "does not show ? if empty"),
            unless(unknown, "null and NaN are not a grey ?"),
            unless(is_neutral(&base["color"]), "the base color is not neutral"),
        ]
        .concat()
    }));
}

#[test]
fn every_dashboard_begins_with_tiles_about_trustworthiness() {
    let mut wrong = Vec::new();
    for dashboard in dashboards() {
        let top = dashboard.placed().map(|panel| panel.place("y")).min();
        let first = dashboard
            .placed()
            .filter(|panel| Some(panel.place("y")) == top);
        let first: BTreeMap<&str, &str> =
            first.map(|panel| (panel.title(), panel.kind())).collect();
        let strip: &[&str] = match dashboard.of_prefect() {
            true => &["Prefect", "Age of the data", "Agent", "Version"],
            false => &["Age of the data"],
        };
        for title in strip {
            if first.get(title) != Some(&"stat") {
                wrong.push(format!(
                    "{}: the first row has no tile {title:?}",
                    dashboard.file
                ));
            }
        }
    }
    none(wrong);
}

// 3. Bars add up.

#[test]
fn bars_count_the_events_of_their_own_interval() {
    none(panels_that(|_, panel| {
        let counter = |text: &&str| text.contains("_total{") || text.contains("_bucket{");
        let counts = panel.has_bars() || panel.kind() == "heatmap";
        let mut wrong = Vec::new();
        for expression in panel.expressions().filter(counter) {
            // If the window is wider than the step, events are counted several times.
            let wide = |part: &str| {
                let window = part
                    .split_once(']')
                    .is_some_and(|(head, _)| head.contains("__rate_interval"));
                window && part.contains('[')
            };
            if expression.split("increase(").skip(1).any(wide) {
                wrong.push(format!("a window wider than the step: {expression}"));
            }
            if !counts {
                continue;
            }
            let own = ["[$__interval]", "[${__interval}]", "offset $__interval"];
            let own = own.iter().any(|own| expression.contains(own));
            wrong.extend(unless(
                own,
                &format!("not of its own interval: {expression}"),
            ));
            // A window with one scrape has no increase.
            let least = panel.json["interval"] == "1m";
            wrong.extend(unless(least, "the least interval is not a minute"));
        }
        wrong
    }));
}

// 5. Links.

#[test]
fn links_encode_names() {
    // The address of Prefect must not be encoded.
    let own = [
        "__url_time_range",
        "__all_variables",
        "__from",
        "__to",
        "prefect_ui",
        "prefect_ui:raw",
    ];
    let mut wrong = Vec::new();
    for dashboard in dashboards() {
        let mut links = Vec::new();
        collect_links(&dashboard.json, &mut links);
        for link in links {
            for part in link.split('$').skip(1) {
                let inner = part.strip_prefix('{').and_then(|part| part.split_once('}'));
                let fits = inner.is_some_and(|(inner, _)| {
                    own.contains(&inner)
                        || inner.ends_with(":percentencode")
                        || inner.ends_with(":queryparam")
                });
                if !fits {
                    wrong.push(format!("{}: {link}: ${part}", dashboard.file));
                }
            }
        }
    }
    none(wrong);
}

#[test]
fn links_lead_to_existing_dashboards_and_variables() {
    let all = dashboards();
    let mut wrong = Vec::new();
    let mut ways = BTreeSet::new();
    for dashboard in &all {
        let mut links = Vec::new();
        collect_links(&dashboard.json, &mut links);
        for link in links {
            let Some((_, rest)) = link.split_once("/d/") else {
                continue;
            };
            let uid = rest.split(['/', '?']).next().unwrap();
            let Some(target) = all.iter().find(|target| target.uid() == uid) else {
                wrong.push(format!("{}: {link}: no dashboard {uid}", dashboard.file));
                continue;
            };
            ways.insert((dashboard.uid(), target.uid()));
            let names = target.variable_names();
            let carried = link.split("var-").skip(1);
            let carried = carried.map(|part| part.split(['=', '&', '$']).next().unwrap());
            let formatted = link.split("${").skip(1);
            let formatted = formatted.filter_map(|part| part.split_once(":queryparam}"));
            for name in carried.chain(formatted.map(|(name, _)| name)) {
                if !names.contains(&name) {
                    wrong.push(format!("{}: {link}: {uid} has no ${name}", dashboard.file));
                }
            }
        }
    }
    for (from, to) in [
        ("prefect-overview", "prefect-deployment"),
        ("prefect-overview", "prefect-work-pools"),
        ("prefect-overview", "prefect-agent"),
    ] {
        if !ways.contains(&(from, to)) {
            wrong.push(format!("no link leads from {from} to {to}"));
        }
    }
    none(wrong);
}

#[test]
fn runs_deployments_pools_and_queues_link_to_prefect() {
    let mut wrong = Vec::new();
    for dashboard in dashboards()
        .iter()
        .filter(|dashboard| dashboard.of_prefect())
    {
        let names = dashboard.variable_names();
        wrong.extend(unless(
            names.contains(&"prefect_ui"),
            &format!("{}: no variable prefect_ui", dashboard.file),
        ));
        for panel in dashboard.panels().filter(|panel| panel.kind() == "table") {
            let of_runs = |query: &str| {
                ["ongoing_run_time", "failed_flow_run", "info_work_queues"]
                    .iter()
                    .any(|name| query.contains(name))
            };
            if panel.expressions().any(of_runs) {
                let leads = panel
                    .links()
                    .iter()
                    .any(|link| link.contains("${prefect_ui"));
                wrong.extend(unless(
                    leads,
                    &format!("{}: no link to Prefect", panel.identity()),
                ));
            }
        }
    }
    none(wrong);
}

// 7. Details.

/// Words in the names of ages.
const AGES: [&str; 6] = [
    "Age",
    "Last success",
    "Last failure",
    "Last poll",
    "eartbeat",
    "since",
];

#[test]
fn counts_are_written_out_ages_are_whole_seconds_and_ratios_end_at_100_percent() {
    none(panels_that(|_, panel| {
        let mut fields = vec![(panel.title().to_owned(), panel.defaults().clone())];
        for rule in panel.overrides() {
            let properties = rule["properties"].as_array().unwrap().iter();
            let field = properties.map(|property| {
                let id = property["id"].as_str().unwrap();
                (id.to_owned(), property["value"].clone())
            });
            let field = Value::Object(field.collect());
            fields.push((rule["matcher"]["options"].to_string(), field));
        }
        let graph = panel.kind() == "timeseries";
        let axis = graph || ["gauge", "bargauge"].contains(&panel.kind());
        let mut wrong = Vec::new();
        for (name, field) in fields {
            let unit = field["unit"].as_str().unwrap_or_default();
            let short = "\"short\" prints 1,537 and 2,499 both as 2 K";
            wrong.extend(unless(unit != "short", short));
            let age = AGES.iter().any(|word| name.contains(word)) && unit == "s" && !graph;
            let whole = format!("{name} in parts of a second");
            wrong.extend(unless(!age || field["decimals"] == 0, &whole));
            let ends = unit != "percentunit" || !axis || field["max"] == 1;
            wrong.extend(unless(ends, "an axis of a ratio without an end at 1"));
        }
        wrong
    }));
}

#[test]
fn titles_fit_in_a_window_of_1280_pixels() {
    // The average character width of Grafana's title font, and the width of the padding and the
    // description's icon.
    const LETTER: f64 = 7.2;
    const EDGES: f64 = 40.0;
    none(panels_that(|_, panel| {
        let needs = panel.title().chars().count() as f64 * LETTER + EDGES;
        let has = panel.pixels();
        unless(needs <= has, &format!("{needs:.0} pixels in {has:.0}"))
    }));
}

#[test]
fn legends_name_their_series() {
    none(panels_that(|_, panel| {
        let graph = ["timeseries", "state-timeline"].contains(&panel.kind());
        let targets = panel.targets().filter(|_| graph);
        let named = |target: &&Value| {
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            legend.is_empty() || legend == "__auto"
        };
        let unnamed = targets.filter(named);
        unnamed
            .map(|target| format!("no legend: {}", target["expr"]))
            .collect()
    }));
}

#[test]
fn thresholds_do_not_apply_to_counts_over_the_time_range() {
    none(panels_that(|_, panel| {
        let counts = |text: &str| text.contains("[$__range]") && !text.contains(" / ");
        if !panel.is_tile() || !panel.expressions().any(counts) {
            return Vec::new();
        }
        let steps = panel.defaults()["thresholds"]["steps"].as_array();
        let beyond = { steps.into_iter().flatten() }
            .filter_map(|step| step["value"].as_f64())
            .filter(|value| *value > 1.0);
        beyond
            .map(|value| format!("a threshold at {value}"))
            .collect()
    }));
}
