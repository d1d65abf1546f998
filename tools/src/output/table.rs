//! Tables without lines around them.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

/// Columns whose heading begins with `>` stand on the right.
pub(crate) struct Columns {
    table: Table,
}

impl Columns {
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(headings.map(|heading| heading.trim_start_matches('>')));
        for (i, _) in headings.iter().enumerate().filter(|(_, heading)| heading.starts_with('>')) {
            if let Some(column) = table.column_mut(i) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { table }
    }

    /// Rows of a key and a value, without headings.
    pub(crate) fn pairs<K: ToString, V: ToString>(rows: impl IntoIterator<Item = (K, V)>) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.add_rows(rows.into_iter().map(|(key, value)| [key.to_string(), value.to_string()]));
        text(&table)
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.table.add_row(cells);
    }

    pub(crate) fn into_text(self) -> String {
        text(&self.table)
    }
}

/// The lines without the space that the missing frame leaves.
fn text(table: &Table) -> String {
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_on_the_right() {
        let mut table = Columns::new(["LOG", ">RECORDS"]);
        table.row(["a/b".to_owned(), "7".to_owned()]);
        table.row(["demo/lines".to_owned(), "1,000".to_owned()]);
        let lines: Vec<_> = table.into_text().lines().map(str::to_owned).collect();
        assert_eq!(lines, ["LOG         RECORDS", "a/b               7", "demo/lines    1,000"]);
    }

    #[test]
    fn pairs_have_no_heading() {
        assert_eq!(Columns::pairs([("log", "a/b"), ("partitions", "1")]), "log         a/b\npartitions  1\n");
    }
}
