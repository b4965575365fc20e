//! Files of settings, in TOML or YAML.

use config::{File, FileFormat, Source as _, Value, ValueKind};

/// The values in a file. The parser's message quotes the lines around an error, which may contain a
/// secret, so only the position of the error is kept.
pub(super) fn parse(
    content: &str,
    format: FileFormat,
) -> Result<config::Map<String, Value>, String> {
    let parsed = File::from_str(content, format).collect();
    parsed.map_err(|error| {
        let message = error.to_string();
        let first = message.lines().next().unwrap_or_default();
        let place = first.contains("line").then_some(first);
        invalid(place.unwrap_or_default())
    })
}

/// Why a file of settings cannot be used.
pub(super) fn invalid(reason: &str) -> String {
    match reason.is_empty() {
        true => "it is not valid TOML or YAML".to_owned(),
        false => format!("it is not valid TOML or YAML ({reason})"),
    }
}

/// A value in the format of a variable; a table as JSON. `None` for null and for lists.
pub(super) fn text(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::Nil | ValueKind::Array(_) => None,
        ValueKind::Table(_) => {
            let table: serde_json::Value = value.clone().try_deserialize().ok()?;
            Some(table.to_string())
        }
        _ => value.clone().into_string().ok(),
    }
}
