//! The sources of settings, and their order of precedence: defaults < Prefect profile < file <
//! environment < flags.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::config_file::{self, ConfigFile, Known, Table};
use super::file::read;
use super::near::nearest_variable;
use super::profile::{self, Profile};
use super::setting::{Setting, for_signal};
use super::table::SETTINGS;
use super::{Error, Signal};
use crate::secrets;

/// The sources that the process was started with.
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
    /// Only the environment of this process.
    pub fn from_process() -> Self {
        Sources {
            environment: std::env::vars_os().collect(),
            ..Sources::default()
        }
    }

    /// The value of a variable, if it is set and not empty.
    fn variable(&self, name: &str) -> Option<String> {
        let mut variables = self.environment.iter();
        let (_, value) = variables.find(|(known, _)| known == name)?;
        let value = value.to_str()?;
        (!value.is_empty()).then(|| value.to_owned())
    }
}

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    Profile(Profile),
    File(PathBuf),
    Environment,
    Flag,
    Workspace(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Profile(profile) => profile.fmt(f),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Environment => f.write_str("environment"),
            Origin::Flag => f.write_str("flag"),
            Origin::Workspace(name) => write!(f, "workspace {name:?}"),
        }
    }
}

/// What the name of a setting ends with that has the path of a secret.
const FILE: &str = "_FILE";

/// A value as it was set, and its source.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) value: String,
    pub(super) origin: Origin,
}

/// A value and the name of the setting.
pub(super) struct Found {
    /// The name, for messages: `OTEL_EXPORTER_OTLP_METRICS_TIMEOUT`, or a name with its profile.
    pub(super) name: String,
    pub(super) value: String,
}

/// The merged settings, not yet validated.
#[derive(Debug, Clone)]
pub(super) struct Merged {
    /// By the environment's spelling.
    values: BTreeMap<String, Written>,
    /// The profile that is used.
    pub(super) profile: Option<Profile>,
    /// The workspaces of the file.
    pub(super) workspaces: Vec<Table>,
    /// Warnings about the sources.
    pub(super) warnings: Vec<String>,
}

impl Merged {
    pub(super) fn new(sources: &Sources) -> Result<Self, Error> {
        let known = config_file::known();
        let mut merged = Merged {
            values: BTreeMap::new(),
            profile: None,
            workspaces: Vec::new(),
            warnings: Vec::new(),
        };
        if let Some(path) = &sources.file {
            let file = ConfigFile::load(path, &known)?;
            for (name, value) in file.settings {
                merged.set(name, value, Origin::File(path.clone()));
            }
            merged.workspaces = file.workspaces;
        }
        merged.add_environment(&sources.environment, &known)?;
        for (name, value) in &sources.flags {
            merged.set(name.clone(), value.clone(), Origin::Flag);
        }
        if !merged.workspaces.is_empty() {
            merged.ignore_url();
        } else if !merged.values.contains_key("PREFECT_API_URL") {
            merged.add_profile(sources);
        }
        for setting in SETTINGS {
            let Some(default) = setting.default else {
                continue;
            };
            if !merged.values.contains_key(setting.name) {
                merged.set(setting.name.to_owned(), default.to_owned(), Origin::Default);
            }
        }
        Ok(merged)
    }

    /// An empty value is treated as unset, as the OpenTelemetry specification requires.
    fn set(&mut self, name: String, value: String, origin: Origin) {
        if !value.is_empty() {
            self.values.insert(name, Written { value, origin });
        }
    }

    fn add_environment(
        &mut self,
        variables: &[(OsString, OsString)],
        known: &Known,
    ) -> Result<(), Error> {
        let variables = variables.iter();
        let named = variables.filter_map(|(name, value)| Some((name.to_str()?, value)));
        let sorted: BTreeMap<_, _> = named.collect();
        for (name, value) in sorted {
            let shown = value.to_string_lossy();
            if is_service_link(name, &shown) {
                if known.contains_key(name) {
                    self.warnings.push(format!(
                        "{name}: {shown:?} is ignored, because Kubernetes sets such a variable for each Service"
                    ));
                }
                continue;
            }
            if let Some(setting) = known.get(name) {
                let value = value.to_str();
                let value = value.ok_or_else(|| Error::value(setting, name, &shown))?;
                self.set(name.to_owned(), value.to_owned(), Origin::Environment);
            } else if let Some(near) = nearest_variable(name, known.keys().map(String::as_str)) {
                self.warnings
                    .push(format!("{name} is not a setting; did you mean {near}?"));
            }
        }
        Ok(())
    }

    /// Adds the settings of the active Prefect profile that no other source sets. Key and auth
    /// string are treated as one: the profile's key does not override a password from the
    /// environment.
    fn add_profile(&mut self, sources: &Sources) {
        let active = profile::active(|name| sources.variable(name), &mut self.warnings);
        let Some((profile, values)) = active else {
            return;
        };
        let is_set = |name: &str| {
            let file = format!("{name}_FILE");
            self.values.contains_key(name) || self.values.contains_key(&file)
        };
        let has_credentials = profile::CREDENTIALS.into_iter().any(is_set);
        let is_overridden =
            |name: &str| is_set(name) || (has_credentials && profile::CREDENTIALS.contains(&name));
        let mut wanted = profile::SETTINGS.to_vec();
        wanted.retain(|name| !is_overridden(name));
        for name in wanted {
            if let Some(value) = values.get(name) {
                let origin = Origin::Profile(profile.clone());
                self.set(name.to_owned(), value.clone(), origin);
            }
        }
        self.profile = Some(profile);
    }

