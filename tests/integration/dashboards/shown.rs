//! What Grafana would show, computed with Grafana's own code (`tests/grafana/show.cjs`).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Value, json};

use super::json::{Panel, WIDTH};
use crate::support::programs::{Prometheus, left_out};
use crate::support::stack::project;

/// The node_modules with Grafana's packages. `None` if they are not installed, which is reported.
pub(super) fn packages(test: &str) -> Option<PathBuf> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let mut get = Command::new(project("grafana/packages"));
        let output = get
            .arg("--cached")
            .arg(project("tests/grafana"))
            .stderr(Stdio::null())
            .output()
            .unwrap();
        let folder = String::from_utf8(output.stdout).unwrap();
        output
            .status
            .success()
            .then(|| PathBuf::from(folder.trim()).join("node_modules"))
    });
    if folder.is_none() {
        left_out(
            test,
            "Grafana's packages; `grafana/packages tests/grafana` installs them",
        );
    }
    folder.clone()
}

/// A view of a dashboard.
#[derive(Clone)]
pub(super) struct Look {
    pub(super) file: String,
    /// Variables whose values differ from the dashboard's defaults.
    pub(super) variables: BTreeMap<String, Value>,
    /// The time range, in seconds before `to`.
    pub(super) range: u64,
    /// The end of the range as Unix time; `None` is now.
    pub(super) to: Option<u64>,
}

impl Look {
    /// A view of the last half hour.
    pub(super) fn at(file: &str) -> Self {
        Look {
            file: file.to_owned(),
            variables: BTreeMap::new(),
            range: 1_800,
            to: None,
        }
    }

    pub(super) fn with(mut self, variable: &str, value: &str) -> Self {
        self.variables.insert(variable.to_owned(), json!(value));
        self
    }
}

/// A dashboard as shown.
#[derive(Debug, Deserialize)]
pub(super) struct Shown {
    pub(super) variables: BTreeMap<String, Variable>,
    panels: BTreeMap<String, ShownPanel>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Variable {
    pub(super) value: Value,
    pub(super) error: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ShownPanel {
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) links: Vec<Link>,
    #[serde(default)]
    pub(super) step: f64,
    #[serde(default)]
    pub(super) tiles: Vec<Tile>,
    #[serde(default)]
    pub(super) columns: Vec<Column>,
    #[serde(default)]
    pub(super) rows: Vec<Vec<Cell>>,
    #[serde(default)]
    pub(super) frames: usize,
    #[serde(default)]
    pub(super) series: Vec<Series>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Link {
    pub(super) href: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Tile {
    pub(super) text: String,
    pub(super) color: Option<String>,
    #[serde(default)]
    pub(super) links: Vec<Link>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) width: f64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) color: Option<String>,
    pub(super) raw: Value,
    #[serde(default)]
    pub(super) links: Vec<Link>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) color: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
    /// Infinite values are strings.
    pub(super) values: Vec<Value>,
    pub(super) texts: Vec<String>,
    #[serde(default)]
    pub(super) links: Vec<Link>,
}

impl Shown {
    /// Returns a panel, whose query must not have failed.
    pub(super) fn panel(&self, panel: Panel<'_>) -> &ShownPanel {
        let shown = &self.panels[&panel.id().to_string()];
        if let Some(error) = &shown.error {
            panic!("{}: {error}", panel.identity());
        }
        shown
    }

    /// Returns a panel, whose query may have failed.
    pub(super) fn try_panel(&self, panel: Panel<'_>) -> &ShownPanel {
        &self.panels[&panel.id().to_string()]
    }
}

/// The texts for a missing value.
const NOTHING: [&str; 4] = ["?", "No data", "-", ""];

impl ShownPanel {
    /// Whether it shows anything other than missing values.
    pub(super) fn shows_something(&self) -> bool {
        { self.tiles.iter() }.any(|tile| !tile.is_nothing()) || !self.rows.is_empty() || {
            self.series.iter()
        }
        .any(|series| !series.values.is_empty())
    }

    /// All its texts.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let tiles = self.tiles.iter().map(|tile| &tile.text);
        let cells = self.rows.iter().flatten().map(|cell| &cell.text);
        let series = self.series.iter().flat_map(|series| &series.texts);
        tiles.chain(cells).chain(series).map(String::as_str)
    }

    /// All its links.
    pub(super) fn all_links(&self) -> impl Iterator<Item = &Link> {
        let tiles = self.tiles.iter().flat_map(|tile| &tile.links);
        let cells = self.rows.iter().flatten().flat_map(|cell| &cell.links);
        let series = self.series.iter().flat_map(|series| &series.links);
        self.links.iter().chain(tiles).chain(cells).chain(series)
    }
}

impl Tile {
    pub(super) fn is_nothing(&self) -> bool {
        NOTHING.contains(&self.text.as_str())
    }
}

/// Whether a color is neutral: grey, or none.
pub(super) fn is_grey(color: Option<&str>) -> bool {
    let Some(color) = color else {
        return true;
    };
    if ["", "text", "transparent"].contains(&color) {
        return true;
    }
    channels(color).is_some_and(|parts| {
        let (least, most) = (parts.iter().min().unwrap(), parts.iter().max().unwrap());
        most - least < 32
    })
}

/// Red, green and blue.
fn channels(color: &str) -> Option<[u8; 3]> {
    if let Some(hex) = color.strip_prefix('#') {
        let part = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        return Some([part(0)?, part(2)?, part(4)?]);
    }
    let inner = color.split_once('(')?.1.strip_suffix(')')?;
    let mut parts = inner.split(',').map(|part| part.trim().parse().ok());
    Some([parts.next()??, parts.next()??, parts.next()??])
}

/// Whether a color is red.
pub(super) fn is_red(color: Option<&str>) -> bool {
    let parts = color.and_then(channels);
    parts.is_some_and(|[red, green, blue]| red > 120 && red / 2 > green && red / 3 * 2 > blue)
}

/// Whether a color is green.
pub(super) fn is_green(color: Option<&str>) -> bool {
    let parts = color.and_then(channels);
    parts
        .is_some_and(|[red, green, blue]| green > 80 && green / 4 * 3 > red && green / 4 * 3 > blue)
}

/// The current time as Unix time.
pub(super) fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.as_ref().map_or(0.0, Duration::as_secs_f64)
}

/// Evaluates each view as Grafana would.
pub(super) fn show(
    packages: &std::path::Path,
    prometheus: &Prometheus,
    looks: &[Look],
) -> Vec<Shown> {
    let looks = looks.iter().map(|look| {
        let to = look.to.map_or_else(now, |to| to as f64);
        json!({
            "dashboard": project("grafana/dashboards").join(&look.file),
            "prometheus": prometheus.url,
            "from": to - look.range as f64,
            "to": to,
            "variables": look.variables,
            // As in grafana/provisioning.
            "scrapeInterval": "15s",
            "width": WIDTH,
        })
    });
    let looks = Value::Array(looks.collect()).to_string();
    let mut node = Command::new("node")
        .arg(project("tests/grafana/show.cjs"))
        .env("NODE_PATH", packages)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    node.stdin
        .take()
        .unwrap()
        .write_all(looks.as_bytes())
        .unwrap();
    let output = node.wait_with_output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{messages}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {messages}"))
}
