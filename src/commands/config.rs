//! Prints the settings in use, and where each comes from.

use std::io::Write as _;

use crate::docgen::Format;
use crate::settings::{Error, Settings, Sources, report};

/// The formats, by their names.
pub const FORMATS: [(&str, Format); 2] = [("table", Format::Table), ("json", Format::Json)];

/// Writes every setting to stdout, and what is strange about them to stderr.
///
/// # Errors
///
/// If the settings cannot be used: they are printed all the same, if they can be read at all.
pub fn run(
    sources: &Sources,
    settings: Result<Settings, Error>,
    format: Format,
) -> Result<(), Error> {
    let text = report::report(sources)?.render(format);
    // A reader that has seen enough closes the pipe: that is no failure.
    _ = std::io::stdout().write_all(text.as_bytes());
    for warning in settings?.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}
