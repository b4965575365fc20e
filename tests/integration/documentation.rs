//! Documentation is written from the code. `UPDATE_DOCS=1 cargo test documentation` does it.

use prefect_otel_agent::docgen::{Format, Reference};
use prefect_otel_agent::{metrics, settings};

/// `file` is what `reference` makes, or becomes so.
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

#[test]
fn a_changed_help_text_makes_a_reference_stale() {
    let mut reference = metrics::docs::reference();
    let before = reference.render(Format::Markdown);
    let (name, _) = reference.rows[0].pop().unwrap();
    let changed = prefect_otel_agent::docgen::Field::Text("Another text.".into());
    reference.rows[0].push((name, changed));
    assert_ne!(reference.render(Format::Markdown), before);
}
