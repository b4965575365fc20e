//! Puts the commit that is built into the binary, for `--version`.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/refs/heads");
    println!("cargo:rerun-if-env-changed=PREFECT_OTEL_AGENT_COMMIT");
    // An image is built without the repository: its builder names the commit.
    let commit = std::env::var("PREFECT_OTEL_AGENT_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty())
        .or_else(head)
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=PREFECT_OTEL_AGENT_COMMIT={commit}");
}

fn head() -> Option<String> {
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let commit = String::from_utf8(output.stdout).ok()?;
    Some(commit.trim().to_owned())
}
