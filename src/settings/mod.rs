//! All settings: their sources, defaults and validation.
//!
//! [`table`] declares them, `sources` merges defaults, a Prefect profile, file, environment and
//! flags, and the other modules turn the values into [`Settings`]. Secrets are wrapped, so that
//! neither `Debug` nor a log can print them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

mod config_file;
pub mod docs;
mod endpoint;
mod file;
mod metrics;
mod near;
mod otel;
mod pem;
mod prefect;
mod profile;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod proxy;
mod reader;
mod reload;
pub mod report;
mod setting;
mod shown;
mod sources;
pub mod table;
mod web;
mod workspaces;

pub use endpoint::{Protocol, Signal};
pub(crate) use file::{bounded_yaml, read as read_file, read_bounded};
pub use metrics::{Metrics, Shard};
pub use otel::{Compression, MetricsExporters, Otel, Otlp, OtlpHeaders, Temporality};
pub use pem::{OwnCertificate, identity};
pub use prefect::{Authentication, CLOUD, Cloud, Credentials, Prefect};
pub use profile::Profile;
use reader::Reader;
pub use reload::{Reload, Reloads, Watched};
use shown::shown;
pub use sources::Sources;
use table::{SETTINGS, Setting};
pub(crate) use web::{BEARER_TOKEN_FILE, WEB_CONFIG_FILE};
pub use web::{Token, Web};
pub use workspaces::Workspace;

/// Why the settings cannot be used: one line, without secrets.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value that is not valid.
    #[error("{name}: {value} is not valid; accepted: {accepts}")]
    Value {
        /// The setting.
        name: String,
        /// Its value, quoted, or a placeholder for a secret's.
        value: String,
        /// The accepted values.
        accepts: String,
    },
    /// A key of the configuration file that is not a setting.
    #[error("--config {}: unknown key {key:?}; {hint}", path.display())]
    UnknownKey {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
        /// The key that was probably meant, or where to find all keys.
        hint: String,
    },
    /// A file that cannot be read.
    #[error("{setting}: cannot use the file {}: {reason}", path.display())]
    File {
        /// The setting with its path.
        setting: String,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A secret that is set both directly and by a file.
    #[error("{name} and {file_name} are both set; set one of them")]
    Twice {
        /// The setting.
        name: String,
        /// The setting for its file.
        file_name: String,
    },
    /// A bug in this program.
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

/// All settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How to connect to Prefect; with several workspaces, to the first of them.
    pub prefect: Prefect,
    /// The workspaces that the file names.
    pub workspaces: Vec<Workspace>,
    /// What is read, and how often.
    pub sampling: Sampling,
    /// The folder for the checkpoint.
    pub state_dir: Option<PathBuf>,
    /// Which metrics are exported, and how.
    pub metrics: Metrics,
    /// The address on which `/metrics` is served.
    pub metrics_address: SocketAddr,
    /// What protects the endpoints on that address.
    pub web: Web,
    /// Logs.
    pub log: Log,
    /// Exporters.
    pub otel: Otel,
    /// Warnings about the settings, one line each, without secrets.
    pub warnings: Vec<String>,
}

/// What is read, and how often.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// The time between two cycles.
    pub interval: Duration,
    /// How often the inventory is read.
    pub inventory_interval: Duration,
    /// How far ahead scheduled runs are read; `None` means all of them.
    pub scheduled_lookahead: Option<Duration>,
    /// The window of the flow-run families.
    pub offset: Duration,
    /// The window of the failed-runs families; `None` disables them.
    pub failed_runs_offset: Option<Duration>,
    /// Maximum number of failed runs per deployment, flow and state name.
    pub failed_runs_limit: usize,
    /// How far back the agent reads finished runs after a restart.
    pub catch_up: Duration,
    /// Also count task runs.
    pub task_runs: bool,
}

/// The agent's own logs.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    /// The minimum severity.
    pub level: tracing_subscriber::filter::LevelFilter,
    /// The output format.
    pub format: LogFormat,
}

/// The output format of log messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Plain text.
    Text,
    /// JSON, for log collectors.
    Json,
}

