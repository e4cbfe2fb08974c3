//! Columns as Go's tabwriter lays them out for crictl: at least 20 wide, 3 apart, the last one
//! without padding.

use std::io::{self, Write};

/// Rows that are printed together.
#[derive(Debug)]
pub(crate) struct Table {
    min_width: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self::with_width(20)
    }

    pub(crate) fn with_width(min_width: usize) -> Self {
        Self {
            min_width,
            rows: Vec::new(),
        }
    }

    pub(crate) fn row<I: IntoIterator<Item = S>, S: Into<String>>(&mut self, cells: I) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let widest = self
                    .rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.chars().count())
                    .max();
                (widest.unwrap_or(0) + 3).max(self.min_width)
            })
            .collect();
        for row in &self.rows {
            let Some((last, cells)) = row.split_last() else {
                continue;
            };
            for (cell, width) in cells.iter().zip(&widths) {
                write!(out, "{cell:<width$}")?;
            }
            writeln!(out, "{last}")?;
        }
        Ok(())
    }
}

/// The first 13 characters of an id, without the name of its digest's algorithm.
pub(crate) fn short<'a>(id: &'a str, prefix: &str) -> &'a str {
    let id = id.strip_prefix(prefix).unwrap_or(id);
    id.char_indices().nth(13).map_or(id, |(end, _)| &id[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_wide_enough_and_the_last_is_bare() {
        let mut table = Table::new();
        table.row(["A", "B", "C"]);
        table.row(["a".repeat(18), "b".to_owned(), "c".to_owned()]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        let expected = format!(
            "A{}B{}C\n{}   b{}c\n",
            " ".repeat(20),
            " ".repeat(19),
            "a".repeat(18),
            " ".repeat(19)
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn ids_are_cut() {
        assert_eq!(short("sha256:0123456789abcdef", "sha256:"), "0123456789abc");
        assert_eq!(short("0123", ""), "0123");
    }
}
