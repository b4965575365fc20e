//! What must hold for any text in a setting, a file of settings, or Prefect's file of profiles.

use std::collections::HashSet;
use std::path::Path;

use config::FileFormat;

use super::config_file::{ConfigFile, known};
use super::profile;
use super::report::report;
use super::table::SETTINGS;
use super::{Settings, Sources};
use crate::metrics::Options;
use crate::properties::lines::assert_is_a_short_line;

/// Part of every secret.
const SECRET: &str = "xyzzy-s3cr3t";

/// The environment's spelling of every setting, except those whose values are paths: the files are
/// read.
fn names() -> impl Iterator<Item = (String, bool)> {
    let is_path = |name: &String| {
        let ends = ["_FILE", "_CERTIFICATE", "_CLIENT_KEY", "STATE_DIR"];
        ends.iter().any(|end| name.ends_with(end))
    };
    SETTINGS.iter().flat_map(move |setting| {
        let names = setting.names().into_iter();
        let names = names.filter(move |name| !is_path(name));
        names.map(|name| (name, setting.is_secret()))
    })
}

/// Variables, one `NAME=value` per line: the agent can use them, or says which one is wrong, in a
/// line without secrets.
pub fn variables(data: &[u8]) {
    let Ok(lines) = std::str::from_utf8(data) else {
        return;
    };
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    let pairs = pairs.filter_map(|(name, value)| {
        let (name, is_secret) = names().find(|(known, _)| known == name)?;
        // It would be no secret there.
        let value = (!value.contains(SECRET)).then_some(value)?;
        let secret = if is_secret { SECRET } else { "" };
        // An environment cannot contain NUL.
        let value = value.replace('\0', "");
        Some((name, format!("{value}{secret}")))
    });
    set(&pairs.collect::<Vec<_>>());
}

/// Loads these variables.
fn set(variables: &[(String, String)]) {
    let pairs = variables.iter();
    let sources = Sources {
        environment: pairs
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        ..Sources::default()
    };
    let loaded = Settings::load(&sources);
    let loaded = loaded.and_then(|settings| Ok((Options::new(&settings)?, settings)));
    match loaded {
        Ok((_, settings)) => can_be_used(&settings),
        Err(error) => {
            let error = error.to_string();
            let named = variables.iter().any(|(name, _)| error.contains(name));
            assert!(named, "{error}");
            has_no_secret(&error);
        }
    }
    if let Ok(report) = report(&sources) {
        has_no_secret(&format!("{:?}", report.rows));
    }
}

fn has_no_secret(text: &str) {
    assert!(!text.contains(SECRET), "{text}");
    let control = text.chars().find(|c| c.is_control());
    assert_eq!(control, None, "{text:?}");
}

fn can_be_used(settings: &Settings) {
    for warning in &settings.warnings {
        has_no_secret(warning);
    }
    let url = &settings.prefect.api_url;
    assert!(matches!(url.scheme(), "http" | "https"), "{url}");
    assert!(url.username().is_empty() && url.password().is_none());
    assert!(url.query().is_none() && url.has_host(), "{url}");
    assert!(!settings.sampling.interval.is_zero());
    let metrics = &settings.metrics;
    for buckets in [&metrics.run_duration_buckets, &metrics.start_delay_buckets] {
        assert!(buckets.is_sorted_by(|one, other| one < other));
        assert!(buckets.iter().all(|bucket| bucket.is_finite()));
    }
    let keys = metrics.attributes.iter().map(|(key, _)| key);
    for key in keys.chain(&metrics.deployment_tag_labels) {
        let label = key.replace('.', "_");
        let mut characters = label.chars();
        assert!(characters.all(|c| c.is_ascii_alphanumeric() || c == '_'));
        assert!(!label.starts_with(|c: char| c.is_ascii_digit()), "{key}");
    }
}

