//! The settings in use: the value and the source of each.

use super::config_file::Table;
use super::setting::Setting;
use super::shown::{MASKED, masked};
use super::sources::{Merged, Sources, Written};
use super::table::SETTINGS;
use super::{Error, Otel, Reader, sampling};
use crate::docgen::{Field, Reference, Row};

/// Every setting of `sources`, with its value and its origin; secrets are masked.
///
/// # Errors
///
/// If the sources cannot be read. Values are not checked, except that a value of an `OTEL_` setting
/// that is not supported is shown as what is used instead.
pub fn report(sources: &Sources) -> Result<Reference, Error> {
    let reader = Reader::new(sources)?;
    // Only for what they replace: `Settings::load` returns their errors.
    _ = sampling(&reader);
    _ = Otel::load(&reader);
    let workspaces = &reader.merged.workspaces;
    // Each workspace has its own URL.
    let is_used = |setting: &&Setting| workspaces.is_empty() || setting.name != "PREFECT_API_URL";
    let of_all = SETTINGS.iter().filter(is_used);
    let of_all = of_all.flat_map(|setting| rows(&reader, setting));
    let own = workspaces.iter().flat_map(|table| own(&reader, table));
    Ok(Reference {
        title: "Settings in use",
        introduction: "",
        rows: of_all.chain(own).collect(),
    })
}

/// The rows of the settings that a workspace has of its own.
fn own(reader: &Reader, table: &Table) -> Vec<Row> {
    let of_workspace = Reader::of(reader.merged.of_workspace(table));
    let is_own = |setting: &&Setting| {
        let names = setting.names();
        { table.values.iter() }.any(|(name, _)| names.contains(name))
    };
    let settings = SETTINGS.iter().filter(is_own);
    settings
        .flat_map(|setting| rows(&of_workspace, setting))
        .collect()
}

/// The rows of a setting: its own, and one for each signal that has its own value.
fn rows(reader: &Reader, setting: &Setting) -> Vec<Row> {
    let is_file = |name: &String| setting.is_secret() && name.ends_with("_FILE");
    let names = setting.names().into_iter().filter(|name| !is_file(name));
    let unset = |name: &str| (name == setting.name).then(|| row(name, None, "not set"));
    names
        .filter_map(|name| set(reader, setting, &name).or_else(|| unset(&name)))
        .collect()
}

const STANDARD: &str = "OTEL_METRIC_EXPORT_INTERVAL";

fn set(reader: &Reader, setting: &Setting, name: &str) -> Option<Row> {
    let merged = &reader.merged;
    let Some(Written { value, origin }) = merged.written(name) else {
        return setting.is_secret().then(|| secret_file(merged, name))?;
    };
    let replaced = reader.replaced.borrow();
    let is_overridden = name == "SAMPLE_INTERVAL_SECONDS" && merged.is_default(name);
    if is_overridden && merged.written(STANDARD).is_some() && !replaced.contains_key(STANDARD) {
        return Some(row(name, None, STANDARD));
    }
    let value = masked(setting, value);
    Some(match replaced.get(name) {
        Some(instead) => {
            let source = format!("{origin} (set to {value:?})");
            row(name, instead.as_deref(), &source)
        }
        None => row(name, Some(&value), &origin.to_string()),
    })
}

/// A secret that is read from a file.
fn secret_file(merged: &Merged, name: &str) -> Option<Row> {
    let file_name = format!("{name}_FILE");
    let Written { value, origin } = merged.written(&file_name)?;
    let source = format!("file {value} ({file_name}, {origin})");
    Some(row(name, Some(MASKED), &source))
}

fn row(name: &str, value: Option<&str>, source: &str) -> Row {
    vec![
        ("setting", Field::Name(Some(name.to_owned()))),
        ("value", Field::Name(value.map(str::to_owned))),
        ("source", Field::Text(source.to_owned())),
    ]
}
