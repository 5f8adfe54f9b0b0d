//! What commands print: lines on stdout that survive a closed pipe, tables for people, JSON for programs.

use std::io::{self, BufWriter, Stdout, Write};

use super::CliError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Format {
    #[default]
    Table,
    Json,
}

/// Buffered stdout. An error of it ends the command, quietly where the reader has gone (`| head`).
#[derive(Debug)]
pub(super) struct Output {
    stdout: BufWriter<Stdout>,
}

impl Output {
    pub(super) fn new() -> Output {
        Output { stdout: BufWriter::with_capacity(64 << 10, io::stdout()) }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.stdout.write_all(bytes).map_err(CliError::Output)
    }

    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        self.stdout.flush().map_err(CliError::Output)
    }
}

pub(super) fn line(text: impl std::fmt::Display) -> Result<(), CliError> {
    let mut output = Output::new();
    output.write(format!("{text}\n").as_bytes())?;
    output.flush()
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<(), CliError> {
    line(serde_json::to_string(value).map_err(|error| CliError::Output(error.into()))?)
}

/// Columns as wide as their widest cell, headings in capitals.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let headings: Vec<String> = headings.iter().map(|heading| heading.to_uppercase()).collect();
    let mut text = String::new();
    for row in std::iter::once(&headings).chain(rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["flights".to_owned(), "3".to_owned()], vec!["é".to_owned(), "12".to_owned()]];
        assert_eq!(table(&["name", "partitions"], &rows), "NAME     PARTITIONS\nflights  3\né        12\n");
    }
}
