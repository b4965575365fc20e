//! Every setting: where it comes from, its default, its check.
//!
//! [`table`] declares them, `sources` merges defaults, a Prefect profile, file, environment and
//! flags, and this file and its neighbours turn their values into [`Settings`]. Secrets are wrapped
//! so that neither `Debug` nor a log can print them.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;

pub mod docs;
mod metrics;
mod near;
mod otel;
mod prefect;
mod profile;
pub mod report;
mod setting;
mod sources;
pub mod table;

pub use metrics::Metrics;
pub use otel::{Compression, MetricsExporters, Otel, Otlp, Protocol, Signal, Temporality};
pub use prefect::{Credentials, Prefect};
pub use profile::Profile;
pub use sources::Sources;
use sources::{Found, Merged};
use table::{SETTINGS, Setting};

/// Why the settings cannot be used: one line, without secrets.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value that cannot be used.
    #[error("{name}: {value} cannot be used; accepted: {accepts}")]
    Value {
        /// The setting.
        name: String,
        /// Its value, quoted, or a placeholder for a secret's.
        value: String,
        /// What would be accepted.
        accepts: String,
    },
    /// A key of the configuration file that is not a setting.
    #[error("--config {}: unknown key {key:?}; {hint}", path.display())]
    UnknownKey {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
        /// The key that was probably meant, or all of them.
        hint: String,
    },
    /// A file that cannot be read.
    #[error("{setting}: cannot use the file {}: {reason}", path.display())]
    File {
        /// The setting that names it.
        setting: String,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A secret and the file of the same secret.
    #[error("{name} and {file_name} are both set; set one of them")]
    Twice {
        /// The setting.
        name: String,
        /// The setting for its file.
        file_name: String,
    },
    /// A mistake in this program.
    #[error("settings: {0}")]
    Internal(String),
}

impl Error {
    /// A value that the rest of the program cannot use.
    pub fn unusable(name: &str, value: &str) -> Self {
        let setting = SETTINGS.iter().find(|setting| setting.name == name);
        setting.map_or_else(
            || Error::Internal(format!("{name} is not declared")),
            |setting| Error::value(setting, name, value),
        )
    }

    fn value(setting: &Setting, name: &str, value: &str) -> Self {
        let value = shown(setting, value);
        Error::Value {
            name: name.to_owned(),
            value,
            accepts: setting.accepts.to_owned(),
        }
    }
}

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How Prefect is reached.
    pub prefect: Prefect,
    /// What is asked, and how often.
    pub sampling: Sampling,
    /// Where the checkpoint is kept.
    pub state_dir: Option<PathBuf>,
    /// What is exported.
    pub metrics: Metrics,
    /// Where `/metrics` is served.
    pub metrics_address: SocketAddr,
    /// Logs.
    pub log: Log,
    /// Exporters.
    pub otel: Otel,
    /// Warnings about the settings, one line each, without secrets.
    pub warnings: Vec<String>,
}

/// What is asked, and how often.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// Between two cycles.
    pub interval: Duration,
    /// How often the inventory is read.
    pub inventory_interval: Duration,
    /// How far ahead scheduled runs are read; `None` is all of them.
    pub scheduled_lookahead: Option<Duration>,
    /// The window of the flow-run families.
    pub offset: Duration,
    /// The window of the failed-runs families; `None` is off.
    pub failed_runs_offset: Option<Duration>,
    /// Newest failed runs shown for each deployment, flow and state name.
    pub failed_runs_limit: usize,
    /// How far back a restart reads what ended meanwhile.
    pub catch_up: Duration,
    /// Count task runs too.
    pub task_runs: bool,
}

/// The agent's own logs.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    /// How much.
    pub level: tracing_subscriber::filter::LevelFilter,
    /// How.
    pub format: LogFormat,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For log collectors.
    Json,
}

impl Settings {
    /// Merges and checks what `sources` say.
    ///
    /// # Errors
    ///
    /// The first value that cannot be used, an unknown key of the file, a file that cannot
    /// be read.
    pub fn load(sources: &Sources) -> Result<Self, Error> {
        let reader = Reader::new(sources)?;
        let settings = Settings {
            prefect: prefect::load(&reader)?,
            sampling: sampling(&reader)?,
            state_dir: reader.optional("STATE_DIR", |text| {
                (!text.is_empty()).then(|| PathBuf::from(text))
            })?,
            metrics: metrics::load(&reader)?,
            metrics_address: SocketAddr::new(
                reader.required("METRICS_ADDR", |text| text.parse::<IpAddr>().ok())?,
                reader.required("METRICS_PORT", |text| text.parse().ok())?,
            ),
            log: Log {
                level: reader.required("LOG_LEVEL", level)?,
                format: reader.required("LOG_FORMAT", |text| match text {
                    "text" => Some(LogFormat::Text),
                    "json" => Some(LogFormat::Json),
                    _ => None,
                })?,
            },
            otel: Otel::load(&reader)?,
            warnings: Vec::new(),
        };
        Ok(Settings {
            warnings: reader.warnings.into_inner(),
            ..settings
        })
    }
}

