//! The references are generated from the code: `UPDATE_DOCS=1 cargo test documentation` writes
//! them. Every command that the documentation shows is run, here or by another check.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use prefect_otel_agent::docgen::{Format, Reference};
use prefect_otel_agent::{metrics, settings};
use wildmatch::WildMatch;

use crate::support::process::{Process, agent_command};
use crate::support::programs::programs;
use crate::support::small_stub;
use crate::support::stack::{project, project_text, run};

/// `file` is what `reference` generates, or is updated.
fn check(file: &str, reference: &Reference) {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = reference.render(Format::Markdown);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    assert!(
        std::fs::read_to_string(&path).unwrap() == text,
        "{file} is stale: run UPDATE_DOCS=1 cargo test documentation"
    );
}

#[test]
fn the_reference_of_settings_is_current() {
    check("docs/settings.md", &settings::docs::reference());
}

#[test]
fn the_reference_of_metrics_is_current() {
    check("docs/metrics.md", &metrics::docs::reference());
}

/// The benchmarks write their tables between marks.
#[test]
fn the_tables_of_a_benchmark_are_the_same_wherever_they_are() {
    let places = [
        ("beside the exporter", "README.md", "docs/performance.md"),
        ("fleets", "docs/scaling.md", "docs/performance.md"),
    ];
    for (name, one, other) in places {
        let table = |file: &str| {
            let text = project_text(file);
            let (_, rest) = text.split_once(&format!("<!-- {name} -->\n")).unwrap();
            let (table, _) = rest.split_once(&format!("<!-- end of {name} -->")).unwrap();
            table.to_owned()
        };
        assert_eq!(table(one), table(other), "{name}");
        assert!(table(one).lines().count() > 5, "{name}: {}", table(one));
    }
}

/// The text of every file in a folder of the source, below it too.
fn sources(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let texts = entries.flat_map(|entry| match entry.path() {
        path if path.is_dir() => sources(&path),
        path if path.extension().is_some_and(|extension| extension == "rs") => {
            vec![std::fs::read_to_string(path).unwrap()]
        }
        _ => Vec::new(),
    });
    texts.collect()
}

#[test]
fn the_recipes_quote_the_code_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let (_, recipes) = page.split_once("\n## Recipes\n").unwrap();
    let quotes = blocks(recipes, "rust");
    assert!(quotes.len() > 8, "{}", quotes.len());
    let sources = sources(&root.join("src"));
    for quote in quotes {
        let quote = quote.trim_end();
        let is_there = sources.iter().any(|source| source.contains(quote));
        assert!(
            is_there,
            "docs/architecture.md quotes what is not in src:\n{quote}"
        );
    }
}

#[test]
fn a_changed_help_text_makes_a_reference_stale() {
    let mut reference = metrics::docs::reference();
    let before = reference.render(Format::Markdown);
    let (name, _) = reference.rows[0].pop().unwrap();
    let changed = prefect_otel_agent::docgen::Field::Text("Another text.".into());
    reference.rows[0].push((name, changed));
    assert_ne!(reference.render(Format::Markdown), before);
}

/// What runs a command of the documentation.
#[derive(Clone, Copy)]
enum By {
    /// This test: the agent is started as shown, and its commands are run with a server.
    Agent,
    /// A check of `.ci/run`: a file that it runs, and what this file has for the command.
    Check(&'static str, &'static str),
    /// `deploy/helm/check`, which runs every command of docs/kubernetes.md without a cluster.
    Kubernetes,
    /// Tests of that name exist.
    Tests,
    /// Needs a Docker engine, so its files, services, targets and variables are compared with those
    /// of the repository. `tests/integration/{compose,image,stack}.rs` check what they contain.
    Docker,
}

