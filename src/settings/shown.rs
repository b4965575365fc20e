//! How values are shown in messages and reports: without secrets.

use super::setting::Setting;
use crate::clip::{LONGEST_MESSAGE, message};

/// What is shown for a secret.
pub(super) const MASKED: &str = "********";

/// A value in a message: quoted, unless it is a secret or may contain one.
pub(super) fn shown(setting: &Setting, value: &str) -> String {
    let may_have_token = setting.is_url() && value.contains(['?', '#']);
    match (setting.is_secret(), has_credentials(setting, value)) {
        (true, _) => "the value (not shown)".to_owned(),
        (false, has) if has || may_have_token => {
            "the value (not shown, since it may contain credentials)".to_owned()
        }
        (false, _) => format!("{:?}", message(value, LONGEST_MESSAGE)),
    }
}

/// Whether a value is a URL with a user name, even if its scheme is missing.
pub(super) fn has_credentials(setting: &Setting, value: &str) -> bool {
    value.contains('@') && (setting.is_url() || value.contains("://"))
}

/// A URL whose query and fragment, which may contain a token, are masked.
pub(super) fn without_query(url: &str) -> String {
    match url.split_inclusive(['?', '#']).next() {
        Some(start) if start.len() < url.len() || url.ends_with(['?', '#']) => {
            format!("{start}{MASKED}")
        }
        _ => url.to_owned(),
    }
}

/// A value without its secrets.
pub(super) fn masked(setting: &Setting, value: &str) -> String {
    match setting.is_secret() || has_credentials(setting, value) {
        true => MASKED.to_owned(),
        false if setting.is_url() => without_query(value),
        false => value.to_owned(),
    }
}
