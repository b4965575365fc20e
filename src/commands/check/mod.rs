//! Tries everything that a running agent needs, and says what to do about what fails.

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

/// No single request or answer is waited for longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Nor one with everything around it: waits that a server asks for, a token.
const STEP: Duration = Duration::from_secs(10);

/// How the report is written.
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

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The agent can run so.
    Good,
    /// Something fails.
    Bad,
    /// The settings cannot be used.
    Unusable,
}

/// Checks what the agent would use with these settings, and writes the report to stdout.
///
/// # Errors
///
/// When it cannot be written.
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
                report.add(Line::skipped(what, "the settings cannot be used"))?;
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
    prefect::check(&settings, &options, &mut report).await?;
    receivers::check(&settings, &mut report).await?;
    report.add(machine::port(settings.metrics_address).await)?;
    report.add(machine::state_dir(&settings))?;
    Ok(match report.end()? {
        true => Verdict::Good,
        false => Verdict::Bad,
    })
}