/// The commands, as patterns of `wildmatch`. The first one that matches counts.
const COMMANDS: &[(&str, By)] = &[
    ("prefect-otel-agent*", By::Agent),
    ("target/release/prefect-otel-agent --version", By::Agent),
    (
        "cargo test",
        By::Check(".ci/run", "\ncargo test --locked\n"),
    ),
    ("cargo test *", By::Tests),
    (
        "cargo bench --bench fleet",
        By::Check("benches/fleet.rs", "cargo bench --bench fleet"),
    ),
    (
        "cargo bench --bench beside*",
        By::Check("benches/beside.rs", "cargo bench --bench beside"),
    ),
    (
        "cargo bench --bench time",
        By::Check("benches/time.rs", "cargo bench --bench time"),
    ),
    (
        "cargo bench --bench instructions",
        By::Check(
            ".ci/check-instructions",
            "cargo bench --locked --bench instructions",
        ),
    ),
    (
        "cargo build*",
        By::Check("packaging/build", "build --release --locked"),
    ),
    (
        "cargo run -p numbers --example step*",
        By::Check("tests/integration/tutorial.rs", "step3_histogram"),
    ),
    (
        "curl 'http://127.0.0.1:8081/square?num=7'",
        By::Check("tests/integration/tutorial.rs", "/square?num=7"),
    ),
    (
        "curl 'http://127.0.0.1:8081/metrics'",
        By::Check("tests/integration/tutorial.rs", "{url}/metrics"),
    ),
    (
        "examples/service/load*",
        By::Check("tests/integration/stack.rs", "examples/service/load"),
    ),
    ("./demo/run", By::Check(".ci/check-demo", "demo/run")),
    ("fuzz/run *", By::Check("fuzz/run", "cargo fuzz run")),
    (
        "tests/soak/run *",
        By::Check("tests/soak/run", "--test integration memory_and_counts"),
    ),
    ("grafana/build", By::Check(".ci/run", "grafana/build")),
    (
        "grafana/build --check",
        By::Check(".ci/run", "grafana/build --check"),
    ),
    ("grafana/lint", By::Check(".ci/run", "grafana/lint")),
    (
        "pip install prefect-otel-agent",
        By::Check("packaging/try-wheel", "\"install\""),
    ),
    ("uv*", By::Check("packaging/try-wheel", "uvx")),
    (
        "pip install maturin",
        By::Check("packaging/requirements.txt", "maturin=="),
    ),
    (
        "maturin build --release --locked --out dist",
        By::Check("packaging/build", "build --release --locked"),
    ),
    (
        "packaging/build x86_64-unknown-linux-musl dist",
        By::Check(".github/workflows/release.yml", "packaging/build"),
    ),
    (
        "rustup target add x86_64-unknown-linux-musl",
        By::Check(".github/workflows/release.yml", "rustup target add"),
    ),
    (
        "tar xzf prefect-otel-agent-*",
        By::Check(
            "packaging/test_release.py",
            "test_the_archive_has_an_executable_binary",
        ),
    ),
    (
        "sudo install prefect-otel-agent-*",
        By::Check(
            "packaging/test_release.py",
            "test_the_archive_has_an_executable_binary",
        ),
    ),
    ("docker *", By::Docker),
    ("helm *", By::Kubernetes),
    ("kubectl *", By::Kubernetes),
];

/// The blocks of a Markdown text in `language`, without their indentation.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let indentation = line.len() - line.trim_start().len();
        if line.trim_start() != format!("```{language}") {
            continue;
        }
        let block = lines.by_ref().take_while(|line| line.trim() != "```");
        let block = block.map(|line| line.get(indentation..).unwrap_or_default());
        blocks.push(block.collect::<Vec<_>>().join("\n"));
    }
    blocks
}

/// README.md, SECURITY.md and what is in docs: path and text.
fn documents() -> Vec<(String, String)> {
    let in_folder = |folder: &str| {
        let files = std::fs::read_dir(project(folder)).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let names = names.filter(|name| name.ends_with(".md"));
        names
            .map(|name| format!("{folder}/{name}"))
            .collect::<Vec<_>>()
    };
    let mut paths = vec!["README.md".to_owned(), "SECURITY.md".to_owned()];
    paths.extend(
        ["docs", "docs/runbooks"]
            .iter()
            .flat_map(|folder| in_folder(folder)),
    );
    let text = |path: String| (path.clone(), project_text(&path));
    paths.into_iter().map(text).collect()
}

