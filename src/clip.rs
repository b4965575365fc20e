//! Bounds the length of texts that come from a server, in labels and in messages.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

/// The maximum length of a label value in bytes. No sane name is longer, and receivers refuse
/// longer ones: Mimir, for example, allows 2,048 bytes by default.
pub const LONGEST_LABEL: usize = 1_024;

/// The maximum length of foreign text in an error message, in bytes.
pub(crate) const LONGEST_MESSAGE: usize = 300;

/// What separates the start of a label value from the digest that replaces its end.
const ELLIPSIS: &str = "…";

/// The number of hexadecimal digits of the digest.
const DIGEST: usize = 16;

/// `text` as a label value. If it is too long, its end is replaced by a digest of the whole text,
/// so that different texts stay different.
pub fn label(text: &str) -> Arc<str> {
    match text.len() <= LONGEST_LABEL {
        true => Arc::from(text),
        false => Arc::from(shortened(text)),
    }
}

/// The same for a text that was made by the agent, such as a list of tags.
pub fn owned_label(text: String) -> Arc<str> {
    match text.len() <= LONGEST_LABEL {
        true => Arc::from(text),
        false => Arc::from(shortened(&text)),
    }
}

fn shortened(text: &str) -> String {
    static SAID: AtomicBool = AtomicBool::new(false);
    const KEPT: usize = LONGEST_LABEL - ELLIPSIS.len() - DIGEST;
    let start = start(text, KEPT);
    if !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            bytes = text.len(),
            start = &*message(start, 60),
            "a name, tag or id is longer than {LONGEST_LABEL} bytes; the end of such texts is replaced by a digest in all metrics"
        );
    }
    // A digest that stays the same in every version, since it is part of the series.
    let digest = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).simple();
    let digest = digest.to_string();
    format!("{start}{ELLIPSIS}{}", self::start(&digest, DIGEST))
}

/// The first `longest` bytes of `text`, or fewer, so that no character is cut.
fn start(text: &str, longest: usize) -> &str {
    let mut end = longest.min(text.len());
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default()
}

/// `text` for a message, with at most `longest` bytes before the ellipsis.
pub(crate) fn message(text: &str, longest: usize) -> Cow<'_, str> {
    match text.len() <= longest {
        true => Cow::Borrowed(text),
        false => Cow::Owned(format!("{}{ELLIPSIS}", start(text, longest))),
    }
}

/// `text` on one line, without control characters.
pub(crate) fn one_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text)
        .split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_of_a_sane_length_is_unchanged() {
        for text in ["", "etl", &"é".repeat(LONGEST_LABEL / 2)] {
            assert_eq!(&*label(text), text);
            assert_eq!(&*owned_label(text.to_owned()), text);
        }
    }

    #[test]
    fn long_labels_are_cut_at_a_character_and_stay_different() {
        let long = |end: &str| "é".repeat(5_000) + end;
        let (one, other) = (label(&long("a")), label(&long("b")));
        assert_ne!(one, other);
        assert_eq!(one, label(&long("a")), "always the same");
        for label in [&one, &other] {
            assert!(label.len() <= LONGEST_LABEL, "{}", label.len());
            assert!(label.starts_with("éé") && label.contains(ELLIPSIS));
        }
        // Part of the series: a change would create new ones.
        assert!(label(&"a".repeat(2_000)).ends_with("…cdb84791529f5efe"));
    }

    #[test]
    fn a_message_says_that_it_is_cut() {
        assert_eq!(message("short", 5), "short");
        assert_eq!(message("é…longer", 4), "é…");
    }
}
