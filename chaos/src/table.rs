//! Tables without lines around them.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

/// Columns whose heading begins with `>` stand on the right.
pub(crate) fn table<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(headings.map(|heading| heading.trim_start_matches('>')));
    for (i, _) in headings.iter().enumerate().filter(|(_, heading)| heading.starts_with('>')) {
        if let Some(column) = table.column_mut(i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.add_rows(rows);
    table.lines().map(|line| format!("  {}\n", line.trim())).collect()
}
