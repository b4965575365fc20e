//! The active Prefect profile, which `prefect profile use` selects.
//!
//! It is found in the same way as by Prefect's client (`prefect/settings/sources.py`), except for
//! `.env`, `prefect.toml` and `pyproject.toml` in the working directory, which belong to a project
//! and not to a service.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use config::Value;

use super::file::{invalid, parse, read_bounded, text};
use crate::docgen::visible;

/// The settings that are taken from a profile.
pub(super) const SETTINGS: [&str; 6] = [
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_CLIENT_CUSTOM_HEADERS",
    "PREFECT_API_SSL_CERT_FILE",
    "PREFECT_API_TLS_INSECURE_SKIP_VERIFY",
];

/// Of these, the ones that authenticate the agent: one replaces the other.
pub(super) const CREDENTIALS: [&str; 2] = ["PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"];

/// The name and location of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// The file of the profiles.
    pub path: PathBuf,
    /// Whether it is one of Prefect's own, which the file does not contain.
    pub is_built_in: bool,
}

/// The profiles that Prefect's client has without a file (`prefect/settings/profiles.toml`), and
/// their API URLs.
const BUILT_IN: [(&str, Option<&str>); 4] = [
    ("cloud", None),
    ("ephemeral", None),
    ("local", Some("http://127.0.0.1:4200/api")),
    ("test", None),
];

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_built_in {
            true => write!(f, "profile {:?}, built into Prefect", self.name),
            false => write!(f, "profile {:?} in {}", self.name, self.path.display()),
        }
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
    let user = variable("HOME");
    let folder = variable("PREFECT_HOME").unwrap_or_else(|| "~/.prefect".to_owned());
    let folder = expanded(&folder, user.as_deref());
    let Some(path) = variable("PREFECT_PROFILES_PATH") else {
        return Some(folder?.join("profiles.toml"));
    };
    let Some(folder) = folder else {
        return Some(PathBuf::from(path));
    };
    let path = path.replace("$PREFECT_HOME", &folder.to_string_lossy());
    expanded(&path, user.as_deref()).or_else(|| Some(PathBuf::from(path)))
}

/// A path whose leading `~` is replaced by the user's folder; `None` if that is not known. A shell
/// replaces it only if it is not quoted.
fn expanded(path: &str, user: Option<&str>) -> Option<PathBuf> {
    match path.strip_prefix('~') {
        Some("") => user.map(PathBuf::from),
        Some(rest) if rest.starts_with('/') => {
            Some(Path::new(user?).join(rest.trim_start_matches('/')))
        }
        _ => Some(PathBuf::from(path)),
    }
}

pub(super) type Found = Option<(Profile, BTreeMap<String, String>)>;

fn read(path: &Path, chosen: Option<String>, is_expected: bool) -> Result<Found, String> {
    let content = read_bounded(path);
    if path.exists() {
        return choose(&content?, path, chosen);
    }
    let name = chosen.as_deref().unwrap_or_default();
    match built_in(name) {
        Some(url) => Ok(of_prefect(name, url, path)),
        None if is_expected => content.map(|_| None),
        None => Ok(None),
    }
}

/// The profile `chosen`, or the active one, in the content of the file.
pub(super) fn choose(content: &str, path: &Path, chosen: Option<String>) -> Result<Found, String> {
    let mut file = parse(content, config::FileFormat::Toml)?;
    let active = || text(file.get("active")?);
    let Some(name) = chosen.or_else(active) else {
        return Ok(None);
    };
    let profiles = file.remove("profiles").map(Value::into_table);
    let mut profiles = profiles
        .unwrap_or_else(|| Ok(config::Map::new()))
        .map_err(|_| invalid("`profiles` is not a table"))?;
    let Some(profile) = profiles.remove(&name) else {
        if let Some(url) = built_in(&name) {
            return Ok(of_prefect(&name, url, path));
        }
        let mut names: Vec<_> = profiles.into_keys().collect();
        names.extend(BUILT_IN.map(|(name, _)| name.to_owned()));
        names.sort();
        names.dedup();
        return Err(format!(
            "there is no profile {name:?}; available: {}",
            visible(&names.join(", "))
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
        is_built_in: false,
    };
    let has_url = values.contains_key("PREFECT_API_URL");
    Ok(has_url.then_some((profile, values)))
}

/// The URL of one of Prefect's own profiles; the outer `None` is for other names.
fn built_in(name: &str) -> Option<Option<&'static str>> {
    let mut all = BUILT_IN.into_iter();
    all.find_map(|(known, url)| (known == name).then_some(url))
}

/// One of Prefect's own profiles, if it has a URL.
fn of_prefect(name: &str, url: Option<&str>, path: &Path) -> Found {
    let profile = Profile {
        name: name.to_owned(),
        path: path.to_owned(),
        is_built_in: true,
    };
    let values = BTreeMap::from([("PREFECT_API_URL".to_owned(), url?.to_owned())]);
    Some((profile, values))
}
