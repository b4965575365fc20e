//! Every step of docs/tutorial.md, as a reader follows it.

use std::process::Command;

use crate::support::prefect::free_port;
use crate::support::process::{Process, built, wait_for};
use crate::support::programs::programs;
use crate::support::stack::{Collector, project_text, prometheus};

/// The blocks of the tutorial in `language`.
fn blocks(language: &str) -> Vec<String> {
    let text = project_text("docs/tutorial.md");
    let begin = format!("```{language}\n");
    let rest = text.split(begin.as_str()).skip(1);
    rest.map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

/// A step as a running program; its address.
fn step(name: &str, otlp: Option<&str>) -> (Process, String) {
    let program = built(&format!("examples/{name}"));
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(program);
    command
        .arg(&address)
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    if let Some(otlp) = otlp {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", otlp);
    }
    let process = Process::start(&mut command);
    let url = format!("http://{address}");
    wait_for(name, || {
        let answer = reqwest::blocking::get(format!("{url}/square?num=7")).ok()?;
        (answer.text().unwrap() == "49\n").then_some(())
    });
    (process, url)
}

#[test]
fn the_code_shown_is_the_code_of_the_steps() {
    let steps = ["step1_bare", "step2_counter", "step3_histogram"];
    let code: String = steps
        .map(|step| project_text(&format!("examples/service/examples/{step}.rs")))
        .concat();
    let shown = blocks("rust");
    assert!(shown.len() > 6);
    for block in shown {
        assert!(code.contains(&block), "not in any step:\n{block}");
    }
    for step in steps {
        let run = format!("cargo run -p numbers --example {step}\n");
        assert!(blocks("sh").contains(&run), "{step} is not run");
    }
}

#[test]
fn each_step_shows_what_the_tutorial_says() {
    let expected = blocks("text");
    let (_bare, url) = step("step1_bare", None);
    let metrics = reqwest::blocking::get(format!("{url}/metrics")).unwrap();
    assert_eq!(metrics.status(), 404);
    for (name, expected) in ["step2_counter", "step3_histogram"].iter().zip(&expected) {
        let (_process, url) = step(name, None);
        let metrics = reqwest::blocking::get(format!("{url}/metrics")).unwrap();
        let text = metrics.text().unwrap();
        for line in expected.lines() {
            assert!(
                text.lines().any(|shown| shown == line),
                "{name}: {line}\n{text}"
            );
        }
    }
}

#[test]
fn every_question_of_the_tutorial_has_an_answer() {
    let Some(programs) = programs("every_question_of_the_tutorial_has_an_answer") else {
        return;
    };
    let collector = Collector::start(&programs);
    let (prometheus, _folder) = prometheus(&programs, &collector, None);
    let (_service, url) = step("step3_histogram", Some(&collector.otlp));
    let questions = blocks("promql");
    assert!(questions.len() > 4);
    for question in questions {
        wait_for(&question, || {
            for path in ["/square?num=3", "/square", "/nowhere"] {
                reqwest::blocking::get(format!("{url}{path}")).unwrap();
            }
            let answer = prometheus.query(&question).unwrap();
            answer
                .iter()
                .any(|(_, value)| value.is_finite())
                .then_some(())
        });
    }
}

#[test]
fn a_port_in_use_is_one_line_that_names_the_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for step in ["step1_bare", "step2_counter", "step3_histogram"] {
        let mut command = Command::new(built(&format!("examples/{step}")));
        let output = command.arg(&address).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{step}");
        assert_eq!(errors.lines().count(), 1, "{step}: {errors}");
        assert!(errors.contains(&format!(
            "cannot listen on {address}: Address already in use"
        )));
    }
}

#[test]
fn the_ports_of_the_tutorial_are_not_those_of_the_demo_or_the_stack() {
    let others = ["demo/run", "compose.yml"].map(project_text).concat();
    let mut ports = std::collections::BTreeSet::new();
    for command in blocks("sh") {
        let urls = command.split("http://127.0.0.1:").skip(1);
        ports.extend(urls.map(|url| url[..4].to_owned()));
    }
    // Where the collector of the stack receives OTLP.
    assert!(ports.remove("4318"));
    assert!(!ports.is_empty());
    for port in ports {
        assert!(!others.contains(&port), "{port}");
        for step in ["step1_bare", "step2_counter", "step3_histogram"] {
            let code = project_text(&format!("examples/service/examples/{step}.rs"));
            assert!(
                code.contains(&format!("127.0.0.1:{port}")),
                "{step}: {port}"
            );
        }
    }
}
