//! The declaration of a setting.

use super::Signal;

/// A setting as declared.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The environment's spelling.
    pub name: &'static str,
    /// The default.
    pub default: Option<&'static str>,
    /// The values that it accepts, as an error message shows them.
    pub accepts: &'static str,
    /// Its purpose.
    pub help: &'static str,
    /// The kind of setting.
    pub kind: Kind,
    /// Its group.
    pub group: Group,
}

/// Groups of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The connection to Prefect.
    Prefect,
    /// What is read from it, and how often.
    Sampling,
    /// What is exported.
    Metrics,
    /// The agent's own HTTP endpoint.
    Endpoint,
    /// Logs.
    Logging,
    /// Settings of the OpenTelemetry specification, and others for OTLP.
    OpenTelemetry,
}

impl Group {
    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Prefect => "Prefect",
            Group::Sampling => "Sampling",
            Group::Metrics => "Metrics",
            Group::Endpoint => "Endpoint",
            Group::Logging => "Logging",
            Group::OpenTelemetry => "OpenTelemetry",
        }
    }
}

/// Kinds of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A setting without special treatment.
    Plain,
    /// Never printed, never a flag; `NAME_FILE` reads it from a file.
    Secret,
    /// A setting of the OpenTelemetry specification; `OTEL_EXPORTER_OTLP_X` can be set for one
    /// signal with `OTEL_EXPORTER_OTLP_METRICS_X`, `…_TRACES_X` or `…_LOGS_X`.
    PerSignal,
    /// The same, and a secret.
    PerSignalSecret,
}

impl Setting {
    /// Whether its value must not be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::PerSignalSecret)
    }

    /// Whether its value is a URL.
    pub(super) fn is_url(&self) -> bool {
        self.name.ends_with("_URL") || self.name.ends_with("_ENDPOINT")
    }

    /// Whether it can be set for one signal.
    pub fn is_per_signal(&self) -> bool {
        matches!(self.kind, Kind::PerSignal | Kind::PerSignalSecret)
    }

    /// All its names: its own, those for one signal, and those for files.
    pub fn names(&self) -> Vec<String> {
        let mut names = vec![self.name.to_owned()];
        if self.is_per_signal() {
            let signals = Signal::ALL.map(Signal::name);
            names.extend(signals.map(|signal| for_signal(self.name, signal)));
        }
        if self.is_secret() {
            let files: Vec<_> = names.iter().map(|name| format!("{name}_FILE")).collect();
            names.extend(files);
        }
        names
    }

    /// The flag's spelling, without the leading dashes. Secrets have no flag, because the list of
    /// processes shows arguments.
    pub fn flag(&self) -> Option<String> {
        (!self.is_secret()).then(|| self.name.to_ascii_lowercase().replace('_', "-"))
    }
}

/// `OTEL_EXPORTER_OTLP_X` for one signal.
pub(super) fn for_signal(name: &str, signal: &str) -> String {
    name.replacen(
        "OTEL_EXPORTER_OTLP_",
        &format!("OTEL_EXPORTER_OTLP_{signal}_"),
        1,
    )
}
