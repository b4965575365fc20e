//! Generates reference tables from the declarations in the code: as text, Markdown and JSON.

#[cfg(any(test, fuzzing))]
pub(crate) mod properties;

use std::borrow::Cow;
use std::fmt::Write as _;

/// The format of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Columns, for a terminal.
    Table,
    /// A page of documentation.
    Markdown,
    /// An array of objects.
    Json,
}

impl Format {
    /// Every format by its name.
    pub const ALL: [(&'static str, Format); 3] = [
        ("table", Format::Table),
        ("markdown", Format::Markdown),
        ("json", Format::Json),
    ];
}

/// The width that a table has to fit into: `COLUMNS`, or the terminal's. Where stdout is a file or a
/// pipe, each row stays one line.
fn width() -> Option<u16> {
    let columns = std::env::var("COLUMNS").ok();
    let columns = columns.and_then(|columns| columns.parse().ok());
    let terminal = || {
        let (width, _) = terminal_size::terminal_size_of(std::io::stdout())?;
        Some(width.0)
    };
    columns.or_else(terminal).filter(|width| *width > 0)
}

/// Text for a terminal: control characters and those that change the direction of writing are
/// escaped, since names and answers of servers may contain any.
pub fn visible(text: &str) -> Cow<'_, str> {
    let is_hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| match is_hidden(c) {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// Lines of cells as aligned columns, within the terminal's width. Each line has as many cells.
pub fn columns(lines: &[Vec<String>]) -> String {
    aligned(lines, width())
}

fn aligned(lines: &[Vec<String>], width: Option<u16>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).add_rows(
        lines
            .iter()
            .map(|line| line.iter().map(|cell| visible(cell))),
    );
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if let Some(width) = width {
        table
            .set_content_arrangement(comfy_table::ContentArrangement::Dynamic)
            .set_width(width);
    }
    let lines = table.lines().map(|line| format!("{}\n", line.trim_end()));
    lines.collect()
}

/// More columns than these cannot be read where they are squeezed.
const SQUEEZABLE: usize = 3;

/// The same with titles on top; as one block per line if there are many columns and they do not
/// fit.
fn titled(titles: &[&str], lines: Vec<Vec<String>>, width: Option<u16>) -> String {
    let top = titles.iter().map(|title| title.to_uppercase()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(top).chain(lines).collect();
    let whole = aligned(&lines, None);
    let fits = |width: u16| {
        let mut lines = whole.lines();
        lines.all(|line| line.chars().count() <= usize::from(width))
    };
    match width {
        Some(width) if !fits(width) && titles.len() > SQUEEZABLE => {
            let blocks = lines.iter().skip(1);
            blocks.map(|line| block(titles, line, width)).collect()
        }
        Some(width) if !fits(width) => aligned(&lines, Some(width)),
        _ => whole,
    }
}

/// A line of cells as a block: the first cell, and the others below it.
fn block(titles: &[&str], line: &[String], width: u16) -> String {
    let cells = titles.iter().zip(line).skip(1);
    let cells = cells.filter(|(_, cell)| !cell.is_empty());
    let cells: Vec<_> = cells
        .map(|(title, cell)| vec![format!("    {title}"), cell.clone()])
        .collect();
    let name = line.first().map_or("", String::as_str);
    format!("{name}\n{}\n", aligned(&cells, Some(width)))
}

/// The fields of one entry.
pub type Row = Vec<(&'static str, Field)>;

/// The content of a field.
#[derive(Debug, Clone)]
pub enum Field {
    /// Any number of names: code in Markdown, an array in JSON.
    Names(Vec<String>),
    /// A name that may be missing.
    Name(Option<String>),
    /// Prose.
    Text(String),
}

/// A reference.
pub struct Reference {
    /// The page's title.
    pub title: &'static str,
    /// The text before the table.
    pub introduction: &'static str,
    /// The entries, which all have the same fields.
    pub rows: Vec<Row>,
}

impl Reference {
    /// The complete reference in `format`, ending with a newline.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Table => self.table(),
            Format::Markdown => self.markdown(),
            Format::Json => self.json(),
        }
    }

    fn columns(&self) -> Vec<&'static str> {
        let first = self.rows.first();
        first.map_or_else(Vec::new, |row| row.iter().map(|(name, _)| *name).collect())
    }

    fn table(&self) -> String {
        let plain = |field: &Field| match field {
            Field::Names(names) => names.join(" "),
            Field::Name(name) => name.clone().unwrap_or_default(),
            Field::Text(text) => text.clone(),
        };
        let rows = self.rows.iter();
        let lines = rows.map(|row| row.iter().map(|(_, field)| plain(field)).collect());
        titled(&self.columns(), lines.collect(), width())
    }

    fn markdown(&self) -> String {
        let code = |text: &String| format!("`{text}`");
        let cell = |field: &Field| match field {
            Field::Names(names) => names.iter().map(code).collect::<Vec<_>>().join(" "),
            Field::Name(name) => name.iter().map(code).collect(),
            Field::Text(text) => text.replace('|', "\\|"),
        };
        let columns = self.columns();
        let mut text = format!("# {}\n\n{}\n\n", self.title, self.introduction);
        _ = writeln!(text, "| {} |", columns.join(" | "));
        _ = writeln!(text, "|{}", "---|".repeat(columns.len()));
        for row in &self.rows {
            let cells: Vec<_> = row.iter().map(|(_, field)| cell(field)).collect();
            _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        text
    }

    fn json(&self) -> String {
        let value = |field: &Field| match field {
            Field::Names(names) => serde_json::json!(names),
            Field::Name(name) => serde_json::json!(name),
            Field::Text(text) => serde_json::json!(text),
        };
        let rows: Vec<serde_json::Value> = self
            .rows
            .iter()
            .map(|row| {
                let fields = row.iter();
                fields
                    .map(|(name, field)| (name.replace(' ', "_"), value(field)))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            })
            .collect();
        let rows = serde_json::Value::from(rows);
        format!("{rows:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_control_characters_cannot_change_a_terminal() {
        let cells = ["\u{1b}[2Jname\u{7}", "a\r\nb", "\u{202e}abc", "größe"].map(str::to_owned);
        let line = aligned(&[cells.to_vec()], None);
        assert_eq!(
            line,
            "\\u{1b}[2Jname\\u{7}  a\\r\\nb  \\u{202e}abc  größe\n"
        );
    }

    fn lines(cells: &[[&str; 4]]) -> Vec<Vec<String>> {
        let owned = |line: &[&str; 4]| line.map(str::to_owned).to_vec();
        cells.iter().map(owned).collect()
    }

    const TITLES: [&str; 4] = ["setting", "default", "accepts", "meaning"];

    #[test]
    fn what_fits_is_columns() {
        let text = titled(&TITLES, lines(&[["A", "", "b c", "d"]]), Some(40));
        assert_eq!(
            text,
            "SETTING  DEFAULT  ACCEPTS  MEANING\nA                 b c      d\n"
        );
    }

    #[test]
    fn what_does_not_fit_is_blocks_that_do_and_no_name_is_broken() {
        let wide = lines(&[[
            "A_RATHER_LONG_NAME",
            "",
            "one or two",
            "what it is for, and why",
        ]]);
        let text = titled(&TITLES, wide.clone(), Some(30));
        assert_eq!(
            text,
            "A_RATHER_LONG_NAME\n    accepts  one or two\n    meaning  what it is for,\n             and why\n\n"
        );
        // Where nobody has to read it, a line stays a line.
        assert_eq!(titled(&TITLES, wide, None).lines().count(), 2);
    }
}
