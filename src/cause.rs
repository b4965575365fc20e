//! The most specific cause of an error.

use std::error::Error;

/// The innermost cause of `error`, which is the most specific one: the outer ones only repeat the
/// URL, or report that something failed.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
