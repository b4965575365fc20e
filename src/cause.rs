//! The cause of a failure that is worth showing.

use std::error::Error;

/// The innermost cause of `error`, which is the most specific one: those around it repeat the URL,
/// or say that something failed.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
