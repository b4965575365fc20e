//! Files of settings, some of them in TOML or YAML.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use config::{File, FileFormat, Source as _, Value, ValueKind};
use yaml_rust2::parser::{Event, Parser};

use super::Error;
use crate::clip::{LONGEST_MESSAGE, message};

/// The maximum depth of a YAML text.
const DEEPEST: u32 = 32;

/// The maximum size of a file: much more than all authorities of a system take.
const LARGEST_FILE: u64 = 16 * 1024 * 1024;

/// Reads the file in a setting.
pub(crate) fn read(setting: &str, path: &Path) -> Result<String, Error> {
    read_bounded(path).map_err(|reason| Error::File {
        setting: setting.to_owned(),
        path: path.to_owned(),
        reason,
    })
}

/// Reads a text file, without the byte order mark that some editors write.
pub(crate) fn read_bounded(path: &Path) -> Result<String, String> {
    let kind = fs::metadata(path).map_err(|error| error.to_string())?;
    // Opening a pipe blocks until somebody writes to it, and what is read from it is gone.
    if kind.file_type().is_fifo() {
        return Err("it is a pipe, which cannot be read again; use a regular file".to_owned());
    }
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| {
        // A device may have no end.
        file.take(LARGEST_FILE + 1).read_to_string(&mut text)
    });
    match read {
        Err(error) => Err(error.to_string()),
        Ok(bytes) if bytes as u64 > LARGEST_FILE => {
            Err(format!("it is larger than {LARGEST_FILE} bytes"))
        }
        Ok(_) => Ok(match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        }),
    }
}

/// Refuses a YAML text that would become much larger when it is parsed: the parser of values
/// recurses without a limit, and copies what an alias refers to.
///
/// # Errors
///
/// If it is too deep, or has aliases. Any other mistake is left to the parser of values.
pub(crate) fn bounded_yaml(text: &str) -> Result<(), &'static str> {
    let mut parser = Parser::new_from_str(text);
    let mut depth: u32 = 0;
    loop {
        match parser.next_token() {
            Err(_) | Ok((Event::StreamEnd, _)) => return Ok(()),
            Ok((Event::Alias(_), _)) => return Err("aliases (`*name`) are not supported"),
            Ok((Event::SequenceStart(..) | Event::MappingStart(..), _)) => {
                depth = depth.saturating_add(1);
                if depth > DEEPEST {
                    return Err("it has more than 32 levels");
                }
            }
            Ok((Event::SequenceEnd | Event::MappingEnd, _)) => depth = depth.saturating_sub(1),
            Ok(_) => {}
        }
    }
}

/// The values in a file. Of the parser's message, only the line with the position of the error is
/// kept. The others quote the content, which may contain a secret, and so does a message about its
/// type.
pub(super) fn parse(
    content: &str,
    format: FileFormat,
) -> Result<config::Map<String, Value>, String> {
    if format == FileFormat::Yaml {
        bounded_yaml(content)?;
    }
    let parsed = File::from_str(content, format).collect();
    parsed.map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        match first {
            _ if first.starts_with("invalid type") => "it is not a table of settings".to_owned(),
            _ if first.contains("line") => invalid(&message(first, LONGEST_MESSAGE)),
            _ => invalid(""),
        }
    })
}

/// Why a file of settings cannot be used.
pub(super) fn invalid(reason: &str) -> String {
    match reason.is_empty() {
        true => "it is not valid TOML or YAML".to_owned(),
        false => format!("it is not valid TOML or YAML ({reason})"),
    }
}

/// A value in the format of a variable; a table as JSON. `None` for null and for lists.
pub(super) fn text(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::Nil | ValueKind::Array(_) => None,
        ValueKind::Table(_) => {
            let table: serde_json::Value = value.clone().try_deserialize().ok()?;
            Some(table.to_string())
        }
        _ => value.clone().into_string().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_refused_instead_of_waited_for_and_a_device_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        assert!(read_bounded(&pipe).unwrap_err().contains("a pipe"));
        let endless = read_bounded(Path::new("/dev/zero"));
        assert!(endless.unwrap_err().contains("larger than"));
    }

    #[test]
    fn a_file_that_is_one_text_is_refused_without_its_content() {
        for text in [
            "PREFECT_API_KEY=hunter2 in one line",
            "- hunter2 # line",
            "7",
        ] {
            let reason = parse(text, FileFormat::Yaml).unwrap_err();
            assert_eq!(reason, "it is not a table of settings");
        }
    }

    #[test]
    fn a_yaml_text_that_would_grow_is_refused_before_it_is_parsed() {
        for text in [
            "- ".repeat(100_000),
            "? ".repeat(100_000),
            "[".repeat(100_000),
            "{a: ".repeat(100_000),
            "a: &a [1]\nb: *a\n".to_owned(),
        ] {
            assert!(parse(&text, FileFormat::Yaml).is_err());
        }
        let lines: String = (0..1_000)
            .map(|level| format!("{}a:\n", " ".repeat(level)))
            .collect();
        assert!(parse(&lines, FileFormat::Yaml).is_err());
        assert!(parse("a: {b: [c, {d: e}]}", FileFormat::Yaml).is_ok());
    }
}
