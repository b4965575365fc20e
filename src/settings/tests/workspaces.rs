//! `workspaces` in the file.

use super::*;
use crate::settings::Credentials;

fn loaded(content: &str, environment: &[(&str, &str)]) -> Result<Settings, Error> {
    let file = file(".toml", content);
    load_all(Some(file.path().to_owned()), environment, &[])
}

fn message(content: &str) -> String {
    loaded(content, &[]).unwrap_err().to_string()
}

#[test]
fn each_workspace_has_its_own_connection_and_the_other_settings_of_all() {
    let settings = loaded(
        r#"
            prefect_api_key = "pnu_all"
            max_retries = 5
            sample_interval_seconds = 15
            [[workspaces]]
            name = "prod"
            prefect_api_url = "https://prefect.example/api/"
            prefect_api_auth_string = "admin:right"
            [[workspaces]]
            name = "Entwicklung äöü"
            prefect_api_url = "http://dev:4200/api"
            max_retries = 0
        "#,
        &[],
    )
    .unwrap();
    let each = settings.each();
    let names: Vec<_> = each.iter().map(|(name, _)| name.as_deref()).collect();
    assert_eq!(names, [Some("prod"), Some("Entwicklung äöü")]);
    let [(_, prod), (_, dev)] = each.as_slice() else {
        panic!("{each:?}");
    };
    assert_eq!(prod.prefect.api_url.as_str(), "https://prefect.example/api");
    assert_eq!(prod.prefect.max_retries, 5);
    let credentials = &prod.prefect.authentication.credentials;
    assert!(matches!(credentials, Credentials::Basic { .. }), "its own");
    assert_eq!(dev.prefect.max_retries, 0);
    let credentials = &dev.prefect.authentication.credentials;
    assert!(matches!(credentials, Credentials::Bearer(_)), "that of all");
    for (_, settings) in &each {
        assert_eq!(settings.sampling.interval, Duration::from_secs(15));
    }
}

#[test]
fn an_empty_value_of_a_workspace_is_as_if_it_were_not_there_except_for_secrets() {
    let settings = loaded(
        r#"
            prefect_api_key = "pnu_all"
            max_retries = 5
            [[workspaces]]
            name = "a"
            prefect_api_url = "http://a/api"
            prefect_api_key = ""
            max_retries = ""
        "#,
        &[],
    );
    let settings = settings.unwrap();
    let [(_, one)] = &settings.each()[..] else {
        panic!("{:?}", settings.workspaces);
    };
    assert_eq!(one.prefect.max_retries, 5);
    let credentials = &one.prefect.authentication.credentials;
    assert!(matches!(credentials, Credentials::None), "{credentials:?}");
}

#[test]
fn workspaces_on_one_server_share_the_requests_to_it() {
    let of = |name: &str, url: &str| {
        format!("[[workspaces]]\nname = \"{name}\"\nprefect_api_url = \"{url}\"\n")
    };
    let content = [
        "max_concurrent_requests = 12\n".to_owned(),
        of("a", "https://cloud/api/accounts/1/workspaces/1"),
        of("b", "https://cloud/api/accounts/1/workspaces/2"),
        of("c", "https://cloud:443/api/accounts/1/workspaces/3"),
        of("alone", "http://cloud/api"),
    ];
    let requests = |content: &str| -> Vec<_> {
        let settings = loaded(content, &[]).unwrap();
        let all = settings.workspaces.iter();
        all.map(|workspace| workspace.prefect.max_concurrent_requests)
            .collect()
    };
    assert_eq!(requests(&content.concat()), [4, 4, 4, 12]);
    let few = content.concat().replace("12", "4");
    assert_eq!(requests(&few), [2, 2, 2, 4], "two lists at a time");
    let one = content.concat().replace("12", "1");
    assert_eq!(requests(&one), [1, 1, 1, 1]);
}

#[test]
fn one_workspace_has_no_name() {
    let settings = load(&[("PREFECT_API_URL", "http://here/api")]).unwrap();
    let [(None, one)] = &settings.each()[..] else {
        panic!("{:?}", settings.workspaces);
    };
    assert_eq!(one.prefect.api_url.as_str(), "http://here/api");
}

#[test]
fn a_url_for_all_is_ignored_with_a_warning_and_so_is_the_profile() {
    let one = r#"workspaces = [{ name = "a", prefect_api_url = "http://a/api" }]"#;
    let environment = [("PREFECT_API_URL", "http://other/api")];
    let settings = loaded(one, &environment).unwrap();
    assert_eq!(settings.prefect.api_url.as_str(), "http://a/api");
    assert_eq!(
        settings.warnings,
        ["PREFECT_API_URL (environment) is ignored, because the file of --config has workspaces"]
    );
}

#[test]
fn a_workspace_that_cannot_be_used_is_named() {
    let two = |first: &str, second: &str| {
        message(&format!(
            "[[workspaces]]\n{first}\n[[workspaces]]\n{second}"
        ))
    };
    let a = "name = \"a\"\nprefect_api_url = \"http://a/api\"";
    for (content, expected) in [
        (
            message("workspaces = 1"),
            "workspaces is not a list of tables",
        ),
        (
            message("workspaces = []"),
            "workspaces is not a list of tables",
        ),
        (message("workspaces = [1]"), "workspace 1 is not a table"),
        (
            two(a, "prefect_api_url = \"http://b/api\""),
            "workspace 2 needs a name",
        ),
        (two(a, "name = \" b\""), "workspace 2 needs a name"),
        (
            two(a, "name = \"b\""),
            "workspace \"b\" needs its own prefect_api_url",
        ),
        (
            two(a, "name = \"a\"\nprefect_api_url = \"http://b/api\""),
            "two workspaces have the name \"a\"",
        ),
        (
            two(a, "name = \"b\"\nprefect_api_url = \"http://a/api/\""),
            "the workspaces \"a\" and \"b\" have the same prefect_api_url",
        ),
        (
            two(a, "name = \"b\"\nprefect_api_url = \"HTTP://A:80/api\""),
            "the workspaces \"a\" and \"b\" have the same prefect_api_url",
        ),
        (
            two(a, "name = \"b\"\nprefect_api_url = \"\""),
            "workspace \"b\" needs its own prefect_api_url",
        ),
        (
            two(a, "name = \"b\"\nprefect_api_url = \"b\""),
            "PREFECT_API_URL (workspace \"b\"): \"b\" is not valid",
        ),
        (
            two(
                a,
                "name = \"b\"\nprefect_api_url = \"http://b/api\"\nlog_level = \"INFO\"",
            ),
            "only settings of the connection to Prefect can differ",
        ),
        (
            two(
                a,
                "name = \"b\"\nprefect_api_url = \"http://b/api\"\nmax_retrys = 1",
            ),
            "did you mean max_retries?",
        ),
    ] {
        assert!(content.contains(expected), "{expected:?} in {content}");
        assert!(!content.contains('\n'), "{content}");
    }
}
