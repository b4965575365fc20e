//! Where settings come from, and their order: defaults < file < environment < flags.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use config::{Config, File, Source, Value, ValueKind};

use super::table::{SETTINGS, Setting};
use super::{Error, SIGNALS, table::for_signal};

/// What the process was started with.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file of `--config`.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags, by the environment's spelling.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The environment of this process, and nothing else.
    pub fn from_process() -> Self {
        Sources {
            environment: std::env::vars_os().collect(),
            ..Sources::default()
        }
    }
}

/// The merged settings, not yet checked.
pub(super) struct Merged {
    values: config::Map<String, Value>,
}

/// A value and where it stands.
pub(super) struct Found {
    /// The setting's name as somebody wrote it (`OTEL_EXPORTER_OTLP_METRICS_TIMEOUT`).
    pub(super) name: String,
    pub(super) value: String,
}

impl Merged {
    pub(super) fn new(sources: &Sources) -> Result<Self, Error> {
        let known: HashMap<String, &Setting> = SETTINGS
            .iter()
            .flat_map(|setting| setting.names().into_iter().map(move |name| (name, setting)))
            .collect();
        let mut builder = Config::builder();
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                builder = builder
                    .set_default(key(setting.name), default)
                    .map_err(|error| Error::Internal(error.to_string()))?;
            }
        }
        if let Some(path) = &sources.file {
            builder = builder.add_source(file(path, &known)?);
        }
        builder = builder.add_source(environment(&sources.environment, &known)?);
        for (name, value) in &sources.flags {
            builder = builder
                .set_override(key(name), value.as_str())
                .map_err(|error| Error::Internal(error.to_string()))?;
        }
        let merged = builder.build().and_then(|config| config.collect());
        let values = merged.map_err(|error| Error::Internal(error.to_string()))?;
        Ok(Merged { values })
    }

    /// The value of `name`, or the content of the file that `NAME_FILE` names.
    pub(super) fn find(&self, setting: &Setting, name: &str) -> Result<Option<Found>, Error> {
        let written = self.written(setting, name)?;
        if !setting.is_secret() {
            return Ok(written);
        }
        let file_name = format!("{name}_FILE");
        match (written, self.written(setting, &file_name)?) {
            (Some(_), Some(_)) => Err(Error::Twice {
                name: name.to_owned(),
                file_name,
            }),
            (None, Some(Found { value: path, .. })) => {
                let text = read(&file_name, Path::new(&path))?;
                let value = text.trim_end_matches(['\r', '\n']).to_owned();
                Ok((!value.is_empty()).then_some(Found {
                    name: file_name,
                    value,
                }))
            }
            (written, None) => Ok(written),
        }
    }

    /// The same for a setting that can be set for one signal: its own name goes before the
    /// general one.
    pub(super) fn find_for_signal(
        &self,
        setting: &Setting,
        signal: &str,
    ) -> Result<Option<Found>, Error> {
        debug_assert!(SIGNALS.contains(&signal));
        match self.find(setting, &for_signal(setting.name, signal))? {
            Some(found) => Ok(Some(found)),
            None => self.find(setting, setting.name),
        }
    }

    fn written(&self, setting: &Setting, name: &str) -> Result<Option<Found>, Error> {
        let Some(value) = self.values.get(&key(name)) else {
            return Ok(None);
        };
        if matches!(value.kind, ValueKind::Nil) {
            return Ok(None);
        }
        let shown = format!("{value}");
        let value = value
            .clone()
            .into_string()
            .map_err(|_| Error::value(setting, name, &shown))?;
        // An empty variable means one that is not set, as the OpenTelemetry specification has it.
        Ok((!value.is_empty()).then(|| Found {
            name: name.to_owned(),
            value,
        }))
    }
}

fn key(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// Reads a file that a setting names.
pub(super) fn read(setting: &str, path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File {
        setting: setting.to_owned(),
        path: path.to_owned(),
        reason: source.to_string(),
    })
}

/// Values as a source of the `config` crate.
#[derive(Debug, Clone)]
struct Given(config::Map<String, Value>);

impl Source for Given {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

fn file(path: &Path, known: &HashMap<String, &Setting>) -> Result<Given, Error> {
    let unreadable = |reason: String| Error::File {
        setting: "--config".to_owned(),
        path: path.to_owned(),
        reason,
    };
    let format = match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => config::FileFormat::Toml,
        Some("yaml" | "yml") => config::FileFormat::Yaml,
        _ => {
            return Err(unreadable(
                "its name must end in .toml, .yaml or .yml".to_owned(),
            ));
        }
    };
    let text = read("--config", path)?;
    // The parser's message shows the lines around an error, which may hold a secret: only
    // where it is, is passed on.
    let values = File::from_str(&text, format).collect().map_err(|error| {
        unreadable(format!(
            "it is not valid {}",
            first_line(&error.to_string())
        ))
    })?;
    let sorted: BTreeMap<_, _> = values.iter().collect();
    for name in sorted.keys() {
        let setting = name.to_ascii_uppercase();
        if **name != key(name) || !known.contains_key(&setting) {
            return Err(Error::UnknownKey {
                key: (*name).clone(),
                path: path.to_owned(),
                accepted: SETTINGS.iter().map(|setting| key(setting.name)).collect(),
            });
        }
    }
    Ok(Given(values))
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.contains("line") {
        format!("TOML or YAML ({line})")
    } else {
        "TOML or YAML".to_owned()
    }
}

fn environment(
    variables: &[(OsString, OsString)],
    known: &HashMap<String, &Setting>,
) -> Result<Given, Error> {
    let mut values = config::Map::new();
    for (name, value) in variables {
        let Some((name, setting)) = name
            .to_str()
            .and_then(|name| known.get(name).map(|setting| (name, setting)))
        else {
            continue;
        };
        let value = value
            .to_str()
            .ok_or_else(|| Error::value(setting, name, &value.to_string_lossy()))?;
        if !value.is_empty() {
            values.insert(key(name), Value::new(None, value));
        }
    }
    Ok(Given(values))
}
