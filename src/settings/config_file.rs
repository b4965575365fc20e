//! The file of `--config`: settings for all, and workspaces with settings of their own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use config::{FileFormat, Map, Value, ValueKind};
use reqwest::Url;

use super::Error;
use super::file::{parse, read, text};
use super::near::nearest_key;
use super::setting::{Group, Setting};
use super::table::SETTINGS;
use crate::clip::{LONGEST_MESSAGE, message};

/// Settings by each of their names.
pub(super) type Known = HashMap<String, &'static Setting>;

pub(super) fn known() -> Known {
    let settings = SETTINGS.iter();
    let named = settings.flat_map(|setting| {
        let names = setting.names().into_iter();
        names.map(move |name| (name, setting))
    });
    named.collect()
}

/// The key of the list of workspaces.
const WORKSPACES: &str = "workspaces";
/// The key of a workspace's name.
const NAME: &str = "name";
/// Each has a core of its own, and its requests in each cycle.
const MOST_WORKSPACES: usize = 200;
/// A name is a label of every series.
const LONGEST_NAME: usize = 100;

/// The settings in the file, by the environment's spelling.
#[derive(Debug, Default)]
pub(super) struct ConfigFile {
    pub(super) settings: Vec<(String, String)>,
    pub(super) workspaces: Vec<Table>,
}

/// The name of a workspace and its own settings.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) values: Vec<(String, String)>,
}

impl ConfigFile {
    pub(super) fn load(path: &Path, known: &Known) -> Result<Self, Error> {
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => FileFormat::Toml,
            Some("yaml" | "yml") => FileFormat::Yaml,
            _ => return Err(unusable(path, "its name must end in .toml, .yaml or .yml")),
        };
        let content = read("--config", path)?;
        ConfigFile::parse(&content, format, path, known)
    }

    pub(super) fn parse(
        content: &str,
        format: FileFormat,
        path: &Path,
        known: &Known,
    ) -> Result<Self, Error> {
        let mut values = parse(content, format).map_err(|reason| unusable(path, reason))?;
        let tables = values.remove(WORKSPACES);
        Ok(ConfigFile {
            settings: settings(&values, known, |key| unknown_key(key, path, known))?,
            workspaces: tables.map_or(Ok(Vec::new()), |tables| workspaces(tables, path, known))?,
        })
    }
}

fn unusable(path: &Path, reason: impl Into<String>) -> Error {
    Error::File {
        setting: "--config".to_owned(),
        path: path.to_owned(),
        reason: reason.into(),
    }
}

fn settings(
    values: &Map<String, Value>,
    known: &Known,
    unknown: impl Fn(&str) -> Error,
) -> Result<Vec<(String, String)>, Error> {
    let sorted: BTreeMap<_, _> = values.iter().collect();
    let mut settings = Vec::new();
    for (written, value) in sorted {
        let name = written.to_ascii_uppercase();
        let setting = known.get(&name).filter(|_| *written == key(&name));
        let setting = setting.ok_or_else(|| unknown(written))?;
        match text(value) {
            Some(value) => settings.push((name, value)),
            None if matches!(value.kind, ValueKind::Nil) => {}
            None => return Err(Error::value(setting, &name, &value.to_string())),
        }
    }
    Ok(settings)
}

/// The workspaces, of which there is at least one. Names and URLs are unique.
fn workspaces(tables: Value, path: &Path, known: &Known) -> Result<Vec<Table>, Error> {
    let wrong = |reason: String| unusable(path, reason);
    let tables = tables.into_array().ok().filter(|all| !all.is_empty());
    let tables = tables.ok_or_else(|| {
        wrong("workspaces is not a list of tables: [[workspaces]] in TOML begins each".to_owned())
    })?;
    if tables.len() > MOST_WORKSPACES {
        let count = tables.len();
        return Err(wrong(format!(
            "{count} workspaces are too many for one agent; at most {MOST_WORKSPACES} are possible"
        )));
    }
    let (mut names, mut urls) = (HashSet::new(), HashMap::new());
    let mut all = Vec::new();
    for (number, table) in (1..).zip(tables) {
        let table = workspace(number, table, path, known)?;
        let name = &table.name;
        if !names.insert(name.clone()) {
            return Err(wrong(format!("two workspaces have the name {name:?}")));
        }
        let url = table
            .values
            .iter()
            .find(|(name, url)| name == "PREFECT_API_URL" && !url.is_empty());
        let (_, url) =
            url.ok_or_else(|| wrong(format!("workspace {name:?} needs its own prefect_api_url")))?;
        if let Some(other) = urls.insert(normalized(url), name.clone()) {
            return Err(wrong(format!(
                "the workspaces {other:?} and {name:?} have the same prefect_api_url"
            )));
        }
        all.push(table);
    }
    Ok(all)
}

fn workspace(number: usize, table: Value, path: &Path, known: &Known) -> Result<Table, Error> {
    let wrong = |reason: &str| unusable(path, format!("workspace {number} {reason}"));
    let values = table.into_table();
    let mut values = values.map_err(|_| wrong("is not a table"))?;
    let name = values.remove(NAME).and_then(|name| text(&name));
    let name = name.filter(|name| is_name(name)).ok_or_else(|| {
        wrong(&format!(
            "needs a name of 1 to {LONGEST_NAME} characters, without control characters"
        ))
    })?;
    let of_prefect: Known = known
        .iter()
        .filter(|(_, setting)| setting.group == Group::Prefect)
        .map(|(name, setting)| (name.clone(), *setting))
        .collect();
    let unknown = |key: &str| match known.contains_key(&key.to_ascii_uppercase()) {
        true => Error::UnknownKey {
            key: format!("{} of workspace {name:?}", message(key, LONGEST_MESSAGE)),
            path: path.to_owned(),
            hint: "only settings of the connection to Prefect can differ between workspaces"
                .to_owned(),
        },
        false => unknown_key(key, path, &of_prefect),
    };
    let values = settings(&values, &of_prefect, unknown)?;
    Ok(Table { name, values })
}

/// Equal URLs may be written differently.
fn normalized(url: &str) -> String {
    let parsed = Url::parse(url).map_or_else(|_| url.to_owned(), String::from);
    parsed.trim_end_matches('/').to_owned()
}

fn is_name(text: &str) -> bool {
    let length = text.chars().count();
    (1..=LONGEST_NAME).contains(&length)
        && !text.chars().any(char::is_control)
        && text.trim() == text
}

fn key(name: &str) -> String {
    name.to_ascii_lowercase()
}

fn unknown_key(written: &str, path: &Path, known: &Known) -> Error {
    let near = nearest_key(written, known.keys().map(String::as_str));
    Error::UnknownKey {
        key: message(written, LONGEST_MESSAGE).into_owned(),
        path: PathBuf::from(path),
        hint: match near {
            Some(near) => format!("did you mean {}?", key(near)),
            None => "`prefect-otel-agent settings` lists all".to_owned(),
        },
    }
}
