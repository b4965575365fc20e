//! Dashboards of a workspace in which everything is known: rows, colors and links are correct.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::machine::undisturbed;

use super::json::{Dashboard, dashboards, none};
use super::shown::{Cell, Look, Shown, is_green, is_grey, is_red, now};
use super::workspace::{
    CASES, FRESH, HOPELESS, NAMES, NEVER_POLLED, STEADY, Workspace, of_deployment,
};

fn dashboard(file: &str) -> Dashboard {
    dashboards()
        .into_iter()
        .find(|one| one.file == file)
        .unwrap()
}

/// The tiles of a dashboard by panel title: text and color.
fn tiles(dashboard: &Dashboard, shown: &Shown) -> BTreeMap<String, (String, Option<String>)> {
    let panels = dashboard.panels().filter(|panel| panel.is_tile());
    let tile = panels.flat_map(|panel| {
        let tiles = shown.panel(panel).tiles.iter();
        tiles.map(move |tile| {
            (
                panel.title().to_owned(),
                (tile.text.clone(), tile.color.clone()),
            )
        })
    });
    tile.collect()
}

#[test]
fn a_deployment_without_failures_has_no_red_tile_and_one_without_success_no_green_one() {
    let Some(workspace) = Workspace::start("a_deployment_without_failures") else {
        return;
    };
    let deployment = dashboard("deployment.json");
    let look = |name: &str| of_deployment("deployment.json", CASES, name);
    let shown = workspace.show(&[look(STEADY), look(HOPELESS), look(FRESH)]);
    let [steady, hopeless, fresh] = [0, 1, 2].map(|index| tiles(&deployment, &shown[index]));
    let mut wrong = Vec::new();
    let mut expect =
        |whose: &str, title: &str, (text, color): &(String, Option<String>), fine: bool| {
            if !fine {
                wrong.push(format!("{whose}: {title} is {text:?} in {color:?}"));
            }
        };
    for (title, tile) in &steady {
        expect(STEADY, title, tile, !is_red(tile.1.as_deref()));
    }
    let of_success = |title: &str| title.to_lowercase().contains("success");
    let of_failure = |title: &str| title.to_lowercase().contains("fail");
    assert!(
        steady.keys().any(|title| of_success(title))
            && steady.keys().any(|title| of_failure(title))
    );
    for (title, tile) in hopeless.iter().filter(|(title, _)| of_success(title)) {
        expect(HOPELESS, title, tile, !is_green(tile.1.as_deref()));
    }
    // If nothing has ever happened, it is neither.
    for (title, tile) in fresh
        .iter()
        .filter(|(title, _)| of_success(title) || of_failure(title))
    {
        let color = tile.1.as_deref();
        expect(FRESH, title, tile, !is_green(color) && !is_red(color));
    }
    // The start of an overdue run is not a negative time.
    for (title, tile) in steady.iter().chain(&hopeless).chain(&fresh) {
        expect(
            "any",
            title,
            tile,
            !tile.0.starts_with('-') || tile.0 == "-",
        );
    }
    none(wrong);
}

#[test]
fn tables_identify_each_row_and_fit_in_a_window_of_1280_pixels() {
    let Some(workspace) = Workspace::start("tables_say_what_each_row_is") else {
        return;
    };
    let mut wrong = Vec::new();
    for (dashboard, shown) in workspace.show_graphs("plain", "plain") {
        for panel in dashboard.panels().filter(|panel| panel.kind() == "table") {
            let table = shown.panel(panel);
            let identity = panel.identity();
            let names: Vec<&str> = table
                .columns
                .iter()
                .map(|column| column.name.as_str())
                .collect();
            if table.rows.is_empty() {
                wrong.push(format!("{identity}: no row"));
                continue;
            }
            if table.frames > 1 {
                wrong.push(format!(
                    "{identity}: {} tables, of which one is shown",
                    table.frames
                ));
            }
            let needs: f64 = table.columns.iter().map(|column| column.width).sum();
            if needs > panel.pixels() {
                let has = panel.pixels();
                wrong.push(format!(
                    "{identity}: {needs:.0} pixels in {has:.0}: {names:?}"
                ));
            }
            // No two rows have the same texts, so that each can be identified.
            let rows: BTreeSet<Vec<&str>> = { table.rows.iter() }
                .map(|row| row.iter().map(|cell| cell.text.as_str()).collect())
                .collect();
            if rows.len() < table.rows.len() {
                wrong.push(format!("{identity}: rows that look the same: {names:?}"));
            }
            let internal = |name: &&str| {
                ["Time", "Value", "__name__"].contains(name)
                    || name.starts_with("Value #")
                    || name.contains('_')
            };
            if let Some(name) = names.iter().find(|name| internal(name)) {
                wrong.push(format!("{identity}: a column {name:?}: {names:?}"));
            }
            // Each row has a numeric value.
            let number = |row: &Vec<Cell>| row.iter().any(|cell| cell.raw.is_number());
            if !table.rows.iter().all(number) {
                wrong.push(format!("{identity}: rows without a value: {names:?}"));
            }
        }
    }
    none(wrong);
}