    /// Each workspace has its own URL.
    fn ignore_url(&mut self) {
        if let Some(Written { origin, .. }) = self.values.remove("PREFECT_API_URL") {
            self.warnings.push(format!(
                "PREFECT_API_URL ({origin}) is ignored, because the file of --config has workspaces"
            ));
        }
    }

    /// The settings of a workspace: its own, and the others as they are for all.
    pub(super) fn of_workspace(&self, workspace: &Table) -> Self {
        let mut merged = Merged {
            workspaces: Vec::new(),
            warnings: Vec::new(),
            ..self.clone()
        };
        let has_credentials = { workspace.values.iter() }
            .any(|(name, _)| profile::CREDENTIALS.contains(&without_file(name)));
        // Key and auth string are treated as one, and so are a secret and its file. An empty secret
        // means none, while any other empty value is as if it were not there.
        let own = workspace.values.iter();
        let own = own.filter(|(name, value)| !value.is_empty() || is_secret(name));
        let own: Vec<_> = own.collect();
        merged.values.retain(|name, _| {
            let name = without_file(name);
            let is_replaced = own.iter().any(|(own, _)| without_file(own) == name);
            !(is_replaced || (has_credentials && profile::CREDENTIALS.contains(&name)))
        });
        for (name, value) in &workspace.values {
            let origin = Origin::Workspace(workspace.name.clone());
            merged.set(name.clone(), value.clone(), origin);
        }
        merged
    }

    /// Only the settings with these names, and the files of their secrets.
    pub(super) fn only(&self, names: &[&str]) -> Self {
        let is_wanted = |name: &String| names.contains(&without_file(name));
        let values = self.values.iter();
        let values = values.filter(|(name, _)| is_wanted(name));
        Merged {
            values: values
                .map(|(name, written)| (name.clone(), written.clone()))
                .collect(),
            profile: None,
            workspaces: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The names of the settings with the path of a secret.
    pub(super) fn files(&self) -> Vec<String> {
        let files = SETTINGS.iter().filter(|setting| setting.is_secret());
        let files = files.flat_map(Setting::names);
        files
            .filter(|name| name.ends_with(FILE) && self.values.contains_key(name))
            .collect()
    }

    /// The value that is set for exactly this name.
    pub(super) fn written(&self, name: &str) -> Option<&Written> {
        self.values.get(name)
    }

    /// Whether a setting has its default value or no value.
    pub(super) fn is_default(&self, name: &str) -> bool {
        let written = self.written(name);
        written.is_none_or(|written| written.origin == Origin::Default)
    }

    /// The value of `name`, or the content of the file in `NAME_FILE`.
    pub(super) fn find(&self, setting: &Setting, name: &str) -> Result<Option<Found>, Error> {
        let found = |name: &str| {
            let Written { value, origin } = self.written(name)?.clone();
            let name = match origin {
                Origin::Profile(_) | Origin::Workspace(_) => format!("{name} ({origin})"),
                _ => name.to_owned(),
            };
            Some(Found { name, value })
        };
        if !setting.is_secret() {
            return Ok(found(name));
        }
        let file_name = format!("{name}{FILE}");
        match (found(name), found(&file_name)) {
            (Some(_), Some(_)) => Err(Error::Twice {
                name: name.to_owned(),
                file_name,
            }),
            (None, Some(Found { value: path, .. })) => {
                let value = read_secret(&file_name, Path::new(&path))?;
                secrets::learn([value.as_str()]);
                Ok(Some(Found {
                    name: file_name,
                    value,
                }))
            }
            (written, None) => {
                let value = written.as_ref().map(|found| found.value.trim());
                secrets::learn(value);
                Ok(written)
            }
        }
    }

    /// Like `find`, for one signal: the signal's own name takes precedence over the general one.
    pub(super) fn find_for(
        &self,
        setting: &Setting,
        signal: Option<Signal>,
    ) -> Result<Option<Found>, Error> {
        if let Some(signal) = signal {
            let own = self.find(setting, &for_signal(setting.name, signal.name()))?;
            if own.is_some() {
                return Ok(own);
            }
        }
        self.find(setting, setting.name)
    }
}

/// Kubernetes sets `X_PORT` and other variables for every Service `x` of a namespace.
fn is_service_link(name: &str, value: &str) -> bool {
    name.contains("_PORT") && (value.starts_with("tcp://") || value.starts_with("udp://"))
}

/// The name of a setting; for `NAME_FILE`, that of the secret.
fn is_secret(name: &str) -> bool {
    let name = without_file(name);
    let mut settings = SETTINGS.iter().filter(|setting| setting.is_secret());
    settings.any(|setting| setting.names().iter().any(|own| own == name))
}

fn without_file(name: &str) -> &str {
    name.strip_suffix(FILE).unwrap_or(name)
}

/// Reads the secret in the file of a setting. A file without a secret is a mistake, or being
/// written: without it, the agent would use no credentials.
fn read_secret(setting: &str, path: &Path) -> Result<String, Error> {
    let text = read(setting, path)?;
    let secret = text.trim_end_matches(['\r', '\n']);
    match secret.trim().is_empty() {
        false => Ok(secret.to_owned()),
        true => Err(Error::File {
            setting: setting.to_owned(),
            path: path.to_owned(),
            reason: format!("it is empty; write the secret to it, or unset {setting}"),
        }),
    }
}
