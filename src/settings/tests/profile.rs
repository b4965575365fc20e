//! Profiles of Prefect.

use secrecy::ExposeSecret as _;

use super::*;

/// A home folder with these profiles.
fn home(profiles: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".prefect")).unwrap();
    std::fs::write(home.path().join(".prefect/profiles.toml"), profiles).unwrap();
    home
}

const PROFILES: &str = r#"
active = "cloud"

[profiles.ephemeral]
PREFECT_SERVER_EPHEMERAL_ENABLED = "true"
PREFECT_API_KEY = "key of no url"

[profiles.cloud]
PREFECT_API_URL = "https://api.prefect.cloud/api/accounts/a/workspaces/w"
PREFECT_API_KEY = "pnu_cloud"
PREFECT_CLIENT_CUSTOM_HEADERS = '{"X-Tenant": "blue"}'

[profiles.local]
PREFECT_API_URL = "http://local:4200/api"
PREFECT_API_AUTH_STRING = "admin:local"
PREFECT_CLIENT_CUSTOM_HEADERS = { X-Tenant = "green" }
"#;

/// Settings with a home of these profiles.
fn with(profiles: &str, environment: &[(&str, &str)]) -> Result<Settings, Error> {
    let home = home(profiles);
    let path = home.path().to_str().unwrap();
    load(&[&[("HOME", path)], environment].concat())
}

fn key(settings: &Settings) -> Option<&str> {
    match &settings.prefect.authentication.credentials {
        Credentials::Bearer(key) => Some(key.expose_secret()),
        _ => None,
    }
}

#[test]
fn the_active_profile_is_used_where_no_url_is_set() {
    let settings = with(PROFILES, &[]).unwrap();
    let url = settings.prefect.api_url.as_str();
    assert_eq!(url, "https://api.prefect.cloud/api/accounts/a/workspaces/w");
    assert_eq!(key(&settings), Some("pnu_cloud"));
    assert_eq!(
        settings.prefect.authentication.headers[0].1.expose_secret(),
        "blue"
    );
    let profile = settings.prefect.profile.unwrap();
    assert_eq!(profile.name, "cloud");
    assert!(profile.path.ends_with(".prefect/profiles.toml"));
    assert!(settings.warnings.is_empty());
}

#[test]
fn a_variable_chooses_another_profile_than_the_active_one() {
    let settings = with(PROFILES, &[("PREFECT_PROFILE", "local")]).unwrap();
    assert_eq!(settings.prefect.api_url.as_str(), "http://local:4200/api");
    assert!(
        matches!(&settings.prefect.authentication.credentials, Credentials::Basic { user, .. } if user == "admin")
    );
    assert_eq!(
        settings.prefect.authentication.headers[0].1.expose_secret(),
        "green"
    );
}

#[test]
fn the_key_of_a_profile_is_never_sent_to_another_url() {
    let elsewhere = ("PREFECT_API_URL", "http://elsewhere/api");
    let settings = with(PROFILES, &[elsewhere]).unwrap();
    assert!(settings.prefect.profile.is_none());
    assert!(matches!(
        settings.prefect.authentication.credentials,
        Credentials::None
    ));
    assert!(settings.prefect.authentication.headers.is_empty());
    // From a file or a flag just as well.
    let home = home(PROFILES);
    let environment = [("HOME", home.path().to_str().unwrap())];
    let url = "prefect_api_url = \"http://elsewhere/api\"\n";
    let file = file(".toml", url);
    for (file, flags) in [(Some(file.path().into()), &[][..]), (None, &[elsewhere])] {
        let settings = load_all(file, &environment, flags).unwrap();
        assert!(matches!(
            settings.prefect.authentication.credentials,
            Credentials::None
        ));
    }
}

#[test]
fn what_else_is_set_wins_over_the_profile() {
    let settings = with(PROFILES, &[("PREFECT_API_KEY", "own")]).unwrap();
    assert_eq!(key(&settings), Some("own"));
    assert_eq!(
        settings.prefect.api_url.host_str(),
        Some("api.prefect.cloud")
    );
    // The key of the profile would take precedence over the password.
    let settings = with(PROFILES, &[("PREFECT_API_AUTH_STRING", "a:b")]).unwrap();
    assert!(matches!(
        settings.prefect.authentication.credentials,
        Credentials::Basic { .. }
    ));
    let secret = file("", "from a file");
    let path = secret.path().to_str().unwrap();
    let error = with(PROFILES, &[("PREFECT_API_KEY_FILE", path)]);
    // Read, and refused for its spaces; not in conflict with the profile's.
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("PREFECT_API_KEY_FILE: the value (not shown)"),
        "{error}"
    );
}

#[test]
fn a_profile_without_a_url_leaves_the_default_and_gives_no_key() {
    let settings = with(PROFILES, &[("PREFECT_PROFILE", "ephemeral")]).unwrap();
    assert_eq!(
        settings.prefect.api_url.as_str(),
        "http://localhost:4200/api"
    );
    assert!(matches!(
        settings.prefect.authentication.credentials,
        Credentials::None
    ));
    assert!(settings.prefect.profile.is_none() && settings.warnings.is_empty());
}

