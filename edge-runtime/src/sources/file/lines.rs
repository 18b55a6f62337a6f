use fleet_api::frame::{Encoding, MAX_VALUE_BYTES};
use fleet_api::source::FileFormat;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::streams::NewRecord;

/// Records that one commit takes at most.
const MOST_RECORDS: usize = 1_000;

/// How the lines of a file are read.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub source: String,
    pub format: FileFormat,
    pub delimiter: char,
}

/// What a piece of a file holds.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub records: Vec<NewRecord>,
    /// Why lines are no records, a sentence each.
    pub rejected: Vec<String>,
    /// Bytes of the lines.
    pub consumed: usize,
    pub header: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Line<'a, T> {
    source: &'a str,
    value: T,
}

impl Reader {
    /// Reads whole lines of `piece`, which follows those with `header`; with `last`
    /// nothing follows the piece, so that its end is the end of a line.
    pub(super) fn parse(&self, piece: &[u8], header: Option<Vec<String>>, last: bool) -> Parsed {
        let mut parsed = Parsed {
            header,
            ..Parsed::default()
        };
        let mut rest = piece;
        while parsed.records.len() < MOST_RECORDS && !rest.is_empty() {
            let (line, taken) = match rest.iter().position(|b| *b == b'\n') {
                Some(end) => (&rest[..end], end + 1),
                None if last => (rest, rest.len()),
                None => break,
            };
            rest = &rest[taken..];
            parsed.consumed += taken;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.trim_ascii().is_empty() {
                continue;
            }
            match self.line(line, &mut parsed.header) {
                Ok(Some(record)) if record.value.len() > MAX_VALUE_BYTES => {
                    let bytes = record.value.len();
                    parsed
                        .rejected
                        .push(format!("a line of {bytes} bytes is too large for a record"));
                }
                Ok(Some(record)) => parsed.records.push(record),
                Ok(None) => {}
                Err(reason) => {
                    let start: String = String::from_utf8_lossy(line).chars().take(60).collect();
                    parsed.rejected.push(format!("the line {start:?} {reason}"));
                }
            }
        }
        parsed
    }

    /// The line's record; none for a header.
    fn line(
        &self,
        line: &[u8],
        header: &mut Option<Vec<String>>,
    ) -> Result<Option<NewRecord>, String> {
        if self.format == FileFormat::JsonLines {
            let value: &RawValue =
                serde_json::from_slice(line).map_err(|e| format!("is not JSON: {e}"))?;
            return Ok(Some(self.record(value)));
        }
        let line = std::str::from_utf8(line).map_err(|_| "is not UTF-8".to_owned())?;
        let cells = cells(line, self.delimiter).ok_or("has a quote that does not end")?;
        let Some(names) = header else {
            *header = Some(names(cells));
            return Ok(None);
        };
        if cells.len() != names.len() {
            let (have, want) = (cells.len(), names.len());
            return Err(format!("has {have} cells where the first line has {want}"));
        }
        let row: Map<String, Value> = names
            .iter()
            .cloned()
            .zip(cells.into_iter().map(typed))
            .collect();
        Ok(Some(self.record(row)))
    }

    fn record(&self, value: impl Serialize) -> NewRecord {
        let source = &self.source;
        let text = serde_json::to_vec(&Line { source, value }).expect("only string keys");
        NewRecord::new(Encoding::Json, text)
    }
}

/// A cell of a CSV line.
#[derive(Debug, PartialEq, Eq)]
struct Cell {
    text: String,
    quoted: bool,
}

/// The cells of a line (RFC 4180, but for line breaks within quotes); none if a quote does not end.
fn cells(line: &str, delimiter: char) -> Option<Vec<Cell>> {
    let mut cells = Vec::new();
    let mut rest = line.chars().peekable();
    loop {
        let mut text = String::new();
        let quoted = rest.next_if_eq(&'"').is_some();
        if quoted {
            loop {
                match rest.next()? {
                    '"' if rest.next_if_eq(&'"').is_some() => text.push('"'),
                    '"' => break,
                    other => text.push(other),
                }
            }
        }
        while let Some(other) = rest.next_if(|c| *c != delimiter) {
            text.push(other);
        }
        cells.push(Cell { text, quoted });
        if rest.next().is_none() {
            return Some(cells);
        }
    }
}