/// The row of a table on the dashboard that has `text` in a cell.
fn row<'a>(
    dashboard: &Dashboard,
    shown: &'a Shown,
    about: &str,
    text: &str,
) -> Option<&'a Vec<Cell>> {
    let tables = dashboard.panels().filter(|panel| panel.kind() == "table");
    let of = tables.filter(|panel| panel.expressions().any(|query| query.contains(about)));
    { of }.find_map(|panel| {
        let mut rows = shown.panel(panel).rows.iter();
        rows.find(|row| row.iter().any(|cell| cell.raw == text))
    })
}

#[test]
fn the_worst_are_not_left_out() {
    let Some(workspace) = Workspace::start("the_worst_are_not_left_out") else {
        return;
    };
    let (overview, pools) = (dashboard("overview.json"), dashboard("work-pools.json"));
    let shown = workspace.show(&[Look::at("overview.json"), Look::at("work-pools.json")]);
    let mut wrong = Vec::new();
    let last = "prefect_deployment_last_run_time_seconds";
    for name in [HOPELESS, FRESH] {
        match row(&overview, &shown[0], last, name) {
            None => wrong.push(format!("{name}: no row shows that it never succeeded")),
            Some(row) => {
                let well = row.iter().filter(|cell| is_green(cell.color.as_deref()));
                let well = well.filter(|cell| !cell.text.is_empty() && cell.text != "0");
                wrong.extend(well.map(|cell| format!("{name}: {:?} is green", cell.text)));
            }
        }
    }
    let polled = "prefect_work_queue_last_polled_time_seconds";
    if row(&pools, &shown[1], polled, NEVER_POLLED).is_none() {
        wrong.push("a queue that was never polled has no row that shows it".to_owned());
    }
    none(wrong);
}

#[test]
fn a_queue_that_was_never_polled_comes_before_those_that_were() {
    let Some(workspace) = Workspace::start("a_queue_that_was_never_polled_comes_before") else {
        return;
    };
    let pools = dashboard("work-pools.json");
    let shown = workspace.show(&[Look::at("work-pools.json")]);
    let panel = pools.panels().find(|panel| panel.title() == "Queues");
    let panel = panel.unwrap();
    let sorted = panel.json["options"]["sortBy"].as_array().unwrap().iter();
    let last = sorted.last().unwrap();
    assert_eq!(
        (&last["displayName"], &last["desc"]),
        (&Value::from("Last poll"), &Value::from(true))
    );
    let table = shown[0].panel(panel);
    let column = |name: &str| { table.columns.iter() }.position(|column| column.name == name);
    let (queue, poll) = (column("Queue").unwrap(), column("Last poll").unwrap());
    let mut rows: Vec<_> = table.rows.iter().collect();
    rows.sort_by(|a, b| {
        b[poll]
            .raw
            .as_f64()
            .partial_cmp(&a[poll].raw.as_f64())
            .unwrap()
    });
    let first = rows[0];
    assert_eq!(
        (&first[queue].raw, first[poll].text.as_str()),
        (&Value::from(NEVER_POLLED), "never")
    );
    assert!(is_grey(first[poll].color.as_deref()), "{:?}", first[poll]);
    assert!(rows[1..].iter().all(|row| row[poll].text != "never"));
}

