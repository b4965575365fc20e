//! `docs/reliability.md` has every row of the suite, and names only tests that exist.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use crate::support::stack::{project, project_text};

use super::GROUPS;

const FILE: &str = "docs/reliability.md";
const BEGIN: &str = "<!-- generated from tests/integration/faults -->\n";
const END: &str = "<!-- end -->";

/// The table of every group.
fn tables() -> String {
    let mut text = String::new();
    for (name, title, rows) in GROUPS {
        let rows = rows.iter().flat_map(|rows| rows.iter());
        _ = write!(
            text,
            "\n### {title}\n\nTest `faults::{name}`.\n\n| fault | the agent | what shows it | row |\n|---|---|---|---|\n"
        );
        for row in rows {
            _ = writeln!(
                text,
                "| {} | {} | {} | `{}` |",
                row.fault,
                row.effect.does(),
                row.effect.sees(),
                row.name
            );
        }
    }
    text.push('\n');
    text
}

#[test]
fn the_document_has_every_row() {
    let text = project_text(FILE);
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let count = GROUPS.iter().flat_map(|(_, _, rows)| rows.iter());
    let count: usize = count.map(|rows| rows.len()).sum();
    let wanted = format!("{before}{BEGIN}{}{END}{after}", tables());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(project(FILE), wanted).unwrap();
        return;
    }
    assert!(count >= 150, "{count} rows");
    assert!(
        text == wanted,
        "{FILE} is stale: run UPDATE_DOCS=1 cargo test --test integration the_document_has_every_row"
    );
}

#[test]
fn names_of_rows_are_unique() {
    let mut names = BTreeSet::new();
    let tables = GROUPS.iter().flat_map(|(_, _, tables)| tables.iter());
    for row in tables.flat_map(|rows| rows.iter()) {
        assert!(
            names.insert(row.name),
            "two rows have the name {}",
            row.name
        );
    }
}

/// Every function in the sources of the tests.
fn functions(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let after_fn = text.split("fn ").skip(1);
            names.extend(after_fn.filter_map(|rest| {
                let name = rest.split(['(', '<']).next()?;
                Some(name.to_owned())
            }));
        }
    }
}

#[test]
fn every_test_that_the_document_names_exists() {
    let text = project_text(FILE);
    let (before, _) = text.split_once(BEGIN).unwrap();
    let mut names = BTreeSet::new();
    functions(&project("tests"), &mut names);
    functions(&project("src"), &mut names);
    let rows = GROUPS.iter().flat_map(|(_, _, tables)| tables.iter());
    names.extend(rows.flat_map(|rows| rows.iter().map(|row| row.name.to_owned())));
    // A test or a row has at least three words.
    let named = before.split('`').skip(1).step_by(2);
    let named = named.filter(|name| {
        name.matches('_').count() >= 2
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && !name.starts_with("prefect_")
    });
    let mut count = 0;
    for name in named {
        assert!(names.contains(name), "there is no test or row {name}");
        count += 1;
    }
    assert!(count >= 10, "{count} tests are named");
}
