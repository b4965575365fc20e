//! Masks secrets: in the answers of servers, and in every log line and message.
//!
//! The settings `learn` each secret when they read it. All of them are masked in whatever is written
//! to stderr (`stdio`), wherever the text comes from.

use std::borrow::Cow;
use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Shorter values would match parts of ordinary words.
const SHORTEST: usize = 4;

/// Shorter secrets are only masked in the agent's own messages if they are whole words that no
/// text consists of: a tenant called `data` must not hide the word.
const UNMISTAKABLE: usize = 8;

/// Secrets in each form in which they may be repeated.
#[derive(Debug, Default, Clone)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// The secrets in these header values: complete, and without the scheme of `authorization`.
    pub(crate) fn of<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut secrets = Secrets::default();
        values.into_iter().for_each(|value| secrets.add(value));
        secrets
    }

    /// Adds a secret, unless it is too short.
    fn add(&mut self, value: &str) {
        let parts = [Some(value), value.split_whitespace().last()];
        let parts = parts.into_iter().flatten();
        for part in parts.filter(|part| part.len() >= SHORTEST) {
            let forms = [
                part.to_owned(),
                // As text formats and JSON write it.
                part.escape_debug().to_string(),
                serde_json::Value::from(part)
                    .to_string()
                    .trim_matches('"')
                    .to_owned(),
                utf8_percent_encode(part, NON_ALPHANUMERIC).to_string(),
            ];
            for form in forms {
                if !self.0.contains(&form) {
                    self.0.push(form);
                }
            }
        }
        // A secret that contains another one is masked first.
        self.0.sort_by_key(|form| std::cmp::Reverse(form.len()));
    }

    /// Overwrites them with asterisks. The length stays the same, so that an encoded answer stays
    /// valid.
    pub(crate) fn hide(&self, text: &mut [u8]) {
        for secret in &self.0 {
            mask_each(text, secret.as_bytes(), |_, _| true);
            mask_cut_off(text, secret.as_bytes());
        }
    }

    /// The same for a string.
    pub(crate) fn hidden(&self, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        self.hide(&mut bytes);
        into_text(bytes)
    }

    /// The same for the agent's own messages.
    fn hide_in_message(&self, text: &mut [u8]) {
        for secret in &self.0 {
            let (is_long, is_word) = (
                secret.len() >= UNMISTAKABLE,
                secret.bytes().all(|byte| byte.is_ascii_lowercase()),
            );
            mask_each(text, secret.as_bytes(), |before, after| {
                let is_part = [before, after]
                    .into_iter()
                    .flatten()
                    .any(|byte| byte.is_ascii_alphanumeric());
                is_long || !is_word && !is_part
            });
        }
    }
}

/// Masks each occurrence of `part` for which `is_secret` is true, given the bytes around it.
fn mask_each(text: &mut [u8], part: &[u8], is_secret: impl Fn(Option<u8>, Option<u8>) -> bool) {
    let mut from = 0;
    while let Some(place) = text.get(from..).and_then(|rest| find(rest, part)) {
        let start = from.saturating_add(place);
        let end = start.saturating_add(part.len());
        let before = start.checked_sub(1).and_then(|index| text.get(index));
        if is_secret(before.copied(), text.get(end).copied())
            && let Some(found) = text.get_mut(start..end)
        {
            found.fill(b'*');
        }
        from = end;
    }
}