#[test]
fn a_state_has_its_own_colour_and_the_same_one_everywhere() {
    let Some(workspace) = Workspace::start("a_state_has_its_own_colour") else {
        return;
    };
    let mut colors: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (dashboard, shown) in workspace.show_graphs("plain", "plain") {
        for panel in dashboard.panels() {
            for series in &shown.panel(panel).series {
                let name = series.name.trim();
                let empty = ["", "Value", "/", "null"].contains(&name) || name.starts_with('{');
                if empty && panel.kind() != "heatmap" {
                    wrong.push(format!("{}: a legend {:?}", panel.identity(), series.name));
                }
                let state = series
                    .labels
                    .get("state_name")
                    .or(series.labels.get("state_type"));
                if let (Some(state), Some(color)) = (state, &series.color) {
                    let of_state = colors.entry(state.to_uppercase()).or_default();
                    of_state.insert(color.clone(), panel.identity());
                }
            }
        }
    }
    assert!(colors.len() > 5, "{colors:?}");
    for (state, of_state) in &colors {
        if of_state.len() > 1 {
            wrong.push(format!("{state} has several colours: {of_state:?}"));
        }
    }
    let different = ["PENDING", "RUNNING", "COMPLETED", "FAILED", "CRASHED"];
    let seen: BTreeSet<_> = different.map(|state| colors[state].keys().next()).into();
    if seen.len() < different.len() {
        wrong.push(format!("two of {different:?} look the same: {colors:?}"));
    }
    none(wrong);
}

#[test]
fn no_time_is_negative() {
    let Some(workspace) = Workspace::start("no_time_is_negative") else {
        return;
    };
    let mut wrong = Vec::new();
    for (dashboard, shown) in workspace.show_all(CASES, STEADY) {
        for panel in dashboard.panels() {
            let negative = |text: &&str| {
                let number = text.strip_prefix('-');
                number.is_some_and(|text| text.starts_with(|first: char| first.is_ascii_digit()))
            };
            let texts = shown.panel(panel).texts().filter(negative);
            wrong.extend(texts.map(|text| format!("{}: {text}", panel.identity())));
        }
    }
    none(wrong);
}

/// The target of a link to a dashboard: its file and the values of the variables.
fn target(href: &str) -> Option<(String, BTreeMap<String, Vec<String>>)> {
    let url = reqwest::Url::parse("http://grafana")
        .unwrap()
        .join(href)
        .unwrap();
    let uid = url
        .path()
        .strip_prefix("/d/")?
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let file = dashboards()
        .into_iter()
        .find(|one| one.uid() == uid)
        .unwrap()
        .file;
    let mut variables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    assert_eq!(url.fragment(), None, "{href}: what follows # is lost");
    for (name, value) in url.query_pairs() {
        if let Some(name) = name.strip_prefix("var-") {
            variables
                .entry(name.to_owned())
                .or_default()
                .push(value.into_owned());
        } else {
            let known = ["from", "to", "orgId", "refresh", "timezone"];
            assert!(
                known.contains(&name.as_ref()),
                "{href}: {name:?} is no parameter"
            );
        }
    }
    Some((file, variables))
}

/// Whether each panel of the dashboard shows something.
fn outline(dashboard: &Dashboard, shown: &Shown) -> BTreeMap<String, String> {
    let panels = dashboard.panels().map(|panel| {
        let shown = shown.try_panel(panel);
        let what = match &shown.error {
            Some(error) => error.lines().next().unwrap_or_default().to_owned(),
            None => shown.shows_something().to_string(),
        };
        (panel.title().to_owned(), what)
    });
    panels.collect()
}

/// Variables that identify the source of the data.
const OF_ALL: [&str; 5] = ["datasource", "job", "instance", "workspace", "prefect_ui"];