impl Settings {
    /// The settings whose files are read again while the agent runs.
    pub fn reloads(&self) -> Reloads {
        let otel = &self.otel;
        let signals = [&otel.otlp_metrics, &otel.otlp_traces, &otel.otlp_logs];
        let headers = signals.into_iter().flatten();
        let headers = headers.filter_map(|otlp| Some(otlp.reload.as_ref()?.watched()));
        let workspaces = self.workspaces.iter().map(|workspace| &workspace.prefect);
        let all = std::iter::once(&self.prefect).chain(workspaces);
        let prefect = all.filter_map(|prefect| Some(prefect.reload.as_ref()?.watched()));
        let all = prefect.chain(headers).chain(&self.web.watched);
        Reloads(all.cloned().collect())
    }

    /// The settings of each workspace, with its name if there are several.
    pub fn each(&self) -> Vec<(Option<Arc<str>>, Settings)> {
        if self.workspaces.is_empty() {
            return vec![(None, self.clone())];
        }
        let all = self.workspaces.iter().map(|Workspace { name, prefect }| {
            let settings = Settings {
                prefect: prefect.clone(),
                workspaces: Vec::new(),
                ..self.clone()
            };
            (Some(Arc::clone(name)), settings)
        });
        all.collect()
    }

    /// Merges and validates the settings from `sources`.
    ///
    /// # Errors
    ///
    /// If a value is not valid, a key in the file is unknown, or a file cannot be read. The first
    /// error is returned.
    pub fn load(sources: &Sources) -> Result<Self, Error> {
        proxy::learn_passwords(sources);
        let reader = Reader::new(sources)?;
        let workspaces = workspaces::load(&reader)?;
        let settings = Settings {
            prefect: match workspaces.first() {
                Some(first) => first.prefect.clone(),
                None => prefect::load(&reader)?,
            },
            workspaces,
            sampling: sampling(&reader)?,
            state_dir: reader.optional("STATE_DIR", |text| {
                (!text.is_empty()).then(|| PathBuf::from(text))
            })?,
            metrics: metrics::load(&reader)?,
            metrics_address: address(&reader)?,
            web: web::load(&reader)?,
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

    /// Only where the agent listens, and its web configuration file. No secret is read: one whose
    /// file cannot be read must not make a running agent unhealthy.
    ///
    /// # Errors
    ///
    /// If one of these settings is not valid, or the file of `--config` cannot be used.
    pub fn load_endpoint(sources: &Sources) -> Result<(SocketAddr, Option<PathBuf>), Error> {
        let reader = Reader::new(sources)?;
        Ok((address(&reader)?, web::config_file(&reader)?))
    }
}

fn address(reader: &Reader) -> Result<SocketAddr, Error> {
    Ok(SocketAddr::new(
        reader.required("METRICS_ADDR", |text| text.parse::<IpAddr>().ok())?,
        reader.required("METRICS_PORT", |text| text.parse().ok())?,
    ))
}

fn sampling(reader: &Reader) -> Result<Sampling, Error> {
    let own = reader.required("SAMPLE_INTERVAL_SECONDS", seconds)?;
    let standard = reader.lenient("OTEL_METRIC_EXPORT_INTERVAL", None, |text| {
        integer(text, 1_000, 86_400_000).map(Duration::from_millis)
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
        failed_runs_limit: reader.required("FAILED_RUNS_LIMIT", |text| integer(text, 1, 1_000))?,
        catch_up: reader.required("CATCH_UP_HOURS", |text| {
            integer(text, 1, 720).map(|hours: u64| Duration::from_secs(hours.saturating_mul(3600)))
        })?,
        task_runs: reader.required("TASK_RUNS_ENABLED", boolean)?,
    })
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "True" | "true" | "1" => Some(true),
        "False" | "false" | "0" => Some(false),
        _ => None,
    }
}

fn integer<T: FromStr + PartialOrd>(text: &str, least: T, most: T) -> Option<T> {
    text.parse()
        .ok()
        .filter(|value| (least..=most).contains(value))
}

fn seconds(text: &str) -> Option<Duration> {
    integer(text, 1, 86_400).map(Duration::from_secs)
}

fn minutes(text: &str, least: u64, most: u64) -> Option<Duration> {
    integer(text, least, most).map(|minutes| Duration::from_secs(minutes.saturating_mul(60)))
}

fn web_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let usable = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none();
    usable.then_some(url)
}

/// The level names of Python's logging and of tracing.
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