/// The commands of a block: one line each, without comments.
fn commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ").replace("|\n", "| ");
    let lines = joined.lines().map(|line| {
        let line = line.split(" # ").next().unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .flat_map(|line| line.split(" && ").map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// The variables that a command sets, and the command.
fn variables(command: &str) -> (Vec<(&str, &str)>, &str) {
    let mut set = Vec::new();
    let mut rest = command;
    // What a substitution prints may have spaces.
    while let Some((name, value)) = rest.split_once('=') {
        if !name
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        {
            break;
        }
        let end = match value.strip_prefix("\"$(") {
            Some(substitution) => substitution.find(")\"").unwrap() + 5,
            None => value.find(' ').unwrap(),
        };
        set.push((name, value[..end].trim_matches('\'')));
        rest = value[end..].trim_start();
    }
    (set, rest)
}

/// Starts the agent as shown, and stops it. Only ports and folders are others.
fn start_agent(set: &[(&str, &str)], arguments: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "pnu_key").unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let paths = [
        ("/run/secrets/prefect-api-key", key.as_path()),
        ("/var/lib/prefect-otel-agent", state.as_path()),
    ];
    let here = |value: &str| {
        let other = paths.iter().find(|(path, _)| *path == value);
        other.map_or(Path::new(value), |(_, path)| path).to_owned()
    };
    let mut command = agent_command(&[]);
    command.args(arguments);
    command.envs(set.iter().map(|(name, value)| (name, here(value))));
    command
        .env("METRICS_ADDR", "127.0.0.1")
        .env("METRICS_PORT", "0")
        // No request leaves this machine.
        .envs(["HTTP_PROXY", "HTTPS_PROXY"].map(|name| (name, "http://127.0.0.1:9")));
    let agent = Process::start(&mut command);
    agent.wait_for_line("listening_on");
}

/// Starts the agent, or runs one of its commands, for the Prefect server at `prefect`.
fn run_agent(set: &[(&str, &str)], command: &str, prefect: &str) {
    let words = command.split(' ').skip(1);
    let arguments: Vec<&str> = words
        .take_while(|word| !["|", ">"].contains(word))
        .collect();
    match arguments.as_slice() {
        [] | ["--config", ..] => start_agent(set, &arguments),
        _ => {
            let mut command = agent_command(set);
            let here = [
                ("PREFECT_API_URL", prefect),
                ("METRICS_ADDR", "127.0.0.1"),
                ("METRICS_PORT", "0"),
                ("OTEL_METRICS_EXPORTER", "prometheus"),
            ];
            run(command.args(&arguments).envs(here));
        }
    }
}

/// Names in `cargo test`: of a test, or of a file of tests.
fn check_tests(command: &str) {
    let mut words = command.split(' ').skip(2).take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        if word == "--test" {
            words.next();
        } else if word != "--locked" {
            let sources = Command::new("grep")
                .args(["--recursive", "--quiet", "--extended-regexp"])
                .arg(format!(
                    "^ *(pub )?(async )?fn [a-z0-9_]*{word}|^mod {word};"
                ))
                .args([project("tests"), project("src")])
                .status()
                .unwrap();
            assert!(sources.success(), "no test is called {word}");
        }
    }
}

/// Files, services, targets and variables of a `docker` command exist.
fn check_docker(command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    let compose = project_text("compose.yml");
    let settings = project_text("docs/settings.md");
    for pair in words.windows(2) {
        match pair[0] {
            "-f" => assert!(project(pair[1]).exists(), "{command}"),
            "--target" => {
                let stage = format!(" AS {}\n", pair[1]);
                assert!(project_text("Dockerfile").contains(&stage), "{command}");
            }
            "--build-arg" => {
                let argument = format!("ARG {}", pair[1].split('=').next().unwrap());
                assert!(project_text("Dockerfile").contains(&argument), "{command}");
            }
            "-e" | "--env" => {
                let name = format!("`{}`", pair[1].split('=').next().unwrap());
                assert!(settings.contains(&name), "{command}");
            }
            _ => {}
        }
    }
    let known = ["build", "run", "compose", "volume", "push"];
    assert!(known.contains(&words[1]), "{command}");
    if words[1] != "compose" {
        return;
    }
    // Options of subcommands have their value in the same word.
    let rest = words[2..]
        .split(|word| ["stop", "exec", "run", "up"].contains(word))
        .nth(1);
    let services = rest
        .unwrap_or_default()
        .iter()
        .filter(|word| !word.starts_with('-'));
    let several = words.contains(&"stop");
    for service in services.take(if several { usize::MAX } else { 1 }) {
        assert!(
            compose.contains(&format!("\n  {service}:\n")),
            "{command}: {service}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_documentation_is_run() {
    let stub = small_stub().await;
    tokio::task::block_in_place(|| run_commands(&stub.url));
}

fn run_commands(prefect: &str) {
    let kubernetes = blocks(&project_text("docs/kubernetes.md"), "sh");
    let kubernetes: Vec<_> = kubernetes
        .iter()
        .flat_map(|block| commands(block))
        .collect();
    let mut used = BTreeSet::new();
    for (path, text) in documents() {
        let inline = text.split('`').skip(1).step_by(2);
        let inline = inline.filter(|code| code.starts_with("cargo "));
        let inline = inline.map(|code| code.split_whitespace().collect::<Vec<_>>().join(" "));
        let shown = blocks(&text, "sh");
        let shown = shown.iter().flat_map(|block| commands(block));
        for whole in shown.chain(inline) {
            let (set, command) = variables(&whole);
            let matches = |(pattern, _): &&(&str, By)| WildMatch::new(pattern).matches(command);
            let Some((pattern, by)) = COMMANDS.iter().find(matches) else {
                panic!("{path}: nothing runs {command}");
            };
            used.insert(pattern);
            match by {
                By::Agent => run_agent(&set, command, prefect),
                By::Check(file, needle) => {
                    assert!(
                        project_text(file).contains(needle),
                        "{file} has no {needle}"
                    );
                }
                By::Kubernetes => assert!(kubernetes.contains(&whole), "{path}: {whole}"),
                By::Tests => check_tests(command),
                By::Docker => check_docker(command),
            }
        }
    }
    assert!(project_text("deploy/helm/check").contains("docs/kubernetes.md"));
    let unused = COMMANDS
        .iter()
        .filter(|(pattern, _)| !used.contains(pattern));
    let unused: Vec<_> = unused.map(|(pattern, _)| pattern).collect();
    assert!(unused.is_empty(), "no document has {unused:?}");
}

#[test]
fn commands_are_read_as_a_shell_reads_them() {
    let block = "A=1 B='*' \\\n  agent --flag  # why\n# a comment\none && two |\n  three";
    let found = commands(block);
    assert_eq!(found, ["A=1 B='*' agent --flag", "one", "two | three"]);
    let (set, command) = variables(&found[0]);
    assert_eq!(
        (set, command),
        (vec![("A", "1"), ("B", "*")], "agent --flag")
    );
    let (set, command) = variables("C=\"$(git rev-parse HEAD)\" docker up");
    assert_eq!((set[0].0, command), ("C", "docker up"));
    let indented = blocks("- x\n\n  ```sh\n  a\n  ```\n", "sh");
    assert_eq!(indented, ["a"]);
}

#[test]
fn queries_and_scrape_configurations_of_the_documentation_are_valid() {
    let Some(programs) = programs("queries_and_scrape_configurations") else {
        return;
    };
    let promtool = || Command::new(programs.join("promtool"));
    let (mut queries, mut configurations) = (0, 0);
    for (_, text) in documents() {
        for query in blocks(&text, "promql") {
            run(promtool().args(["--experimental", "promql", "format", &query]));
            queries += 1;
        }
        let yaml = blocks(&text, "yaml").into_iter();
        for configuration in yaml.filter(|block| block.starts_with("scrape_configs:")) {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(&file, configuration).unwrap();
            run(promtool().args(["check", "config"]).arg(file.path()));
            configurations += 1;
        }
    }
    assert!(queries > 10 && configurations > 0);
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().replace(' ', "-")
    };
    for (path, text) in documents() {
        let folder = project(&path).parent().unwrap().to_owned();
        let targets = text
            .split("](")
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap());
        for target in targets.filter(|target| !target.contains("://") && !target.contains('`')) {
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() {
                project(&path)
            } else {
                folder.join(file)
            };
            assert!(file.exists(), "{path}: {target}");
            if !fragment.is_empty() {
                let text = std::fs::read_to_string(&file).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line) == fragment),
                    "{path}: {target}"
                );
            }
        }
    }
}
