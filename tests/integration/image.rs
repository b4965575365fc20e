//! The image, its base images, and the images of the stack.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::compose::{PUSH, compose, list, services, stages, text, with_variables};
use crate::support::stack::project_text;

/// The stages that are needed for `target`.
fn built_for(target: &str) -> BTreeSet<String> {
    let stages = stages();
    let mut built = BTreeSet::new();
    let mut open = vec![target.to_owned()];
    while let Some(name) = open.pop() {
        let Some((_, from, lines)) = stages.iter().find(|(stage, ..)| *stage == name) else {
            continue;
        };
        open.push(from.clone());
        for line in lines {
            open.extend(line.split_once("--from=").map(|(_, rest)| {
                let (stage, _) = rest.split_once(' ').unwrap();
                stage.to_owned()
            }));
        }
        built.insert(name);
    }
    built
}

/// The images from registries, in the services and in the Dockerfile.
fn images(compose: &Value) -> BTreeSet<String> {
    let stages = stages();
    let own: BTreeSet<&str> = stages.iter().map(|(name, ..)| name.as_str()).collect();
    let bases = stages
        .iter()
        .map(|(_, from, _)| from.clone())
        .filter(|from| !own.contains(from.as_str()));
    services(compose)
        .values()
        .filter(|service| service["build"].is_null())
        .map(|service| text(&service["image"]).to_owned())
        .chain(bases)
        .collect()
}

/// The only image without a digest so far; .github/renovate.json adds it.
const WITHOUT_DIGEST: &str = "prefecthq/prefect";

#[test]
fn images_are_pinned_by_tag_and_digest_and_are_supported() {
    let Some(compose) = compose("images_are_pinned_by_tag_and_digest", PUSH) else {
        return;
    };
    for image in images(&compose) {
        let (named, digest) = image.split_once('@').unwrap_or((&image, ""));
        let (name, tag) = named.rsplit_once(':').unwrap_or((named, ""));
        assert!(!tag.is_empty() && tag != "latest", "{image} has no version");
        // Distroless has no versions, so it is pinned by digest.
        let versioned = tag.contains('.') || name.contains("distroless");
        assert!(versioned, "{image}");
        if name != WITHOUT_DIGEST {
            let digest = digest.strip_prefix("sha256:").unwrap_or_default();
            assert!(
                digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{image} has no digest"
            );
        }
        // Debian 12 is out of support.
        assert!(
            !image.contains("bookworm") && !image.contains("debian12"),
            "{image}"
        );
    }
    let renovate: Value = serde_json::from_str(&project_text(".github/renovate.json")).unwrap();
    let managers: BTreeSet<&str> = list(&renovate["enabledManagers"]).map(text).collect();
    for manager in [
        "dockerfile",
        "docker-compose",
        "cargo",
        "gomod",
        "npm",
        "pip_requirements",
        "custom.regex",
    ] {
        assert!(managers.contains(manager), "{manager}");
    }
    assert!(list(&renovate["extends"]).any(|preset| preset == "docker:pinDigests"));
}

/// The Grafana of the stack, the one that the dashboards are generated for, and the packages that
/// check them.
#[test]
fn the_versions_of_grafana_are_updated_together() {
    let frame = project_text("grafana/source/frame.py");
    let (_, made_for) = frame.split_once("\nGRAFANA = \"").unwrap();
    let (made_for, _) = made_for.split_once('"').unwrap();
    assert!(project_text("compose.yml").contains(&format!("grafana/grafana:{made_for}@")));
    let packages = [
        ("grafana/schema", "@grafana/schema"),
        ("tests/grafana", "@grafana/data"),
    ];
    for (folder, package) in packages {
        let json = project_text(&format!("{folder}/package.json"));
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["dependencies"][package], made_for, "{package}");
    }
    let renovate: Value = serde_json::from_str(&project_text(".github/renovate.json")).unwrap();
    let names = |rule: &Value| -> BTreeSet<String> {
        let names = rule["matchPackageNames"].as_array().into_iter().flatten();
        names.map(|name| text(name).to_owned()).collect()
    };
    let together = ["grafana/grafana", "@grafana/schema", "@grafana/data"];
    let together: BTreeSet<String> = together.map(str::to_owned).into();
    let grouped = |rule: &Value| rule["groupName"].is_string() && names(rule) == together;
    assert!(list(&renovate["packageRules"]).any(grouped));
    // The expression that finds the version.
    let finds = |manager: &Value| {
        let (before, after) = text(&manager["matchStrings"][0]).split_once("(?<currentValue>")?;
        let (_, after) = after.split_once(')')?;
        Some(frame.contains(&format!("{before}{made_for}{after}")))
    };
    let of_frame = |manager: &&Value| {
        let files = text(&manager["managerFilePatterns"][0]);
        files == "/^grafana/source/frame\\.py$/"
    };
    let mut managers = list(&renovate["customManagers"]);
    let manager = managers.find(of_frame).unwrap();
    assert_eq!(manager["depNameTemplate"], "grafana/grafana");
    assert_eq!(finds(manager), Some(true), "{manager}");
}

