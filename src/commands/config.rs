//! Prints the settings in use, and the source of each.

use std::io::Write as _;

use crate::docgen::Format;
use crate::secrets::scrubbed;
use crate::settings::{Error, Settings, Sources, report};

/// The formats, by their names.
pub const FORMATS: [(&str, Format); 2] = [("table", Format::Table), ("json", Format::Json)];

/// Writes every setting to stdout, and warnings to stderr.
///
/// # Errors
///
/// If the settings are not valid. They are printed anyway, if their sources can be read.
pub fn run(
    sources: &Sources,
    settings: Result<Settings, Error>,
    format: Format,
) -> Result<(), Error> {
    let text = report::report(sources)?.render(format);
    // The reader may close the pipe early, as `head` does: this is not a failure.
    _ = std::io::stdout().write_all(text.as_bytes());
    for warning in settings?.warnings {
        eprintln!("warning: {}", scrubbed(&warning));
    }
    Ok(())
}
