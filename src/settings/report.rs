//! The settings in use: what each is, and where it comes from.

use super::setting::Setting;
use super::sources::{Merged, Sources};
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

/// The rows of a setting: its own, and one for each other name that is set.
fn rows(merged: &Merged, setting: &Setting) -> Vec<Row> {
    let names = setting.names().into_iter();
    let rows: Vec<_> = names
        .filter_map(|name| set(merged, setting, &name))
        .collect();
    match rows.is_empty() {
        true => vec![row(setting.name, None, "not set")],
        false => rows,
    }
}

fn set(merged: &Merged, setting: &Setting, name: &str) -> Option<Row> {
    let written = merged.written(name)?;
    let is_overridden = name == "SAMPLE_INTERVAL_SECONDS" && merged.is_default(name);
    if is_overridden && merged.written("OTEL_METRIC_EXPORT_INTERVAL").is_some() {
        return Some(row(name, None, "OTEL_METRIC_EXPORT_INTERVAL"));
    }
    // The path of a file that holds a secret is none.
    let is_file = setting.is_secret() && name.ends_with("_FILE");
    let is_masked = (setting.is_secret() && !is_file) || has_credentials(&written.value);
    let value = match is_masked {
        true => MASKED,
        false => &written.value,
    };
    Some(row(name, Some(value), &written.origin.to_string()))
}

fn row(name: &str, value: Option<&str>, source: &str) -> Row {
    vec![
        ("setting", Field::Name(Some(name.to_owned()))),
        ("value", Field::Name(value.map(str::to_owned))),
        ("source", Field::Text(source.to_owned())),
    ]
}
