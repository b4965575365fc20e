//! The reference of the settings, made from their declarations.

use std::fmt::Write as _;

use super::table::{SETTINGS, Setting};
use crate::docgen::{Field, Reference, Row};

const INTRODUCTION: &str = "\
Written by `prefect-otel-agent settings --format markdown`, from the declarations in `src/settings/table.rs`.

Order: defaults < `--config FILE` (TOML or YAML) < environment < flags. A setting has one name in three
spellings: `MAX_RETRIES`, `max_retries = 3`, `--max-retries 3`. Booleans are `True`/`False`, `true`/`false`, `1`/`0`.
An empty variable is treated as unset. With an invalid value, or an unknown key in the file, the agent does not start:
exit code 2, and one line that names it. Secrets have no flag.";

/// The reference of every setting.
pub fn reference() -> Reference {
    Reference {
        title: "Settings",
        introduction: INTRODUCTION,
        rows: SETTINGS.iter().map(row).collect(),
    }
}

fn row(setting: &Setting) -> Row {
    let mut help = setting.help.to_owned();
    if setting.is_secret() {
        _ = write!(help, " Or `{}_FILE`: a file that holds it.", setting.name);
    }
    if setting.is_per_signal() {
        help.push_str(" Also for one signal (`…_OTLP_METRICS_…`, `…_TRACES_…`, `…_LOGS_…`).");
    }
    vec![
        ("setting", Field::Name(Some(setting.name.to_owned()))),
        ("default", Field::Name(setting.default.map(str::to_owned))),
        ("accepts", Field::Text(setting.accepts.to_owned())),
        ("meaning", Field::Text(help)),
    ]
}
