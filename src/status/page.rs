//! The page at `/`: one document that includes its style and script. It contains no data: the
//! script fetches `/status`.

use std::sync::LazyLock;

const HTML: &str = include_str!("assets/page.html");
const STYLE: &str = include_str!("assets/page.css");
const SCRIPT: &str = concat!(
    include_str!("assets/elements.js"),
    include_str!("assets/chart.js"),
    include_str!("assets/page.js"),
);

/// The placeholder for the nonce of the response.
const NONCE: &str = "{{nonce}}";

static PAGE: LazyLock<String> = LazyLock::new(|| {
    HTML.replace("{{style}}", STYLE)
        .replace("{{script}}", SCRIPT)
});

/// The page, and a `Content-Security-Policy` that allows no other scripts, styles or hosts.
pub fn render() -> (String, String) {
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    (policy, PAGE.replace(NONCE, &nonce))
}
