//! Reference tables of what the program declares: for people, as Markdown and as JSON.

use std::fmt::Write as _;

/// How a reference is written.
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

/// One thing that is declared, field by field.
pub type Row = Vec<(&'static str, Field)>;

/// What a field holds.
#[derive(Debug, Clone)]
pub enum Field {
    /// A name, or several: code in Markdown, an array in JSON.
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
    /// What comes before the table.
    pub introduction: &'static str,
    /// What it lists; all have the same fields.
    pub rows: Vec<Row>,
}

impl Reference {
    /// The whole reference in `format`, with a line feed at its end.
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
        let mut lines: Vec<Vec<String>> = vec![
            self.columns()
                .iter()
                .map(|name| name.to_uppercase())
                .collect(),
        ];
        let rows = self.rows.iter();
        lines.extend(rows.map(|row| row.iter().map(|(_, field)| plain(field)).collect()));
        let width = |column: usize| {
            let cells = lines.iter().map(|line| line[column].chars().count());
            cells.max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        let mut text = String::new();
        for line in &lines {
            let mut row = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                _ = write!(row, "{cell:width$}  ");
            }
            _ = writeln!(text, "{}", row.trim_end());
        }
        text
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
