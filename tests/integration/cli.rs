//! Arguments and exit codes.

use std::process::{Command, Stdio};

use crate::support::prefect::free_port;
use crate::support::process::{agent_command, run_agent as run};

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

#[test]
fn health_asks_the_address_of_its_own_flags_and_says_why_there_is_no_answer() {
    let port = free_port().to_string();
    let flags = [
        "health",
        "--metrics-port",
        &port,
        "--metrics-addr",
        "127.0.0.1",
    ];
    let (code, _, stderr) = run(&flags, &[("METRICS_PORT", "1")]);
    assert_eq!(code, Some(1));
    let expected = format!("no answer from http://127.0.0.1:{port}/healthz: Connection refused");
    assert!(stderr.contains(&expected), "{stderr}");
}

#[test]
fn colours_are_for_terminals_and_not_with_no_color() {
    let agent = env!("CARGO_BIN_EXE_prefect-otel-agent");
    let on_a_terminal = |no_color: &str| {
        // `script` gives the command a terminal.
        let output = Command::new("script")
            .args(["--quiet", "--command"])
            .arg(format!("{agent} check --max-retries many"))
            .arg("/dev/null")
            .env("NO_COLOR", no_color)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let colored = on_a_terminal("");
    assert!(colored.contains("\u{1b}[31mFAIL"), "{colored:?}");
    let plain = on_a_terminal("1");
    assert!(
        plain.contains("FAIL") && !plain.contains('\u{1b}'),
        "{plain:?}"
    );
}

#[test]
fn settings_are_flags_of_each_command_before_and_after_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    let file = file.to_str().unwrap();
    std::fs::write(file, "max_retries = 77\n").unwrap();
    for name in ["run", "once", "health"] {
        for arguments in [[name, "--max-retries", "88"], ["--max-retries", "88", name]] {
            let (code, _, stderr) = run(&arguments, &[("MAX_RETRIES", "99")]);
            assert_eq!(code, Some(2), "{stderr}");
            assert!(stderr.contains("MAX_RETRIES: \"88\""), "{stderr}");
        }
        for arguments in [[name, "--config", file], ["--config", file, name]] {
            let (code, _, stderr) = run(&arguments, &[]);
            assert_eq!(code, Some(2), "{stderr}");
            assert!(stderr.contains("MAX_RETRIES: \"77\""), "{stderr}");
        }
    }
}

#[test]
fn check_ends_quietly_if_nobody_reads_what_it_prints() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_prefect-otel-agent"))
        .args(["check", "--max-retries", "many"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_ne!(output.status.code(), Some(0));
}

/// The commands that print a text, without the settings or with them.
const PRINTING: [&[&str]; 9] = [
    &["--help"],
    &["once", "--help"],
    &["--version"],
    &["completions", "bash"],
    &["man"],
    &["metrics"],
    &["settings", "--format", "json"],
    &["config"],
    &["config", "--format", "json"],
];

#[test]
fn a_full_disk_is_exit_code_1_and_one_line() {
    let commands = PRINTING
        .into_iter()
        .chain([&["check", "--max-retries", "many"][..]]);
    for arguments in commands {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let output = agent_command(&[])
            .args(arguments)
            .stdout(full.unwrap())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(
            stderr.contains("stdout: No space left on device"),
            "{arguments:?}: {stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    for arguments in PRINTING {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = agent_command(&[])
            .args(arguments)
            .stdout(writer)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}
