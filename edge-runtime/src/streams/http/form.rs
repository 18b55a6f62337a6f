use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use fleet_api::frame::{Body, Encoding, Gap};
use http::HeaderMap;
use http::header::ACCEPT;

use crate::streams::{OutFrame, Row};

/// The forms that an answer may have, in the order of preference where the
/// client has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A JSON text per line.
    Ndjson,
    /// CBOR items one behind the other (RFC 8742).
    CborSeq,
    /// Frames as they are stored and sent, whole ones only.
    Frames,
    /// A page for people that follows the stream.
    Page,
}

const FORMS: [Form; 4] = [Form::Ndjson, Form::CborSeq, Form::Frames, Form::Page];

impl Form {
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::CborSeq => "application/cbor-seq",
            Self::Frames => "application/vnd.edge.frames",
            Self::Page => "text/html; charset=utf-8",
        }
    }

    /// The form that the client likes best; none if it takes none of them.
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let mut ranges = Vec::new();
        for value in headers.get_all(ACCEPT) {
            let value = value.to_str().unwrap_or("");
            ranges.extend(
                value
                    .split(',')
                    .filter(|r| !r.trim().is_empty())
                    .map(media_range),
            );
        }
        if ranges.is_empty() {
            return Some(Self::Ndjson);
        }
        let mut best: Option<(Self, f32)> = None;
        for form in FORMS {
            let quality = form.quality(&ranges);
            if quality > best.map_or(0.0, |(_, quality)| quality) {
                best = Some((form, quality));
            }
        }
        best.map(|(form, _)| form)
    }

    /// The quality of the most specific range that covers the form.
    fn quality(self, ranges: &[(String, f32)]) -> f32 {
        let names: &[&str] = match self {
            Self::Ndjson => &[
                "application/x-ndjson",
                "application/ndjson",
                "application/jsonl",
                "application/*",
                "*/*",
            ],
            Self::CborSeq => &["application/cbor-seq", "application/*", "*/*"],
            Self::Frames => &["application/vnd.edge.frames", "application/*", "*/*"],
            // Programs that take anything do not want a page.
            Self::Page => &["text/html"],
        };
        let covers = |name: &&str| ranges.iter().find(|(range, _)| range == name);
        names
            .iter()
            .find_map(covers)
            .map_or(0.0, |(_, quality)| *quality)
    }

    /// Writes a record.
    pub(super) fn row(self, out: &mut BytesMut, row: &Row) {
        match self {
            Self::CborSeq => cbor_row(out, row),
            _ => {
                out.put_slice(row.to_json().as_bytes());
                out.put_u8(b'\n');
            }
        }
    }

    /// Writes a gap.
    pub(super) fn gap(self, out: &mut BytesMut, gap: &GapRow) {
        match self {
            Self::CborSeq => ciborium::into_writer(gap, out.writer())
                .expect("memory takes what is written to it"),
            _ => {
                out.put_slice(gap.to_json().as_bytes());
                out.put_u8(b'\n');
            }
        }
    }
}

fn media_range(text: &str) -> (String, f32) {
    let mut parts = text.split(';');
    let name = parts.next().unwrap_or("").trim().to_ascii_lowercase();
    let quality = parts.find_map(|p| p.trim().strip_prefix("q=")?.parse().ok());
    (name, quality.unwrap_or(1.0))
}

/// A gap as a row among records: `{"gap": {"first", "last", "reason", "lost"}}`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct GapRow {
    gap: GapText,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
struct GapText {
    first: u64,
    last: u64,
    reason: &'static str,
    lost: u64,
}

impl GapRow {
    /// The gap that stands in `frame`, if it is one.
    pub(super) fn of(frame: &OutFrame) -> Option<Self> {
        let Body::Gap(Gap { last, reason, lost }) = &frame.frame.body else {
            return None;
        };
        let gap = GapText {
            first: frame.first,
            last: *last,
            reason: reason.as_str(),
            lost: *lost,
        };
        Some(Self { gap })
    }

