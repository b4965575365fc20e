//! Arguments and exit codes.

use crate::support::process::agent_command;

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = agent_command(environment).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_bad_setting_is_exit_code_2_and_one_line() {
    for (arguments, environment, expected) in [
        (
            &["--pagination-limit", "0"][..],
            &[][..],
            "PAGINATION_LIMIT: \"0\"",
        ),
        (&[], &[("MAX_RETRIES", "many")], "MAX_RETRIES: \"many\""),
        (&["--config", "/nonexistent.toml"], &[], "/nonexistent.toml"),
        (
            &[],
            &[("PREFECT_API_AUTH_STRING", "hunter2")],
            "PREFECT_API_AUTH_STRING",
        ),
    ] {
        let (code, stdout, stderr) = run(arguments, environment);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(expected) && stdout.is_empty(), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(!stderr.contains("hunter2"));
    }
}

#[test]
fn an_unknown_flag_is_exit_code_2() {
    let (code, _, stderr) = run(&["--frobnicate"], &[]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("--frobnicate"), "{stderr}");
}

#[test]
fn help_and_version_are_answered() {
    let (code, help, _) = run(&["--help"], &[]);
    assert_eq!(code, Some(0));
    assert!(
        help.contains("--prefect-api-url") && help.contains("--otel-metrics-exporter"),
        "{help}"
    );
    assert!(!help.contains("--prefect-api-key"), "secrets have no flag");
    let (code, version, _) = run(&["--version"], &[]);
    assert_eq!(code, Some(0));
    let expected = concat!("prefect-otel-agent ", env!("CARGO_PKG_VERSION"), " (");
    assert!(version.starts_with(expected), "{version}");
}

#[test]
fn metrics_and_settings_are_printed_as_they_stand_in_the_documentation() {
    for name in ["metrics", "settings"] {
        let print = |format: &str| {
            let output = agent_command(&[])
                .args([name, "--format", format])
                .output()
                .unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        };
        let file = format!("{}/docs/{name}.md", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(print("markdown"), std::fs::read_to_string(file).unwrap());
        let json: serde_json::Value = serde_json::from_str(&print("json")).unwrap();
        let rows = json.as_array().unwrap().len();
        assert_eq!(print("table").lines().count(), rows + 1);
        assert!(rows > 30);
    }
}
