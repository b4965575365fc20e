//! The settings in use: the value and the source of each.

use super::setting::Setting;
use super::sources::{Merged, Sources, Written};
use super::table::SETTINGS;
use super::{Error, has_credentials};
use crate::docgen::{Field, Reference, Row};

/// What is shown for a secret.
const MASKED: &str = "********";

/// Every setting of `sources`, with its value and its origin; secrets are masked.
///
/// # Errors
///
/// If the sources cannot be read. Values are not checked.
pub fn report(sources: &Sources) -> Result<Reference, Error> {
    let merged = Merged::new(sources)?;
    let rows = SETTINGS.iter().flat_map(|setting| rows(&merged, setting));
    Ok(Reference {
        title: "Settings in use",
        introduction: "",
        rows: rows.collect(),
    })
}

/// The rows of a setting: its own, and one for each signal that has its own value.
fn rows(merged: &Merged, setting: &Setting) -> Vec<Row> {
    let is_file = |name: &String| setting.is_secret() && name.ends_with("_FILE");
    let names = setting.names().into_iter().filter(|name| !is_file(name));
    let unset = |name: &str| (name == setting.name).then(|| row(name, None, "not set"));
    names
        .filter_map(|name| set(merged, setting, &name).or_else(|| unset(&name)))
        .collect()
}

fn set(merged: &Merged, setting: &Setting, name: &str) -> Option<Row> {
    let Some(Written { value, origin }) = merged.written(name) else {
        return setting.is_secret().then(|| secret_file(merged, name))?;
    };
    let is_overridden = name == "SAMPLE_INTERVAL_SECONDS" && merged.is_default(name);
    if is_overridden && merged.written("OTEL_METRIC_EXPORT_INTERVAL").is_some() {
        return Some(row(name, None, "OTEL_METRIC_EXPORT_INTERVAL"));
    }
    let is_masked = setting.is_secret() || has_credentials(value);
    let value = if is_masked { MASKED } else { value };
    Some(row(name, Some(value), &origin.to_string()))
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
