//! What must hold for any text that is shown.

use super::visible;
use crate::core::tags::TagKeys;
use crate::core::version;
use crate::prefect::objects::Deployment;
use crate::properties::lines::first_line;
use crate::secrets::Secrets;

/// A text, and a secret in its first line.
pub fn texts(data: &[u8]) {
    let (secret, text) = first_line(data);
    let (Ok(secret), Ok(text)) = (std::str::from_utf8(secret), std::str::from_utf8(text)) else {
        return;
    };
    shown(text);
    masked(secret, text);
    tags(secret, text);
    // Any version is too old, or has what newer ones have.
    let lacks = version::missing(text);
    assert!(version::unsupported(text).is_none() || !lacks.is_empty());
}

/// No character that is shown can change a terminal; what cannot is shown as it is.
fn shown(text: &str) {
    let shown = visible(text);
    let is_hidden = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!shown.contains(is_hidden), "{shown:?}");
    assert_eq!(visible(&shown), shown);
    if text.is_ascii() && !text.contains(is_hidden) {
        assert_eq!(shown, text);
    }
}

/// A secret that is repeated in a text is masked, and nothing else.
fn masked(secret: &str, text: &str) {
    // Asterisks are what it is masked by.
    if secret.contains('*') {
        return;
    }
    let secrets = Secrets::of([secret]);
    let said = format!("{text}{secret}{text}");
    let hidden = secrets.hidden(&said);
    assert_eq!(hidden.len(), said.len());
    assert_eq!(secrets.hidden(&hidden), hidden);
    assert!(secret.len() < 4 || !hidden.contains(secret), "{hidden:?}");
    let unrelated = Secrets::of(["unrelated-s3cr3t"]);
    // It is also masked in percent-encoding and if the text ends within it; so is a user in a URL.
    let may_be_masked = ["s3cr3t", "unre", "@"];
    if !may_be_masked.iter().any(|part| said.contains(part)) {
        assert_eq!(unrelated.hidden(&said), said);
    }
}

/// A deployment's tags have one value per key, in any order of the tags.
fn tags(key: &str, text: &str) {
    let keys = TagKeys::new([key, "team"]);
    let of = |tags: &[&str]| {
        let deployment = serde_json::json!({"id": "d", "tags": tags});
        let deployment = serde_json::from_value::<Deployment>(deployment).ok();
        keys.values(deployment.as_ref())
    };
    let mut tags: Vec<&str> = text.lines().collect();
    let values = of(&tags);
    assert_eq!(values.len(), 2);
    tags.reverse();
    assert_eq!(of(&tags), values);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_can_be_shown(secret in "\\PC{0,12}", text in "(?s).{0,60}") {
            texts(format!("{secret}\n{text}").as_bytes());
        }

        #[test]
        fn what_contains_a_secret_twice_shows_none_of_it(
            secret in "[a-zA-Z0-9_ -]{4,12}", between in "\\PC{0,3}",
        ) {
            texts(format!("{secret}\n{secret}{between}{secret}{secret}").as_bytes());
        }
    }
}
