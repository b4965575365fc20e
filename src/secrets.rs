//! Masks secrets: in the answers of servers, and in every log line and message.
//!
//! The settings `learn` each secret when they read it. All of them are masked in the texts of servers
//! before these become part of an error, and in whatever is written to stderr (`stdio`), wherever the
//! text comes from.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Shorter values would match parts of ordinary words.
const SHORTEST: usize = 4;

/// Shorter secrets are only masked in the agent's own messages if they are whole words that no
/// text consists of: a tenant called `data` must not hide the word.
const UNMISTAKABLE: usize = 8;

/// Secrets in each form in which they may be repeated.
#[derive(Debug, Default, Clone, PartialEq)]
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
        let parts = parts.filter(|part| part.len() >= SHORTEST);
        let parts = parts.map(str::to_owned).chain(parts_of(value));
        for form in parts.flat_map(|part| forms(&part)) {
            if !self.0.contains(&form) {
                self.0.push(form);
            }
        }
        self.sort();
    }

    /// A secret that contains another one is masked first.
    fn sort(&mut self) {
        self.0.sort_by_key(|form| std::cmp::Reverse(form.len()));
    }

    /// Overwrites them with asterisks, and what [`scrub`] masks in any text. The length stays the
    /// same, so that an encoded answer stays valid.
    pub(crate) fn hide(&self, text: &mut [u8]) {
        for secret in &self.0 {
            mask_each(text, secret.as_bytes(), |_, _| true);
            mask_cut_off(text, secret.as_bytes());
        }
        known().all.hide_in_message(text);
        hide_user_info(text);
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

/// The parts of a header value or of a query that are secrets themselves: the password of basic
/// authentication, and the values of cookies and of parameters.
fn parts_of(value: &str) -> Vec<String> {
    let mut parts = Vec::new();
    if let Some((scheme, encoded)) = value.split_once(' ')
        && scheme.eq_ignore_ascii_case("basic")
        && let Ok(pair) = STANDARD.decode(encoded.trim())
        && let Ok(pair) = String::from_utf8(pair)
    {
        let password = pair
            .split_once(':')
            .map(|(_, password)| password.to_owned());
        parts.extend(password);
        parts.push(pair);
    }
    let pairs = value.split([';', '&', ',']);
    let values = pairs.filter_map(|pair| Some(pair.split_once('=')?.1.trim()));
    for value in values {
        let decoded = percent_decode_str(value).decode_utf8();
        parts.extend(decoded.ok().map(Cow::into_owned));
        parts.push(value.to_owned());
    }
    parts.retain(|part| part.len() >= UNMISTAKABLE);
    parts
}

/// What RFC 3986 does not reserve.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
/// The same with slashes, as Python's `quote` keeps them.
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// How servers and libraries write a text: as it is, in debug output, in JSON, in HTML, in URLs.
fn forms(part: &str) -> Vec<String> {
    let json = serde_json::Value::from(part).to_string();
    let json = json.trim_matches('"');
    let html = part
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let encoded = [NON_ALPHANUMERIC, UNRESERVED, PATH];
    let encoded = encoded.map(|set| utf8_percent_encode(part, set).to_string());
    let mut forms = vec![
        part.to_owned(),
        part.escape_debug().to_string(),
        json.to_owned(),
        // As Go writes JSON.
        json.replace('&', "\\u0026")
            .replace('<', "\\u003c")
            .replace('>', "\\u003e"),
        html.replace('"', "&quot;").replace('\'', "&#x27;"),
        html.replace('"', "&#34;").replace('\'', "&#39;"),
        html,
    ];
    forms.extend(encoded.iter().map(|text| lower_case_hex(text)));
    forms.extend(encoded);
    forms
}

/// A percent-encoded text with `%3c` instead of `%3C`.
fn lower_case_hex(text: &str) -> String {
    let mut parts = text.split('%');
    let mut lower = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (hex, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        lower.push('%');
        lower.push_str(&hex.to_ascii_lowercase());
        lower.push_str(rest);
    }
    lower
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

/// So many contents of a file that is read again are remembered: a server may repeat one that was
/// replaced a moment ago, and every line of the log is searched for all of them.
const KEPT: usize = 4;

/// The secrets that the process has read.
#[derive(Debug, Default)]
struct Known {
    /// All of them.
    all: Secrets,
    /// Those that are never replaced.
    constant: Secrets,
    /// Those of the last contents of files that are read again, by reader.
    replaced: BTreeMap<usize, VecDeque<Secrets>>,
}

static KNOWN: RwLock<Known> = RwLock::new(Known {
    all: Secrets(Vec::new()),
    constant: Secrets(Vec::new()),
    replaced: BTreeMap::new(),
});

thread_local! {
    /// Those that this thread is reading again.
    static READING: RefCell<Option<Secrets>> = const { RefCell::new(None) };
}

fn known() -> RwLockReadGuard<'static, Known> {
    KNOWN.read().unwrap_or_else(PoisonError::into_inner)
}

fn change_known() -> RwLockWriteGuard<'static, Known> {
    KNOWN.write().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers secrets, so that no message contains them.
pub(crate) fn learn<'a>(values: impl IntoIterator<Item = &'a str>) {
    let mut known = change_known();
    let Known { all, constant, .. } = &mut *known;
    READING.with_borrow_mut(|reading| {
        let own = reading.as_mut().unwrap_or(constant);
        for value in values {
            all.add(value);
            own.add(value);
        }
    });
}