fn sampling(reader: &Reader) -> Result<Sampling, Error> {
    let own = reader.required("SAMPLE_INTERVAL_SECONDS", seconds)?;
    let standard = reader.lenient("OTEL_METRIC_EXPORT_INTERVAL", None, |text| {
        whole(text, 1_000, 86_400_000).map(Duration::from_millis)
    })?;
    let standard = standard.filter(|_| reader.merged.is_default("SAMPLE_INTERVAL_SECONDS"));
    Ok(Sampling {
        interval: standard.unwrap_or(own),
        inventory_interval: reader.required("INVENTORY_INTERVAL_SECONDS", seconds)?,
        scheduled_lookahead: reader.required("SCHEDULED_LOOKAHEAD_MINUTES", |text| match text {
            "all" => Some(None),
            text => minutes(text, 0, 525_600).map(Some),
        })?,
        offset: reader.required("OFFSET_MINUTES", |text| minutes(text, 1, 10_080))?,
        failed_runs_offset: Some(reader.required("FAILED_RUNS_OFFSET_MINUTES", |text| {
            minutes(text, 0, 525_600)
        })?)
        .filter(|offset| !offset.is_zero()),
        failed_runs_limit: reader.required("FAILED_RUNS_LIMIT", |text| whole(text, 1, 1_000))?,
        catch_up: reader.required("CATCH_UP_HOURS", |text| {
            whole(text, 1, 720).map(|hours: u64| Duration::from_secs(hours * 3600))
        })?,
        task_runs: reader.required("TASK_RUNS_ENABLED", boolean)?,
    })
}

/// Reads settings off the merged sources by their declaration.
struct Reader {
    merged: Merged,
    warnings: RefCell<Vec<String>>,
}

impl Reader {
    fn new(sources: &Sources) -> Result<Self, Error> {
        let mut merged = Merged::new(sources)?;
        let warnings = std::mem::take(&mut merged.warnings);
        Ok(Reader {
            merged,
            warnings: warnings.into(),
        })
    }

    /// Keeps a warning, once: a setting may be read for several signals.
    fn warn(&self, warning: String) {
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    fn setting(&self, name: &str) -> Result<&'static Setting, Error> {
        SETTINGS
            .iter()
            .find(|setting| setting.name == name)
            .ok_or_else(|| Error::Internal(format!("{name} is not declared")))
    }

    fn optional<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        self.of_signal(name, None, parse)
    }

    /// For a setting with a default.
    fn required<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, Error> {
        self.optional(name, parse)?
            .ok_or_else(|| Error::Internal(format!("{name} has no default")))
    }

    /// For a setting that one signal can have of its own.
    fn of_signal<T>(
        &self,
        name: &str,
        signal: Option<Signal>,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let setting = self.setting(name)?;
        parsed(setting, self.merged.find_for(setting, signal)?, parse)
    }

    /// For a setting of the OpenTelemetry specification: a value that cannot be used is a warning,
    /// and counts as not set. The variables may be those of a whole cluster, and the value one
    /// that other programs support.
    fn lenient<T>(
        &self,
        name: &str,
        signal: Option<Signal>,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let setting = self.setting(name)?;
        let Some(found) = self.merged.find_for(setting, signal)? else {
            return Ok(None);
        };
        let value = parse(found.value.trim());
        if value.is_some() {
            return Ok(value);
        }
        self.warn_of(setting, &found);
        Ok(setting.default.and_then(parse))
    }

    /// The same for a setting with a default.
    fn lenient_required<T>(
        &self,
        name: &str,
        signal: Option<Signal>,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Error> {
        self.lenient(name, signal, parse)?
            .ok_or_else(|| Error::Internal(format!("{name} has no default")))
    }

    fn warn_of(&self, setting: &Setting, found: &Found) {
        let value = shown(setting, &found.value);
        let instead = match setting.default {
            Some(default) => format!("using {default}"),
            None => "it is ignored".to_owned(),
        };
        self.warn(format!(
            "{}: {value} is not supported; accepted: {}; {instead}",
            found.name, setting.accepts
        ));
    }
}

fn parsed<T>(
    setting: &Setting,
    found: Option<Found>,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    let Some(Found { name, value }) = found else {
        return Ok(None);
    };
    parse(value.trim())
        .map(Some)
        .ok_or_else(|| Error::value(setting, &name, &value))
}

/// A value in a message: quoted, unless it is a secret, or a URL with a password in it.
fn shown(setting: &Setting, value: &str) -> String {
    match (setting.is_secret(), has_credentials(value)) {
        (true, _) => "its value (not shown)".to_owned(),
        (false, true) => "its value (not shown: it holds credentials)".to_owned(),
        (false, false) => format!("{value:?}"),
    }
}

fn has_credentials(value: &str) -> bool {
    value.contains("://") && value.contains('@')
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "True" | "true" | "1" => Some(true),
        "False" | "false" | "0" => Some(false),
        _ => None,
    }
}

fn whole<T: FromStr + PartialOrd>(text: &str, least: T, most: T) -> Option<T> {
    text.parse()
        .ok()
        .filter(|value| (least..=most).contains(value))
}

fn seconds(text: &str) -> Option<Duration> {
    whole(text, 1, 86_400).map(Duration::from_secs)
}

fn minutes(text: &str, least: u64, most: u64) -> Option<Duration> {
    whole(text, least, most).map(|minutes| Duration::from_secs(minutes * 60))
}

fn web_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let usable = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none();
    usable.then_some(url)
}

/// Names as Python's logging has them, and as tracing has them.
fn level(text: &str) -> Option<tracing_subscriber::filter::LevelFilter> {
    use tracing_subscriber::filter::LevelFilter;
    Some(match text.to_ascii_uppercase().as_str() {
        "TRACE" => LevelFilter::TRACE,
        "DEBUG" => LevelFilter::DEBUG,
        "INFO" => LevelFilter::INFO,
        "WARNING" | "WARN" => LevelFilter::WARN,
        "ERROR" | "CRITICAL" => LevelFilter::ERROR,
        "OFF" => LevelFilter::OFF,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