/// Names of columns: each has one of its own.
fn names(cells: Vec<Cell>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (i, cell) in cells.into_iter().enumerate() {
        let text = cell.text.trim_start_matches('\u{feff}').trim();
        let base = match text {
            "" => format!("column-{}", i + 1),
            text => text.to_owned(),
        };
        let mut numbered = (1..).map(|n| match n {
            1 => base.clone(),
            n => format!("{base}-{n}"),
        });
        let name = numbered.find(|name| !names.contains(name));
        names.push(name.expect("there is always another number"));
    }
    names
}

/// An empty cell is null; numbers, true and false are what they look like, unless quoted.
fn typed(cell: Cell) -> Value {
    if cell.quoted {
        return Value::String(cell.text);
    }
    let text = cell.text.trim();
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    match text {
        "" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        // Exactly what JSON calls a number: 007 and 1. are names of something.
        text if is_number => serde_json::from_str(text)
            .ok()
            .filter(Value::is_number)
            .unwrap_or_else(|| Value::String(cell.text.clone())),
        _ => Value::String(cell.text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reader(format: FileFormat) -> Reader {
        Reader {
            source: "log".to_owned(),
            format,
            delimiter: ',',
        }
    }

    fn texts(parsed: &Parsed) -> Vec<String> {
        let text = |r: &NewRecord| String::from_utf8(r.value.to_vec()).unwrap();
        parsed.records.iter().map(text).collect()
    }

    #[test]
    fn a_csv_row_has_typed_cells_under_the_names_of_the_first_line() {
        let csv = reader(FileFormat::Csv);
        let piece =
            "\u{feff}t,n,note,ok,,n\r\n21.5,-3,\"a \"\"b\"\", c\",true,,007\r\n\n1e3,,\"5\",x,9,2";
        let parsed = csv.parse(piece.as_bytes(), None, false);
        assert_eq!(
            texts(&parsed),
            [
                r#"{"source":"log","value":{"column-5":null,"n":-3,"n-2":"007","note":"a \"b\", c","ok":true,"t":21.5}}"#
            ]
        );
        // The half line waits, and goes on with the same header.
        let rest = &piece.as_bytes()[parsed.consumed..];
        assert_eq!(rest, b"1e3,,\"5\",x,9,2");
        let parsed = csv.parse(rest, parsed.header, true);
        assert_eq!(
            texts(&parsed),
            [
                r#"{"source":"log","value":{"column-5":9,"n":null,"n-2":2,"note":"5","ok":"x","t":1000.0}}"#
            ]
        );
    }

    #[test]
    fn lines_that_are_no_records_are_told() {
        let json = reader(FileFormat::JsonLines);
        let parsed = json.parse(b"{\"a\":1.50}\n{nope\n2\n", None, false);
        assert_eq!(
            texts(&parsed),
            [
                r#"{"source":"log","value":{"a":1.50}}"#,
                r#"{"source":"log","value":2}"#
            ]
        );
        assert!(
            parsed.rejected[0].starts_with("the line \"{nope\" is not JSON"),
            "{parsed:?}"
        );
        let csv = reader(FileFormat::Csv);
        let parsed = csv.parse(b"a,b\n1\n\"x,2\n3,4\n", None, false);
        assert_eq!(parsed.records.len(), 1);
        assert_eq!(
            parsed.rejected,
            [
                "the line \"1\" has 1 cells where the first line has 2",
                "the line \"\\\"x,2\" has a quote that does not end"
            ]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_lines_or_told(piece in proptest::collection::vec(any::<u8>(), 0..200), last: bool) {
            for format in [FileFormat::Csv, FileFormat::JsonLines] {
                let parsed = reader(format).parse(&piece, None, last);
                prop_assert!(parsed.consumed <= piece.len());
                prop_assert!(!last || parsed.consumed == piece.len());
            }
        }

        #[test]
        fn where_a_file_is_cut_makes_no_difference(
            rows in proptest::collection::vec((any::<i32>(), "[a-z\",]{0,6}"), 0..20),
            cut in any::<proptest::sample::Index>(),
        ) {
            let quoted = |text: &str| text.replace('"', "\"\"");
            let body: String = rows.iter().map(|(n, text)| format!("{n},\"{}\"\n", quoted(text))).collect();
            let file = format!("n,text\n{body}");
            let csv = reader(FileFormat::Csv);
            let whole = csv.parse(file.as_bytes(), None, false);
            prop_assert_eq!(whole.records.len(), rows.len());
            let at = cut.index(file.len());
            let first = csv.parse(&file.as_bytes()[..at], None, false);
            let second = csv.parse(&file.as_bytes()[first.consumed..], first.header.clone(), false);
            let both: Vec<_> = texts(&first).into_iter().chain(texts(&second)).collect();
            prop_assert_eq!(both, texts(&whole));
        }
    }
}
