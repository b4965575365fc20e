//! The active Prefect profile, which `prefect profile use` selects.
//!
//! It is found in the same way as by Prefect's client (`prefect/settings/sources.py`), except for
//! `.env`, `prefect.toml` and `pyproject.toml` in the working directory, which belong to a project
//! and not to a service.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use config::Value;

use super::file::{invalid, parse, text};

/// The settings that are taken from a profile.
pub(super) const SETTINGS: [&str; 5] = [
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_CLIENT_CUSTOM_HEADERS",
    "PREFECT_API_SSL_CERT_FILE",
];

/// The name and location of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// The file that contains it.
    pub path: PathBuf,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "profile {:?} in {}", self.name, self.path.display())
    }
}

/// The active profile and its values, if it has an API URL. A file that cannot be
/// used is a warning, not an error: the agent can run without a profile.
pub(super) fn active(
    variable: impl Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) -> Option<(Profile, BTreeMap<String, String>)> {
    let path = path(&variable)?;
    let chosen = variable("PREFECT_PROFILE");
    let is_expected = chosen.is_some() || variable("PREFECT_PROFILES_PATH").is_some();
    match read(&path, chosen, is_expected) {
        Ok(found) => found,
        Err(reason) => {
            warnings.push(format!(
                "no Prefect profile is used: {}: {reason}",
                path.display()
            ));
            None
        }
    }
}

fn path(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(path) = variable("PREFECT_PROFILES_PATH") {
        return Some(PathBuf::from(path));
    }
    let folder = variable("PREFECT_HOME").map(PathBuf::from);
    let home = || Some(Path::new(&variable("HOME")?).join(".prefect"));
    Some(folder.or_else(home)?.join("profiles.toml"))
}

type Found = Option<(Profile, BTreeMap<String, String>)>;

fn read(path: &Path, chosen: Option<String>, is_expected: bool) -> Result<Found, String> {
    let content = match std::fs::read_to_string(path) {
        Ok(content) => content,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_expected => {
            return Ok(None);
        }
        Err(error) => return Err(error.to_string()),
    };
    let mut file = parse(&content, config::FileFormat::Toml)?;
    let active = || text(file.get("active")?);
    let Some(name) = chosen.or_else(active) else {
        return Ok(None);
    };
    let profiles = file.remove("profiles").map(Value::into_table);
    let mut profiles = profiles
        .unwrap_or_else(|| Ok(config::Map::new()))
        .map_err(|_| invalid("`profiles` is not a table"))?;
    let Some(profile) = profiles.remove(&name) else {
        let mut names: Vec<_> = profiles.into_keys().collect();
        names.sort();
        return Err(format!(
            "there is no profile {name:?}; available: {}",
            names.join(", ")
        ));
    };
    let values = profile
        .into_table()
        .map_err(|_| invalid(&format!("profile {name:?} is not a table")))?;
    let values: BTreeMap<_, _> = values
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), text(value)?)))
        .collect();
    let profile = Profile {
        name,
        path: path.to_owned(),
    };
    let has_url = values.contains_key("PREFECT_API_URL");
    Ok(has_url.then_some((profile, values)))
}
