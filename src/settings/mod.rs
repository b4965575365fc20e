//! Every setting: where it comes from, its default, its check.
//!
//! [`table`] declares them, `sources` merges defaults, file, environment and flags, and this
//! file turns their values into [`Settings`]. Secrets are wrapped so that neither `Debug`
//! nor a log can print them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;
use secrecy::SecretString;

pub mod docs;
mod metrics;
mod otel;
mod sources;
pub mod table;

pub use metrics::Metrics;
pub use otel::{Compression, MetricsExporters, Otel, Otlp, Protocol, Signal, Temporality};
pub use sources::Sources;
use sources::{Found, Merged};
use table::{SETTINGS, Setting};

const SIGNALS: [&str; 3] = ["METRICS", "TRACES", "LOGS"];

/// Why the settings cannot be used. One line each; no secret in any of them.
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
    #[error("--config {}: unknown key {key:?}; accepted: {}", path.display(), accepted.join(", "))]
    UnknownKey {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
        /// All keys.
        accepted: Vec<String>,
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
    /// Not the user's fault.
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
        let value = match setting.is_secret() {
            true => "its value (not shown)".to_owned(),
            false => format!("{value:?}"),
        };
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
    /// Where metrics and traces go.
    pub otel: Otel,
}

/// How Prefect is reached.
#[derive(Debug, Clone)]
pub struct Prefect {
    /// The API, without a slash at its end.
    pub api_url: Url,
    /// How the agent authenticates.
    pub credentials: Credentials,
    /// Fetch a CSRF token before being asked to.
    pub csrf_enabled: bool,
    /// Tries after the first.
    pub max_retries: usize,
    /// Of one request.
    pub request_timeout: Duration,
    /// Requests at one time.
    pub max_concurrent_requests: usize,
    /// Read every page.
    pub pagination_enabled: bool,
    /// Objects a page.
    pub pagination_limit: usize,
}

/// How the agent authenticates at Prefect.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// Not at all.
    None,
    /// An API key.
    Bearer(SecretString),
    /// User and password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: SecretString,
    },
}

/// What is asked, and how often.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// Between two cycles.
    pub interval: Duration,
    /// Between two readings of the inventory.
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
        let reader = Reader {
            merged: Merged::new(sources)?,
        };
        Ok(Settings {
            prefect: prefect(&reader)?,
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
        })
    }
}

fn prefect(reader: &Reader) -> Result<Prefect, Error> {
    let key = reader.optional("PREFECT_API_KEY", |text| {
        text.chars()
            .all(|c| c.is_ascii_graphic())
            .then(|| SecretString::from(text))
    })?;
    let basic = reader.optional("PREFECT_API_AUTH_STRING", |text| {
        let (user, password) = text.split_once(':')?;
        Some(Credentials::Basic {
            user: user.to_owned(),
            password: SecretString::from(password),
        })
    })?;
    Ok(Prefect {
        api_url: reader.required("PREFECT_API_URL", |text| {
            let url = web_url(text)?;
            Url::parse(url.as_str().trim_end_matches('/')).ok()
        })?,
        credentials: key
            .map(Credentials::Bearer)
            .or(basic)
            .unwrap_or(Credentials::None),
        csrf_enabled: reader.required("PREFECT_CSRF_ENABLED", boolean)?,
        max_retries: reader.required("MAX_RETRIES", |text| whole(text, 0, 20))?,
        request_timeout: reader.required("REQUEST_TIMEOUT_SECONDS", seconds)?,
        max_concurrent_requests: reader
            .required("MAX_CONCURRENT_REQUESTS", |text| whole(text, 1, 64))?,
        pagination_enabled: reader.required("PAGINATION_ENABLED", boolean)?,
        pagination_limit: reader.required("PAGINATION_LIMIT", |text| whole(text, 1, 1_000_000))?,
    })
}

fn sampling(reader: &Reader) -> Result<Sampling, Error> {
    let own = reader.optional("SAMPLE_INTERVAL_SECONDS", seconds)?;
    let standard = reader.optional("OTEL_METRIC_EXPORT_INTERVAL", |text| {
        whole(text, 1_000, 86_400_000).map(Duration::from_millis)
    })?;
    Ok(Sampling {
        interval: own.or(standard).unwrap_or(Duration::from_secs(30)),
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
}

impl Reader {
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
        let setting = self.setting(name)?;
        parsed(setting, self.merged.find(setting, name)?, parse)
    }

    /// For a setting with a default.
    fn required<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, Error> {
        self.optional(name, parse)?
            .ok_or_else(|| Error::Internal(format!("{name} has no default")))
    }

    fn of_signal<T>(
        &self,
        name: &str,
        signal: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let setting = self.setting(name)?;
        parsed(
            setting,
            self.merged.find_for_signal(setting, signal)?,
            parse,
        )
    }

    /// The same for one signal of a setting with a default.
    fn required_of_signal<T>(
        &self,
        name: &str,
        signal: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Error> {
        self.of_signal(name, signal, parse)?
            .ok_or_else(|| Error::Internal(format!("{name} has no default")))
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
    let parsed = parse(value.trim());
    if parsed.is_none() && !setting.is_secret() && value.contains("://") && value.contains('@') {
        // A URL with a password in it: refused, and not shown either.
        return Err(Error::Value {
            name,
            value: "its value (not shown: it holds credentials)".to_owned(),
            accepts: setting.accepts.to_owned(),
        });
    }
    parsed
        .map(Some)
        .ok_or_else(|| Error::value(setting, &name, &value))
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
