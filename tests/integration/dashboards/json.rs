//! The dashboard files.

use serde_json::Value;

use crate::support::stack::project;

/// One dashboard of the project.
pub(super) struct Dashboard {
    pub(super) file: String,
    pub(super) json: Value,
}

/// All dashboards, by file name.
pub(super) fn dashboards() -> Vec<Dashboard> {
    let files = std::fs::read_dir(project("grafana/dashboards")).unwrap();
    let mut dashboards: Vec<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            Dashboard {
                file: path.file_name().unwrap().to_string_lossy().into_owned(),
                json: serde_json::from_str(&text).unwrap(),
            }
        })
        .collect();
    dashboards.sort_by(|a, b| a.file.cmp(&b.file));
    dashboards
}

impl Dashboard {
    /// Whether it is about Prefect and the agent, instead of another service.
    pub(super) fn of_prefect(&self) -> bool {
        self.file != "numbers.json"
    }

    pub(super) fn uid(&self) -> &str {
        self.json["uid"].as_str().unwrap()
    }

    /// Everything that has a position: panels, rows, and the panels of collapsed rows.
    pub(super) fn placed(&self) -> impl Iterator<Item = Panel<'_>> {
        let top = self.json["panels"].as_array().unwrap().iter();
        top.flat_map(|panel| {
            let inner = panel["panels"].as_array().into_iter().flatten();
            std::iter::once(panel).chain(inner)
        })
        .map(|json| Panel {
            file: &self.file,
            json,
        })
    }

    /// Its panels.
    pub(super) fn panels(&self) -> impl Iterator<Item = Panel<'_>> {
        self.placed().filter(|panel| panel.kind() != "row")
    }

    pub(super) fn variables(&self) -> &[Value] {
        self.json["templating"]["list"].as_array().unwrap()
    }

    pub(super) fn variable_names(&self) -> Vec<&str> {
        let names = self.variables().iter();
        names
            .map(|variable| variable["name"].as_str().unwrap())
            .collect()
    }

    /// The variables that are values of a label, with the label.
    pub(super) fn variables_of_labels(&self) -> Vec<(&str, &str)> {
        fn of_label(variable: &Value) -> Option<(&str, &str)> {
            let query = &variable["query"];
            let query = query["query"].as_str().or(query.as_str())?;
            let selection = query.strip_prefix("label_values(")?.strip_suffix(')')?;
            let label = selection.rsplit(',').next()?.trim();
            Some((variable["name"].as_str()?, label))
        }
        self.variables().iter().filter_map(of_label).collect()
    }
}

/// One panel.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    file: &'a str,
    pub(super) json: &'a Value,
}

/// The number of columns of a dashboard.
const COLUMNS: f64 = 24.0;
/// The gap between two panels in pixels.
const GAP: f64 = 8.0;

/// The total width of the panels in a window of 1,280 pixels; the rest is the menu and the margins.
pub(super) const WIDTH: f64 = 1190.0;

impl<'a> Panel<'a> {
    pub(super) fn id(&self) -> u64 {
        self.json["id"].as_u64().unwrap()
    }

    pub(super) fn kind(&self) -> &'a str {
        self.json["type"].as_str().unwrap()
    }

    pub(super) fn title(&self) -> &'a str {
        self.json["title"].as_str().unwrap()
    }

    /// An identification for messages.
    pub(super) fn identity(&self) -> String {
        format!("{}: {}", self.file, self.title())
    }

    pub(super) fn defaults(&self) -> &'a Value {
        &self.json["fieldConfig"]["defaults"]
    }

    pub(super) fn overrides(&self) -> impl Iterator<Item = &'a Value> {
        let overrides = self.json["fieldConfig"]["overrides"].as_array();
        overrides.into_iter().flatten()
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = &'a Value> {
        self.json["targets"].as_array().into_iter().flatten()
    }

    pub(super) fn expressions(&self) -> impl Iterator<Item = &'a str> {
        self.targets()
            .map(|target| target["expr"].as_str().unwrap())
    }

    pub(super) fn place(&self, key: &str) -> u64 {
        self.json["gridPos"][key].as_u64().unwrap()
    }

    /// Its width in a window of 1,280 pixels.
    pub(super) fn pixels(&self) -> f64 {
        let column = (WIDTH - (COLUMNS - 1.0) * GAP) / COLUMNS;
        let columns = self.place("w") as f64;
        column * columns + GAP * (columns - 1.0)
    }

    /// Whether it shows one or more values as tiles.
    pub(super) fn is_tile(&self) -> bool {
        ["stat", "gauge", "bargauge"].contains(&self.kind())
    }

    /// Whether it draws bars, one count per interval.
    pub(super) fn has_bars(&self) -> bool {
        let bars = |value: &Value| value == "bars";
        let overridden = self.overrides().any(|rule| {
            let properties = rule["properties"].as_array().into_iter().flatten();
            { properties }
                .any(|property| property["id"] == "custom.drawStyle" && bars(&property["value"]))
        });
        self.kind() == "barchart" || bars(&self.defaults()["custom"]["drawStyle"]) || overridden
    }

    /// The addresses of all of its links.
    pub(super) fn links(&self) -> Vec<&'a str> {
        let mut links = Vec::new();
        collect_links(self.json, &mut links);
        links
    }
}

/// Every `url` in a JSON value.
pub(super) fn collect_links<'a>(value: &'a Value, links: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(url) if key == "url" && !url.is_empty() => links.push(url),
                    _ => collect_links(value, links),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_links(value, links)),
        _ => {}
    }
}

/// Fails if there are problems, with a line for each.
pub(super) fn none(wrong: Vec<String>) {
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// One line for each panel for which `check` returns a problem.
pub(super) fn panels_that(check: impl Fn(&Dashboard, Panel<'_>) -> Vec<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for dashboard in dashboards() {
        for panel in dashboard.panels() {
            let found = check(&dashboard, panel).into_iter();
            wrong.extend(found.map(|what| format!("{}: {what}", panel.identity())));
        }
    }
    wrong
}

/// A problem if `fine` is false.
pub(super) fn unless(fine: bool, what: &str) -> Vec<String> {
    match fine {
        true => Vec::new(),
        false => vec![what.to_owned()],
    }
}
