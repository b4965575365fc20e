//! The most specific cause of an error.

use std::error::Error;

use crate::secrets::scrubbed;

/// The innermost cause of `error`, which is the most specific one: the outer ones only repeat the
/// URL, or report that something failed. Without secrets, which a proxy may repeat.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    scrubbed(&cause.to_string())
}
