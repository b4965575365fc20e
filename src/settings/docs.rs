//! The documentation of the settings, generated from their declarations.

use std::fmt::Write as _;

use super::table::SETTINGS;

/// A Markdown table of every setting.
pub fn markdown() -> String {
    let mut text = String::from("| setting | default | accepts | |\n|---|---|---|---|\n");
    for setting in SETTINGS {
        let default = setting
            .default
            .map(|default| format!("`{default}`"))
            .unwrap_or_default();
        let mut help = setting.help.to_owned();
        if setting.is_secret() {
            let _ = write!(help, " Or `{}_FILE`: a file that holds it.", setting.name);
        }
        if setting.is_per_signal() {
            help.push_str(" Also for one signal (`…_OTLP_METRICS_…`, `…_TRACES_…`, `…_LOGS_…`).");
        }
        let accepts = setting.accepts.replace('|', "\\|");
        let _ = writeln!(
            text,
            "| `{}` | {default} | {accepts} | {help} |",
            setting.name
        );
    }
    text
}