#[test]
fn any_name_drills_down() {
    let Some(workspace) = Workspace::start("any_name_drills_down") else {
        return;
    };
    let mut wrong = Vec::new();
    // The source, the target and the name of the link.
    let mut ways: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for (dashboard, shown) in workspace.show_all("plain", "plain") {
        for panel in dashboard.panels() {
            for link in shown.panel(panel).all_links() {
                let left = ["${__", "${prefect_ui", "${datasource"];
                if left.iter().any(|left| link.href.contains(left)) {
                    wrong.push(format!(
                        "{}: left in a link: {}",
                        panel.identity(),
                        link.href
                    ));
                }
                // Fails if the target does not exist.
                _ = target(&link.href);
            }
            for row in &shown.panel(panel).rows {
                for link in row.iter().flat_map(|cell| &cell.links) {
                    let raw: Vec<&str> = row.iter().filter_map(|cell| cell.raw.as_str()).collect();
                    let Some((file, variables)) = target(&link.href) else {
                        continue;
                    };
                    // The values of the row, not those of the whole dashboard.
                    let of_row = |name: &&String| !OF_ALL.contains(&name.as_str());
                    for (name, values) in variables.iter().filter(|(name, _)| of_row(name)) {
                        let own = shown.variables.get(name).map(|variable| &variable.value);
                        let stays = |value: &str| {
                            own.is_some_and(|own| own == value)
                                || value == "$__all"
                                || value == ".*"
                        };
                        for value in values {
                            if !raw.contains(&value.as_str()) && !stays(value) {
                                wrong.push(format!(
                                    "{}: the link carries {name}={value:?}, the row is {raw:?}",
                                    panel.identity()
                                ));
                            }
                        }
                    }
                    let way = (dashboard.file.clone(), file);
                    let names = variables.into_values().flatten();
                    ways.entry(way).or_default().extend(names);
                }
            }
        }
    }
    for way in [
        ("overview.json", "deployment.json"),
        ("overview.json", "work-pools.json"),
    ] {
        let way = (way.0.to_owned(), way.1.to_owned());
        let names = ways.get(&way);
        // Pools need their own row only if a table of the overview has them.
        if way.1 == "deployment.json" || names.is_some() {
            let missing: Vec<&&str> = { NAMES.iter() }
                .filter(|name| !names.is_some_and(|names| names.contains(**name)))
                .collect();
            if !missing.is_empty() {
                wrong.push(format!("{way:?}: no link with {missing:?}"));
            }
        }
    }
    none(wrong);
}

#[test]
fn a_dashboard_works_with_any_legal_name() {
    let Some(workspace) = Workspace::start("a_dashboard_shows_as_much_of_any_name") else {
        return;
    };
    undisturbed("a_dashboard_works_with_any_legal_name", || {
        let mut wrong = Vec::new();
        for file in ["deployment.json", "overview.json", "work-pools.json"] {
            let dashboard = dashboard(file);
            let names = dashboard.variable_names();
            let looks: Vec<Look> = { NAMES.iter() }
                .map(|chosen| {
                    let own = ["flow", "deployment", "pool", "queue"];
                    let own = own.iter().filter(|own| names.contains(own));
                    let look = Look {
                        to: Some(now() as u64 + 120),
                        ..Look::at(file)
                    };
                    own.fold(look, |look, own| look.with(own, chosen))
                })
                .collect();
            let shown = workspace.show(&looks);
            let plain = outline(&dashboard, &shown[0]);
            assert!(
                plain.values().any(|shows| shows == "true"),
                "{file}: {plain:?}"
            );
            for (name, shown) in NAMES.iter().zip(&shown) {
                let errors = shown.variables.iter();
                let errors =
                    errors.filter_map(|(of, variable)| Some((of, variable.error.as_ref()?)));
                wrong.extend(
                    errors.map(|(of, error)| format!("{file} with {name:?}: ${of}: {error}")),
                );
                let kept = |of: &str| {
                    let value = &shown.variables.get(of)?.value;
                    let value = value.get(0).unwrap_or(value);
                    Some(value == &Value::from(*name))
                };
                for own in ["flow", "deployment", "pool"] {
                    if kept(own) == Some(false) {
                        wrong.push(format!("{file}: {name:?} is not kept as ${own}"));
                    }
                }
                let differs: BTreeMap<String, String> = outline(&dashboard, shown)
                    .into_iter()
                    .filter(|(title, shows)| plain[title] != *shows)
                    .collect();
                if !differs.is_empty() {
                    let (count, first) = (differs.len(), differs.first_key_value());
                    wrong.push(format!(
                        "{file} with {name:?}: {count} panels differ: {first:?}"
                    ));
                }
            }
        }
        none(wrong);
    });
}