    /// Records that the receiver has and the node no longer holds.
    pub(super) fn released((first, last): (u64, u64)) -> Self {
        let gap = GapText {
            first,
            last,
            reason: "released",
            lost: 0,
        };
        Self { gap }
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a gap has only string keys")
    }
}

/// `{"seq", "time", "value"}` as CBOR; a value that is CBOR is embedded as it
/// is, JSON becomes CBOR, and bytes are a byte string.
fn cbor_row(out: &mut BytesMut, row: &Row) {
    let record = &row.record;
    let value = match record.encoding {
        Encoding::Json => serde_json::from_slice(&record.value)
            .ok()
            .map(|value: serde_json::Value| encoded(&value)),
        Encoding::Cbor => {
            let item: Result<ciborium::Value, _> = ciborium::from_reader(&record.value[..]);
            item.is_ok().then(|| record.value.clone())
        }
        Encoding::Bytes => Some(encoded(&ciborium::Value::Bytes(record.value.to_vec()))),
    };
    // A map of three, or of four where the value had to be put into text.
    out.put_u8(if value.is_some() { 0xa3 } else { 0xa4 });
    out.put_slice(&encoded("seq"));
    out.put_slice(&encoded(&row.seq));
    out.put_slice(&encoded("time"));
    out.put_slice(&encoded(&record.time_ms));
    if value.is_none() {
        out.put_slice(&encoded("encoding"));
        out.put_slice(&encoded(record.encoding.as_str()));
    }
    out.put_slice(&encoded("value"));
    out.put_slice(&value.unwrap_or_else(|| encoded(&STANDARD.encode(&record.value))));
}

fn encoded<T: serde::Serialize + ?Sized>(value: &T) -> Bytes {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("memory takes what is written to it");
    bytes.into()
}

#[cfg(test)]
mod tests {
    use fleet_api::frame::Record;

    use super::*;

    fn accepted(accept: &[&str]) -> Option<Form> {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        Form::accepted(&headers)
    }

    #[test]
    fn the_client_chooses_the_form() {
        assert_eq!(accepted(&[]), Some(Form::Ndjson));
        assert_eq!(accepted(&["*/*"]), Some(Form::Ndjson));
        assert_eq!(accepted(&["application/cbor-seq"]), Some(Form::CborSeq));
        assert_eq!(
            accepted(&["application/x-ndjson;q=0.5, application/vnd.edge.frames"]),
            Some(Form::Frames)
        );
        assert_eq!(
            accepted(&["application/x-ndjson;q=0", "*/*;q=0.1"]),
            Some(Form::CborSeq)
        );
        assert_eq!(accepted(&["image/png"]), None);
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        assert_eq!(accepted(&[browser]), Some(Form::Page));
    }

    #[test]
    fn a_row_in_cbor_is_one_item_whatever_the_records_encoding() {
        let mut out = BytesMut::new();
        for (encoding, value) in [
            (Encoding::Json, &b"{\"a\": [1.5, null]}"[..]),
            (Encoding::Cbor, b"\xa1\x61a\xc1\x01"),
            (Encoding::Bytes, b"\x00\xff"),
            (Encoding::Json, b"broken"),
        ] {
            let record = Record {
                time_ms: 9,
                encoding,
                value: Bytes::copy_from_slice(value),
            };
            Form::CborSeq.row(&mut out, &Row { seq: 4, record });
        }
        let mut rest = &out[..];
        let mut items = Vec::new();
        while !rest.is_empty() {
            let item: ciborium::Value = ciborium::from_reader(&mut rest).unwrap();
            items.push(format!("{item:?}"));
        }
        assert_eq!(items.len(), 4);
        assert!(items[0].contains("Float(1.5)"), "{}", items[0]);
        assert!(items[1].contains("Tag(1"), "{}", items[1]);
        assert!(items[2].contains("Bytes([0, 255])"), "{}", items[2]);
        assert!(items[3].contains("encoding"), "{}", items[3]);
    }
}
