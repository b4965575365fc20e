//! The status page in a real browser: headless Chromium, driven by `tests/browser/check.py`.
//!
//! The script looks at the page, and asks for what it cannot do itself: it writes a line to its
//! standard output, such as `prefect down`, and continues when it has read one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use serde_json::json;

use crate::support::process::AgentProcess;
use crate::support::programs::left_out;
use crate::support::stub::Stub;
use crate::support::{fleet, small_stub};

/// A name that would run a script if it became markup.
const ODD: &str = "<script>document.title='owned'</script><img src=x onerror=alert(1)>";

fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let mut programs = names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    programs.find(|program| program.is_file())
}

/// A Python that has Playwright and axe-core.
fn python() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut script = Command::new(root.join("demo/venv"));
    script.arg("tests/browser/requirements.txt");
    let output = script
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "demo/venv failed; its message says what it needs"
    );
    Path::new(String::from_utf8(output.stdout).unwrap().trim()).join("bin/python")
}

/// A deployment with an odd name whose last run failed, and one with a late run.
fn trouble(stub: &Stub) {
    let mut contents = stub.contents();
    fleet::deploy(&mut contents, 1);
    contents.deployments[0]["name"] = json!(ODD);
    contents.flows[0]["name"] = json!(ODD);
    let mut late = fleet::run_at(1, "SCHEDULED", 300);
    late["state_name"] = json!("Late");
    late["deployment_id"] = contents.deployments[1]["id"].clone();
    let mut running = fleet::run_at(2, "RUNNING", 30);
    running["state_name"] = json!(ODD);
    contents.flow_runs.extend([late, running]);
}

/// Does what the script asks for.
fn fulfil(wish: &str, stub: &Stub, agent: &AgentProcess) {
    match wish {
        "run fails" => stub.contents().flow_runs.push(fleet::ended(0, "FAILED")),
        "prefect down" => stub.fault(|_| Some(StatusCode::UNAUTHORIZED.into_response())),
        "prefect up" => stub.heal(),
        "deployment added" => fleet::deploy(&mut stub.contents(), 2),
        "agent stops" => agent.process.signal("-STOP"),
        "agent continues" => agent.process.signal("-CONT"),
        other => panic!("the script asks for {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_works_in_chromium() {
    let Some(chromium) = chromium() else {
        return left_out(
            "the_status_page_works_in_chromium",
            "Chromium; Debian's package chromium",
        );
    };
    let stub = small_stub().await;
    trouble(&stub);
    tokio::task::block_in_place(|| {
        let agent = AgentProcess::start(&stub.url, &[]);
        let mut script = Command::new(python());
        script
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/browser/check.py"
            ))
            .arg(chromium)
            .arg(format!("http://{}", agent.address))
            .arg(&stub.url)
            .arg(concat!(env!("CARGO_TARGET_TMPDIR"), "/browser"));
        let mut script = script
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answers = script.stdin.take().unwrap();
        let wishes = BufReader::new(script.stdout.take().unwrap());
        let mut passed = 0;
        for wish in wishes.lines() {
            let wish = wish.unwrap();
            match wish.strip_prefix("passed ") {
                Some(_) => passed += 1,
                None => {
                    fulfil(&wish, &stub, &agent);
                    writeln!(answers, "done").unwrap();
                }
            }
        }
        assert!(script.wait().unwrap().success(), "its message says why");
        assert_eq!(passed, 11, "scenarios");
    });
}