/// Masks the start of `secret` at the end of `text`, which may have been cut.
fn mask_cut_off(text: &mut [u8], secret: &[u8]) {
    for length in (SHORTEST..secret.len()).rev() {
        let start = secret.get(..length).unwrap_or_default();
        if text.ends_with(start) {
            let end = text.len().saturating_sub(length);
            text.get_mut(end..).unwrap_or_default().fill(b'*');
            return;
        }
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Every secret that the process has read.
static KNOWN: RwLock<Secrets> = RwLock::new(Secrets(Vec::new()));

/// Remembers secrets, so that no message contains them.
pub(crate) fn learn<'a>(values: impl IntoIterator<Item = &'a str>) {
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    values.into_iter().for_each(|value| known.add(value));
}

/// Remembers a password, and how basic authentication sends it.
pub(crate) fn learn_basic(user: &str, password: &str) {
    let pair = format!("{user}:{password}");
    let sent = base64::engine::general_purpose::STANDARD_NO_PAD.encode(&pair);
    learn([password, &pair, &sent]);
}

/// A message without secrets: without those that are known, and without the credentials in URLs.
pub fn scrubbed(message: &str) -> String {
    into_text(scrub(message.as_bytes()).into_owned())
}

/// The same for bytes.
pub(crate) fn scrub(message: &[u8]) -> Cow<'_, [u8]> {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    if known.0.is_empty() && find(message, b"://").is_none() {
        return Cow::Borrowed(message);
    }
    let mut text = message.to_vec();
    known.hide_in_message(&mut text);
    hide_user_info(&mut text);
    Cow::Owned(text)
}

/// Masks what is before the `@` in URLs.
fn hide_user_info(text: &mut [u8]) {
    const SCHEME_END: &[u8] = b"://";
    let mut from = 0;
    while let Some(place) = text.get(from..).and_then(|rest| find(rest, SCHEME_END)) {
        let start = from.saturating_add(place).saturating_add(SCHEME_END.len());
        let rest = text.get_mut(start..).unwrap_or_default();
        let ends = |byte: &u8| byte.is_ascii_whitespace() || b"/?#\"'<>\\".contains(byte);
        let end = rest.iter().position(ends).unwrap_or(rest.len());
        let authority = rest.get_mut(..end).unwrap_or_default();
        if let Some(at) = authority.iter().rposition(|byte| *byte == b'@')
            && let Some(user_info) = authority.get_mut(..at)
        {
            user_info.fill(b'*');
        }
        from = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_that_a_receiver_repeats_are_masked() {
        let secrets = Secrets::of(["Bearer s3cr3t"]);
        let said = "authorization: Bearer s3cr3t, s3cr3ts3cr3t and Bearer s3cr.";
        let hidden = "authorization: *************, ************ and Bearer s3cr.";
        assert_eq!(secrets.hidden(said), hidden);
        let cut = secrets.hidden("authorization: Bearer s3cr");
        assert_eq!(cut, "authorization: ***********");
        assert_eq!(secrets.hidden("it ends in s3"), "it ends in s3");
        assert_eq!(secrets.hidden(""), "");
    }

    #[test]
    fn a_secret_is_masked_as_json_and_debug_write_it_too() {
        let secrets = Secrets::of(["p\"ss\\w/rd+1"]);
        for form in [
            "p\"ss\\w/rd+1".to_owned(),
            format!("{:?}", "p\"ss\\w/rd+1"),
            serde_json::json!({"key": "p\"ss\\w/rd+1"}).to_string(),
            "p%22ss%5Cw%2Frd%2B1".to_owned(),
        ] {
            let hidden = secrets.hidden(&form);
            assert!(!hidden.contains("ss"), "{hidden}");
        }
    }

    #[test]
    fn a_log_line_has_no_secret_that_was_learnt() {
        learn(["Bearer pnu_0123456789"]);
        learn_basic("admin", "tr0ub4dor");
        learn(["zebra", "x7Q1"]);
        let line =
            "keys pnu_0123456789 YWRtaW46dHIwdWI0ZG9y admin:tr0ub4dor zebras zebra x7Q1 x7Q12\n";
        let written = scrubbed(line);
        let stars = |length: usize| "*".repeat(length);
        // A short word is no secret that could be told from others.
        let expected = format!(
            "keys {} {} {} zebras zebra {} x7Q12\n",
            stars(14),
            stars(20),
            stars(15),
            stars(4)
        );
        assert_eq!(written, expected);
    }

    #[test]
    fn credentials_in_urls_are_masked_whoever_wrote_them() {
        let said = scrubbed("GET http://me:p@ss@h/a?b@c: no; https://h/x@y, \"ftp://u@h\"");
        let expected = "GET http://*******@h/a?b@c: no; https://h/x@y, \"ftp://*@h\"";
        assert_eq!(said, expected);
    }
}