#[test]
fn profiles_are_found_where_prefect_finds_them() {
    let home = home(PROFILES);
    let folder = home.path().join(".prefect");
    let path = folder.join("profiles.toml");
    for (name, value) in [("PREFECT_HOME", &folder), ("PREFECT_PROFILES_PATH", &path)] {
        let settings = load(&[(name, value.to_str().unwrap())]).unwrap();
        assert_eq!(key(&settings), Some("pnu_cloud"), "{name}");
    }
    assert!(
        load(&[("HOME", "/nonexistent")])
            .unwrap()
            .warnings
            .is_empty()
    );
}

#[test]
fn the_home_folder_is_expanded_in_the_paths_of_prefect() {
    let home = home(PROFILES);
    let user = ("HOME", home.path().to_str().unwrap());
    let elsewhere = ("HOME", "/nonexistent");
    let folder = home.path().join(".prefect");
    let folder = ("PREFECT_HOME", folder.to_str().unwrap());
    let templated = ("PREFECT_PROFILES_PATH", "$PREFECT_HOME/profiles.toml");
    for environment in [
        &[user, ("PREFECT_HOME", "~/.prefect")][..],
        &[user, ("PREFECT_PROFILES_PATH", "~/.prefect/profiles.toml")],
        &[user, templated],
        &[user, ("PREFECT_HOME", "~/.prefect"), templated],
        &[elsewhere, folder, templated],
        &[folder, templated],
    ] {
        let settings = load(environment).unwrap();
        assert_eq!(key(&settings), Some("pnu_cloud"), "{environment:?}");
        assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    }
}

#[test]
fn profiles_that_the_file_lacks_are_those_of_prefect() {
    let local = "http://127.0.0.1:4200/api";
    let default = "http://localhost:4200/api";
    let chosen = |name: &'static str| [("PREFECT_PROFILE", name)];
    for (profiles, environment, url) in [
        ("active = \"local\"", &[][..], local),
        ("active = \"ephemeral\"", &[], default),
        ("[profiles.own]\n", &chosen("local"), local),
        ("[profiles.own]\n", &chosen("test"), default),
        ("[profiles.own]\n", &chosen("cloud"), default),
        (PROFILES, &chosen("local"), "http://local:4200/api"),
    ] {
        let settings = with(profiles, environment).unwrap();
        assert_eq!(settings.prefect.api_url.as_str(), url, "{profiles}");
        assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    }
    // Without a file.
    let settings = load(&[("HOME", "/nonexistent"), ("PREFECT_PROFILE", "local")]).unwrap();
    assert_eq!(settings.prefect.api_url.as_str(), local);
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    let profile = settings.prefect.profile.unwrap().to_string();
    assert_eq!(profile, "profile \"local\", built into Prefect");
}

#[test]
fn a_profile_that_cannot_be_used_is_a_warning_and_no_secret() {
    let missing = ("PREFECT_PROFILES_PATH", "/nonexistent/profiles.toml");
    let cases = [
        ("PREFECT_API_KEY = \"hunter2\n", None, "not valid TOML"),
        (
            "active = \"a\"\nprofiles = \"hunter2\"",
            None,
            "not a table",
        ),
        (
            "active = \"a\"\n[profiles]\na = \"hunter2\"",
            None,
            "not a table",
        ),
        (
            PROFILES,
            Some(("PREFECT_PROFILE", "staging")),
            "no profile \"staging\"; available: cloud, ephemeral, local, test",
        ),
        (
            PROFILES,
            Some(missing),
            "/nonexistent/profiles.toml: No such",
        ),
    ];
    for (profiles, variable, expected) in cases {
        let environment: Vec<_> = variable.into_iter().collect();
        let settings = with(profiles, &environment).unwrap();
        assert_eq!(
            settings.prefect.api_url.as_str(),
            "http://localhost:4200/api"
        );
        let [warning] = &settings.warnings[..] else {
            panic!("{expected}: {:?}", settings.warnings);
        };
        assert!(
            warning.contains(expected) && !warning.contains("hunter2"),
            "{warning}"
        );
        assert!(!warning.contains('\n'), "{warning}");
    }
}

#[test]
fn a_broken_file_of_profiles_is_not_even_read_where_the_url_is_set() {
    let url = [("PREFECT_API_URL", "http://elsewhere/api")];
    assert!(with("{", &url).unwrap().warnings.is_empty());
}

#[test]
fn a_bad_value_of_a_profile_names_the_profile() {
    let profile = "active = \"p\"\n[profiles.p]\nPREFECT_API_URL = \"prefect:4200\"\n";
    let error = with(profile, &[]).unwrap_err().to_string();
    assert!(
        error.starts_with("PREFECT_API_URL (profile \"p\" in /"),
        "{error}"
    );
}

#[test]
fn a_profile_that_skips_verification_is_a_warning() {
    let profile = "active = \"p\"\n[profiles.p]\nPREFECT_API_URL = \"https://h/api\"\nPREFECT_API_TLS_INSECURE_SKIP_VERIFY = true\n";
    let warnings = with(profile, &[]).unwrap().warnings;
    assert!(warnings[0].contains("PREFECT_API_TLS_INSECURE_SKIP_VERIFY"));
}
