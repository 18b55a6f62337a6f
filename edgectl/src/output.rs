use std::io::Write as _;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use fleet_api::labels::Labels;
use jiff::Timestamp;
use serde::Serialize;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs; the same documents as the REST API's.
    Json,
}

/// A table for people, without lines.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Prints a table without blanks at the ends of lines, or `empty` if it has no row.
pub(crate) fn print_table(table: &Table, empty: &str) -> Result<()> {
    if table.row_count() == 0 {
        eprintln!("{empty}");
        return Ok(());
    }
    emit(&format!("{}\n", table.trim_fmt()))
}

/// Prints a document for programs.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    emit(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Writes to standard output; a reader that has gone away is no error.
pub(crate) fn emit(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Labels as a selector would write them.
pub(crate) fn labels(labels: &Labels) -> String {
    let all: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    or_dash(all.join(","))
}

/// A dash where there is nothing.
pub(crate) fn or_dash(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

/// How long ago a time was.
pub(crate) fn ago(time_ms: u64) -> String {
    let now_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    format!("{} ago", span(now_ms.saturating_sub(time_ms)))
}

/// A span in its largest fitting unit.
pub(crate) fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..120 => format!("{s}s"),
        120..7_200 => format!("{}m", s / 60),
        7_200..172_800 => format!("{}h", s / 3_600),
        _ => format!("{}d", s / 86_400),
    }
}

/// A number of bytes in its largest fitting unit.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// Microseconds as milliseconds.
pub(crate) fn millis(us: u64) -> String {
    format!("{}.{:02} ms", us / 1000, us % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(span(1_500), "1s");
        assert_eq!(span(150_000), "2m");
        assert_eq!(span(3 * 86_400_000), "3d");
        assert_eq!(millis(12_345), "12.34 ms");
        assert_eq!(bytes(2048), "2.00 KiB");
        assert_eq!(or_dash(""), "-");
    }

    #[test]
    fn table_lines_end_without_blanks() {
        let mut t = table(["A", "B"]);
        t.add_row(["x", ""]);
        assert_eq!(t.trim_fmt(), "A  B\nx");
    }
}
