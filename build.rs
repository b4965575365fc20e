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

/// The commit of the checkout. Within another repository (an unpacked source distribution, a
/// vendored copy), the commit is not one of this project.
fn head() -> Option<String> {
    let path_to_top = git(&["rev-parse", "--show-cdup"])?;
    path_to_top
        .is_empty()
        .then(|| git(&["rev-parse", "--short=12", "HEAD"]))?
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
