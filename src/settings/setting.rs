//! What a setting is.

use super::Signal;

/// A setting as declared.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The environment's spelling.
    pub name: &'static str,
    /// The default.
    pub default: Option<&'static str>,
    /// What a value may be: the end of an error message.
    pub accepts: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// What sort of setting it is.
    pub kind: Kind,
    /// What it belongs to.
    pub group: Group,
}

/// What settings belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// How Prefect is reached.
    Prefect,
    /// What is read from it, and how often.
    Sampling,
    /// What is exported.
    Metrics,
    /// The agent's own HTTP endpoint.
    Endpoint,
    /// Logs.
    Logging,
    /// Of the OpenTelemetry specification, and what belongs to pushing by OTLP.
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

/// What sets a setting apart from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// Never printed, never a flag; `NAME_FILE` reads it from a file.
    Secret,
    /// Of the OpenTelemetry specification; `OTEL_EXPORTER_OTLP_X` can be set for one signal
    /// by `OTEL_EXPORTER_OTLP_METRICS_X`, `…_TRACES_X` or `…_LOGS_X`.
    PerSignal,
    /// The same, and a secret.
    PerSignalSecret,
}

impl Setting {
    /// Whether its value may never be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::PerSignalSecret)
    }

    /// Whether it can be set for one signal.
    pub fn is_per_signal(&self) -> bool {
        matches!(self.kind, Kind::PerSignal | Kind::PerSignalSecret)
    }

    /// Every name under which it is known: its own, those for one signal, those of files.
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

    /// The flag's spelling, without the dashes in front; secrets have none, since arguments
    /// show in the list of processes.
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
