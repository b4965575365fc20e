//! Checks everything that a running agent needs, and gives a hint for each failure.

mod areas;
mod machine;
mod prefect;
mod receivers;
mod report;

use std::io;
use std::time::Duration;

use crate::metrics::Options;
use crate::settings::{self, Settings};
use crate::telemetry;
use report::{Line, Report};

/// The timeout of a single request.
const PATIENCE: Duration = Duration::from_secs(5);

/// The timeout of a request including what it requires: a CSRF token, or a wait that the server
/// demands.
const STEP: Duration = Duration::from_secs(10);

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A line for each check.
    Text,
    /// One object.
    Json,
}

impl Format {
    /// Every format by its name.
    pub const ALL: [(&'static str, Format); 2] = [("text", Format::Text), ("json", Format::Json)];
}

/// The overall result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No check failed.
    Good,
    /// At least one check failed.
    Bad,
    /// The settings are not valid.
    Unusable,
}

/// Checks what the agent would use with these settings, and writes the report to stdout.
///
/// # Errors
///
/// If the report cannot be written.
pub async fn run(
    settings: Result<Settings, settings::Error>,
    format: Format,
) -> io::Result<Verdict> {
    let stdout = io::stdout();
    let colored = telemetry::has_colors(&stdout);
    let mut report = Report::new(stdout.lock(), format, colored);
    let usable = settings.and_then(|settings| {
        let options = Options::new(&settings)?;
        Ok((settings, options))
    });
    let (settings, options) = match usable {
        Ok(usable) => usable,
        Err(error) => {
            report.add(Line::fail("settings", error.to_string()))?;
            for what in ["Prefect", "exporters", "port", "STATE_DIR"] {
                report.add(Line::skipped(what, "the settings are not valid"))?;
            }
            report.end()?;
            return Ok(Verdict::Unusable);
        }
    };
    let interval = settings.sampling.interval.as_secs();
    let exporters = settings.otel.metrics;
    let detail = format!("a cycle every {interval} s; exporters: {exporters}");
    report.add(Line::ok("settings", detail))?;
    if let Some(profile) = &settings.prefect.profile {
        report.add(Line::ok(
            "settings",
            format!("PREFECT_API_URL from {profile}"),
        ))?;
    }
    for warning in &settings.warnings {
        report.add(Line::warn("settings", warning))?;
    }
    let workspaces = settings.each();
    for (name, settings) in &workspaces {
        report.workspace.clone_from(name);
        prefect::check(settings, &options, &mut report).await?;
    }
    report.workspace = None;
    receivers::check(&settings, &mut report).await?;
    if let Some(line) = machine::security(&settings) {
        report.add(line)?;
    }
    report.add(machine::port(&settings).await)?;
    for (name, settings) in &workspaces {
        report.workspace.clone_from(name);
        report.add(machine::state_dir(settings).await)?;
    }
    Ok(match report.end()? {
        true => Verdict::Good,
        false => Verdict::Bad,
    })
}