#[test]
fn the_image_is_built_without_unneeded_stages_and_packages() {
    let text = project_text("Dockerfile");
    assert!(!text.contains("syntax="), "it needs another image");
    let installs = text.split("apt-get install ").skip(1);
    let packages: Vec<_> = installs
        .flat_map(|rest| rest.split(" &&").next())
        .flat_map(str::split_whitespace)
        .filter(|word| !word.starts_with('-'))
        .collect();
    assert_eq!(packages, ["make"], "the build image has a C compiler");
    let stages = stages();
    assert_eq!(stages.last().unwrap().0, "agent", "the default target");
    let other = |mine: &str, others: &str| {
        let built = built_for(mine);
        for (name, _, lines) in &stages {
            let builds = |line: &String| line.contains("cargo build") && line.contains(others);
            assert!(
                !built.contains(name) || !lines.iter().any(builds),
                "{mine}: {name}"
            );
            let everything =
                |line: &String| line.contains("cargo build") && !line.contains("--package");
            assert!(!lines.iter().any(everything), "{name} builds the workspace");
        }
    };
    other("agent", "--package numbers");
    other("numbers", "--package prefect-otel-agent");
    // Everything that is copied into the image is in the build context.
    let sent = project_text(".dockerignore");
    for (name, _, lines) in &stages {
        for line in lines {
            let Some(arguments) = line.strip_prefix("COPY ") else {
                continue;
            };
            if arguments.starts_with("--from=") {
                continue;
            }
            let (sources, _) = arguments.rsplit_once(' ').unwrap();
            for source in sources.split(' ') {
                assert!(sent.contains(&format!("\n!{source}\n")), "{name}: {source}");
            }
        }
    }
}

/// Cargo refuses a manifest with a target whose file does not exist.
#[test]
fn the_image_is_built_with_a_file_for_every_target_of_the_manifest() {
    let manifest = project_text("Cargo.toml");
    let benches = manifest.split("[[bench]]\nname = \"").skip(1);
    let benches: Vec<_> = benches.flat_map(|rest| rest.split('"').next()).collect();
    assert!(benches.len() > 1, "{benches:?}");
    let dockerfile = project_text("Dockerfile");
    for bench in benches {
        let file = format!(" benches/{bench}.rs ");
        assert!(dockerfile.contains(&file), "{file}");
    }
}

#[test]
fn the_images_have_labels() {
    let Some(compose) = with_variables("the_images_have_labels", PUSH) else {
        return;
    };
    for (target, title) in [("agent", env!("CARGO_PKG_NAME")), ("numbers", "numbers")] {
        let build = &services(&compose)[target]["build"];
        assert_eq!(build["target"], target);
        assert_eq!(build["args"]["COMMIT"], "${COMMIT:-}");
        let stages = stages();
        let (.., lines) = stages.iter().find(|(name, ..)| name == target).unwrap();
        let labels = lines.iter().find(|line| line.starts_with("LABEL")).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        for label in [
            format!("title=\"{title}\""),
            format!("version=\"{version}\""),
            "revision=\"$COMMIT\"".to_owned(),
            "description=\"".to_owned(),
            "licenses=\"Apache-2.0\"".to_owned(),
        ] {
            let label = format!("org.opencontainers.image.{label}");
            assert!(labels.contains(&label), "{target}: {label}");
        }
        assert!(
            lines.iter().any(|line| line.starts_with("ARG COMMIT")),
            "{target}"
        );
    }
}
