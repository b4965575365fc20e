//! Documentation is generated from the code. `UPDATE_DOCS=1 cargo test` writes it anew.

use prefect_otel_agent::{metrics, settings};

/// The part of a file between its two markers is `generated`, or becomes so.
fn check(file: &str, marker: &str, generated: &str) {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = (
        format!("<!-- {marker}: generated -->\n"),
        format!("<!-- {marker}: end -->"),
    );
    let (before, rest) = text.split_once(&begin).unwrap();
    let (current, after) = rest.split_once(&end).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{generated}{end}{after}")).unwrap();
        return;
    }
    assert!(
        current == generated,
        "{file} is stale: run UPDATE_DOCS=1 cargo test documentation"
    );
}

#[test]
fn the_table_of_settings_is_current() {
    check("README.md", "settings", &settings::docs::markdown());
}

#[test]
fn the_table_of_metrics_is_current() {
    check("docs/metrics.md", "metrics", &metrics::docs::markdown());
}
