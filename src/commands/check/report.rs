//! The lines of the report.

use std::io::{self, Write};
use std::sync::Arc;

use serde::Serialize;

use super::Format;
use crate::docgen::visible;
use crate::secrets::scrubbed;

/// The widths of the first two columns.
const STATUS: usize = 7;
const WHAT: usize = 20;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Ok,
    /// The agent works, but something is missing or unusual.
    Warn,
    Fail,
    /// Not checked, because an earlier check failed.
    Skipped,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
            Status::Skipped => "skipped",
        }
    }

    /// The ANSI color code: green, yellow, red, gray.
    fn color(self) -> u8 {
        match self {
            Status::Ok => 32,
            Status::Warn => 33,
            Status::Fail => 31,
            Status::Skipped => 90,
        }
    }
}

/// One check.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    status: Status,
    pub(super) check: &'static str,
    /// The workspace that it is about, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace: Option<Arc<str>>,
    detail: String,
    /// What to do about it.
    hint: Option<String>,
}

impl Line {
    fn new(status: Status, check: &'static str, detail: impl Into<String>) -> Self {
        Line {
            status,
            check,
            workspace: None,
            detail: scrubbed(&detail.into()),
            hint: None,
        }
    }

    pub(super) fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Line::new(Status::Ok, check, detail)
    }

    pub(super) fn warn(check: &'static str, detail: impl Into<String>) -> Self {
        Line::new(Status::Warn, check, detail)
    }

    pub(super) fn fail(check: &'static str, detail: impl Into<String>) -> Self {
        Line::new(Status::Fail, check, detail)
    }

    pub(super) fn skipped(check: &'static str, since: &str) -> Self {
        Line::new(
            Status::Skipped,
            check,
            format!("not checked, because {since}"),
        )
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Line {
            hint: Some(hint.into()),
            ..self
        }
    }

    pub(super) fn hint_if<T: Into<String>>(self, hint: Option<T>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    fn text(&self, colored: bool) -> String {
        let status = format!("{:STATUS$}", self.status.as_str());
        let status = match colored {
            true => format!("\u{1b}[{}m{status}\u{1b}[0m", self.status.color()),
            false => status,
        };
        let workspace = self.workspace.iter().map(|name| format!("{name}: "));
        let detail = workspace.chain([self.detail.clone()]).collect::<String>();
        let mut text = format!("{status}  {:WHAT$}  {}\n", self.check, visible(&detail));
        if let Some(hint) = &self.hint {
            let indent = STATUS + WHAT + 4;
            text += &format!("{:indent$}hint: {}\n", "", visible(hint));
        }
        text
    }
}

#[derive(Serialize)]
struct Json<'a> {
    ok: bool,
    checks: &'a [Line],
}

/// Writes each line immediately (text), or all of them at the end (JSON).
pub(super) struct Report<W> {
    out: W,
    format: Format,
    colored: bool,
    lines: Vec<Line>,
    /// The workspace that the next lines are about, if there are several.
    pub(super) workspace: Option<Arc<str>>,
}

impl<W: Write> Report<W> {
    pub(super) fn new(out: W, format: Format, colored: bool) -> Self {
        Report {
            out,
            format,
            colored,
            lines: Vec::new(),
            workspace: None,
        }
    }

    pub(super) fn add(&mut self, mut line: Line) -> io::Result<()> {
        line.workspace.clone_from(&self.workspace);
        if self.format == Format::Text {
            self.out.write_all(line.text(self.colored).as_bytes())?;
            self.out.flush()?;
        }
        self.lines.push(line);
        Ok(())
    }

    /// Ends the report; `false` if a check failed.
    pub(super) fn end(mut self) -> io::Result<bool> {
        let ok = self.lines.iter().all(|line| line.status != Status::Fail);
        if self.format == Format::Json {
            let checks = &self.lines;
            serde_json::to_writer_pretty(&mut self.out, &Json { ok, checks })?;
            writeln!(self.out)?;
        }
        Ok(ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_control_characters_cannot_change_a_terminal() {
        let line = Line::fail("Prefect", "\u{1b}[32mok\nok").text(false);
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(!line.contains('\u{1b}'));
    }

    #[test]
    fn hints_are_indented_and_colors_do_not_move_columns() {
        let line = Line::fail("Prefect", "no answer").hint("start it");
        let plain = line.text(false);
        let detail = plain.find("no answer").unwrap();
        assert_eq!(
            plain.lines().nth(1).unwrap().find("hint: start it"),
            Some(detail)
        );
        let colored = line.text(true);
        assert!(
            colored.starts_with("\u{1b}[31mFAIL   \u{1b}[0m  Prefect"),
            "{colored:?}"
        );
        let without = colored.replace("\u{1b}[31m", "").replace("\u{1b}[0m", "");
        assert_eq!(without, plain);
    }
}