/// Reads secrets that may have been replaced, and forgets those that `reader` has read long before.
pub(crate) fn read_again<T>(reader: usize, read: impl FnOnce() -> T) -> T {
    READING.set(Some(Secrets::default()));
    let result = read();
    let learnt = READING.take().unwrap_or_default();
    let mut known = change_known();
    let Known {
        all,
        constant,
        replaced,
    } = &mut *known;
    let last = replaced.entry(reader).or_default();
    if last.back() != Some(&learnt) {
        last.retain(|earlier| *earlier != learnt);
        last.push_back(learnt);
        if last.len() > KEPT {
            last.pop_front();
        }
        let current = replaced.values().flatten();
        let forms = constant.0.iter().chain(current.flat_map(|of| &of.0));
        let forms: BTreeSet<_> = forms.cloned().collect();
        all.0 = forms.into_iter().collect();
        all.sort();
    }
    result
}

/// Remembers a password, and how basic authentication sends it.
pub(crate) fn learn_basic(user: &str, password: &str) {
    let pair = format!("{user}:{password}");
    let sent = STANDARD_NO_PAD.encode(&pair);
    learn([password, &pair, &sent]);
}

/// A message without secrets: without those that are known, and without the credentials in URLs.
pub fn scrubbed(message: &str) -> String {
    into_text(scrub(message.as_bytes()).into_owned())
}

/// The same for bytes.
pub(crate) fn scrub(message: &[u8]) -> Cow<'_, [u8]> {
    let known = known();
    if known.all.0.is_empty() && find(message, AUTHORITY).is_none() {
        return Cow::Borrowed(message);
    }
    let mut text = message.to_vec();
    known.all.hide_in_message(&mut text);
    hide_user_info(&mut text);
    Cow::Owned(text)
}

/// What is before the authority of a URL, with or without a scheme.
const AUTHORITY: &[u8] = b"//";

/// A URL without what follows its path, which may contain a token.
pub(crate) fn without_query(url: &str) -> &str {
    url.split(['?', '#', ';']).next().unwrap_or(url)
}

/// Masks what is before the `@` in URLs.
fn hide_user_info(text: &mut [u8]) {
    let mut from = 0;
    while let Some(place) = text.get(from..).and_then(|rest| find(rest, AUTHORITY)) {
        let start = from.saturating_add(place).saturating_add(AUTHORITY.len());
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
    fn a_secret_is_masked_in_html_in_go_json_and_in_urls() {
        let secrets = Secrets::of(["p&ss<w>\"o'rd/1"]);
        for form in [
            "p&amp;ss&lt;w&gt;&quot;o&#x27;rd/1",
            "p&amp;ss&lt;w&gt;&#34;o&#39;rd/1",
            "p\\u0026ss\\u003cw\\u003e\\\"o'rd/1",
            "p%26ss%3Cw%3E%22o%27rd/1",
            "p%26ss%3cw%3e%22o%27rd%2f1",
        ] {
            let hidden = secrets.hidden(form);
            assert!(!hidden.contains("ss"), "{hidden}");
        }
    }

    #[test]
    fn the_secret_parts_of_a_value_are_masked_on_their_own() {
        let basic = format!("Basic {}", STANDARD.encode("svc:hunter2hunter2"));
        for (value, part) in [
            (basic.as_str(), "hunter2hunter2"),
            ("session=s3ss10nSECRET; csrf=no", "s3ss10nSECRET"),
            ("token=Q%2BTok%2F9%2F&u=x", "Q+Tok/9/"),
        ] {
            let said = format!("invalid: {part}.");
            let hidden = Secrets::of([value]).hidden(&said);
            assert_eq!(hidden, format!("invalid: {}.", "*".repeat(part.len())));
        }
    }

    #[test]
    fn what_a_server_says_has_no_secret_of_another_connection() {
        learn_basic("proxy", "Zecret99x");
        let said = "bad proxy password Zecret99x; //adm:pw@login/x";
        let hidden = Secrets::default().hidden(said);
        assert_eq!(hidden, "bad proxy password *********; //******@login/x");
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
    fn of_a_secret_that_is_replaced_every_hour_only_the_last_ones_are_remembered() {
        learn(["constant-0123"]);
        let read = |reader, token: &str| read_again(reader, || learn([token]));
        let token = |number: usize| format!("token-{number:04}");
        read(1, "another-0123");
        for number in 0..100 {
            read(2, &token(number));
            // The file is read every few seconds.
            read(2, &token(number));
            let hidden = scrubbed(&format!("{} constant-0123 another-0123", token(number)));
            assert_eq!(hidden, "********** ************* ************");
        }
        assert_eq!(scrubbed(&token(99 - KEPT)), token(99 - KEPT));
        assert_eq!(scrubbed(&token(100 - KEPT)), "**********");
    }

    #[test]
    fn credentials_in_urls_are_masked_whoever_wrote_them() {
        let said = scrubbed("GET http://me:p@ss@h/a?b@c: no; https://h/x@y, \"ftp://u@h\"");
        let expected = "GET http://*******@h/a?b@c: no; https://h/x@y, \"ftp://*@h\"";
        assert_eq!(said, expected);
    }
}
