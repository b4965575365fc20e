//! Prints the settings in use, and the source of each.

use std::io;

use crate::docgen::Format;
use crate::settings::{self, Settings, Sources, report};
use crate::stdio;

/// The formats, by their names.
pub const FORMATS: [(&str, Format); 2] = [("table", Format::Table), ("json", Format::Json)];

/// Why the settings cannot be printed, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings are not valid.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// They cannot be written.
    #[error("stdout: {0}")]
    Write(#[from] io::Error),
}

/// Writes every setting to stdout, and warnings to stderr.
///
/// # Errors
///
/// If the settings are not valid, or cannot be written. Settings that are not valid are printed
/// anyway, if their sources can be read.
pub fn run(
    sources: &Sources,
    settings: Result<Settings, settings::Error>,
    format: Format,
) -> Result<(), Error> {
    let text = report::report(sources)?.render(format);
    stdio::print(text.as_bytes())?;
    for warning in settings?.warnings {
        stdio::say(&format!("warning: {warning}"));
    }
    Ok(())
}