/// A file of profiles: it has an active profile with a URL, or not, or the reason why it cannot be
/// used is a line without its content, which may be a secret.
pub fn profiles(data: &[u8]) {
    let Ok(content) = std::str::from_utf8(data) else {
        return;
    };
    for chosen in [None, Some("local".to_owned())] {
        match profile::choose(content, Path::new("profiles.toml"), chosen) {
            Ok(Some((_, values))) => assert!(values.contains_key("PREFECT_API_URL")),
            Ok(None) => {}
            Err(reason) => assert!(!reason.contains(char::is_control), "{reason:?}"),
        }
    }
}

/// A file of settings, in TOML or YAML: it has settings, and workspaces with names and URLs of their
/// own, or the reason why it cannot be used is a line.
pub fn files(data: &[u8]) {
    let Ok(content) = std::str::from_utf8(data) else {
        return;
    };
    for format in [FileFormat::Toml, FileFormat::Yaml] {
        match ConfigFile::parse(content, format, Path::new("file"), &known()) {
            Ok(file) => {
                let all = file.workspaces.iter();
                let names: HashSet<_> = all.map(|workspace| &workspace.name).collect();
                assert_eq!(names.len(), file.workspaces.len());
            }
            Err(reason) => assert_is_a_short_line(&reason.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = String> {
        let names: Vec<_> = names().map(|(name, _)| name).collect();
        prop::sample::select(names)
    }

    /// Texts that are almost values.
    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            "\\PC{0,20}",
            "[-+]?[0-9]{1,25}(\\.[0-9]{0,3})?(e[0-9]{1,3})?",
            "(https?://)?[a-z0-9@:\\[\\]./?#%_-]{0,30}",
            "([a-zA-Z_.*?%-]{1,8}=?[a-z0-9%]{0,5},?){0,4}",
            "\\{(\"[a-zA-Z -]{0,8}\":\"\\PC{0,8}\",?){0,3}\\}",
            "(true|FALSE|1|all|none|otlp|console|grpc|delta|text|json|debug)",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn any_text_in_any_setting_is_used_or_refused_by_name(
            pairs in prop::collection::vec((name(), value()), 0..4),
        ) {
            let lines = pairs.iter().map(|(name, value)| format!("{name}={value}\n"));
            variables(lines.collect::<String>().as_bytes());
        }

        #[test]
        fn a_password_in_a_url_is_never_shown(
            name in name().prop_filter("a URL", |name| {
                name.ends_with("_URL") || name.ends_with("_ENDPOINT")
            }),
            before in "(https?:[/\\\\]{0,3}|grpc://)?[a-z0-9]{0,6}:",
            after in "@[a-z.\\[\\]]{0,9}(:[0-9]{1,6})?(/[a-z]{0,4})?",
        ) {
            let value = format!("{before}{SECRET}{after}");
            set(&[(name, value)]);
        }

        #[test]
        fn a_file_of_profiles_is_used_or_refused_without_its_content(
            lines in prop::collection::vec(
                prop_oneof![
                    Just("active = \"a\"".to_owned()),
                    Just("[profiles.a]".to_owned()),
                    Just(format!("PREFECT_API_KEY = \"{SECRET}\"")),
                    Just(format!("PREFECT_API_KEY = \"{SECRET}")),
                    Just(format!("PREFECT_API_KEY = {SECRET}")),
                    Just("PREFECT_API_URL = \"http://here/api\"".to_owned()),
                    "\\PC{0,12}",
                ],
                0..8,
            ),
        ) {
            let content = lines.join("\n");
            profiles(content.as_bytes());
            let chosen = profile::choose(&content, Path::new("profiles.toml"), None);
            let shows = chosen.is_err_and(|reason| reason.contains(SECRET));
            prop_assert!(!shows);
        }

        #[test]
        fn yaml_is_read_or_refused_without_its_content(
            content in "([a-z_]{0,8}: ?[\\[\\]{}&*!\"'a-z0-9]{0,6}\n?){0,6}",
        ) {
            let content = format!("prefect_api_key: {SECRET}\n{content}");
            let file = ConfigFile::parse(&content, FileFormat::Yaml, Path::new("file"), &known());
            if let Err(reason) = file {
                has_no_secret(&reason.to_string());
            }
        }
    }
}
