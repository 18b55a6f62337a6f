//! A frame is the unit of commit on a node's disk, of one MQTT publish and of
//! acknowledgement. The bytes on disk and on the wire are the same:
//!
//! ```text
//! "EF" | version u8 | kind u8 | crc32c u32 | epoch u64 | first u64 | count u32 | length u32 | body
//! kind 0, records:  count × ( time_ms u64 | encoding u8 | length u32 | value )
//! kind 1, gap:      last u64 | reason u8 | lost u64          (count is 0)
//! ```
//!
//! Numbers are big-endian. The checksum covers the stream's name, a zero byte
//! and everything else in the frame but itself, so a frame cannot pass under
//! another stream's name. A gap takes the place of records that a limit has
//! evicted; it may overlap a part of what the receiver already has, so a
//! receiver skips every sequence at or below its watermark.

mod writer;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

pub use writer::FrameWriter;
use writer::seal;

/// The only version of the format so far.
pub const VERSION: u8 = 1;
/// A gateway's time below this, 2024-01-01, is that of a clock which was never set.
pub const CLOCK_UNSET_BELOW_MS: u64 = 1_704_067_200_000;
/// Bytes before the body.
pub const HEADER_BYTES: usize = 32;
/// Bytes that a record takes beside its value.
pub const RECORD_OVERHEAD_BYTES: usize = 13;
/// The largest value of one record.
pub const MAX_VALUE_BYTES: usize = 256 * 1024;
/// The largest frame.
pub const MAX_FRAME_BYTES: usize = MAX_VALUE_BYTES + 4096;
/// Epochs are below this, so that they survive a JSON number everywhere.
pub const MAX_EPOCH: u64 = (1 << 53) - 1;

const MAGIC: [u8; 2] = *b"EF";
const KIND_RECORDS: u8 = 0;
const KIND_GAP: u8 = 1;
const GAP_BODY_BYTES: usize = 17;

/// How a record's value is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Encoding {
    /// UTF-8 JSON text, one value.
    Json = 0,
    /// CBOR (RFC 8949), one item.
    Cbor = 1,
    /// Opaque bytes.
    Bytes = 2,
}

impl Encoding {
    fn from_byte(byte: u8) -> Result<Self, FrameError> {
        match byte {
            0 => Ok(Self::Json),
            1 => Ok(Self::Cbor),
            2 => Ok(Self::Bytes),
            other => Err(FrameError::Encoding(other)),
        }
    }

    /// The name used in JSON, tables and headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Cbor => "cbor",
            Self::Bytes => "bytes",
        }
    }
}

/// One record of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When the gateway accepted it, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Encoding of `value`.
    pub encoding: Encoding,
    /// The record itself, as the device sent it.
    pub value: Bytes,
}

impl Record {
    /// Bytes that it takes within a frame.
    pub fn encoded_bytes(&self) -> usize {
        RECORD_OVERHEAD_BYTES + self.value.len()
    }

    /// Whether the gateway's clock had been set when it accepted the record.
    pub fn clock_is_set(&self) -> bool {
        self.time_ms >= CLOCK_UNSET_BELOW_MS
    }
}

/// Why records are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum GapReason {
    /// The stream's quota was reached.
    Quota = 1,
    /// They were older than the stream's time to live.
    Expired = 2,
    /// The disk gave back something else than was written, or nothing.
    Damaged = 3,
    /// The receiver takes no frame of this size.
    TooLarge = 4,
}

impl GapReason {
    fn from_byte(byte: u8) -> Result<Self, FrameError> {
        match byte {
            1 => Ok(Self::Quota),
            2 => Ok(Self::Expired),
            3 => Ok(Self::Damaged),
            4 => Ok(Self::TooLarge),
            other => Err(FrameError::Reason(other)),
        }
    }

    /// The name used in JSON, tables and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Expired => "expired",
            Self::Damaged => "damaged",
            Self::TooLarge => "too-large",
        }
    }
}

/// What takes the place of records that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last sequence of the gap, inclusive.
    pub last: u64,
    /// Why they are gone; of several reasons, the latest.
    pub reason: GapReason,
    /// How many records are gone.
    pub lost: u64,
}

/// A run of records of one stream, or the gap in their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The node's buffer; a new one gets a new epoch. At most [`MAX_EPOCH`].
    pub epoch: u64,
    /// Sequence of the first record; sequences start at 1.
    pub first: u64,
    /// Records or gap.
    pub body: Body,
}

/// What a frame carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// At least one record, with contiguous sequences.
    Records(Vec<Record>),
    /// No records, and why.
    Gap(Gap),
}

/// What the first bytes of a frame say, unchecked against its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Epoch of the buffer.
    pub epoch: u64,
    /// Sequence of the first record.
    pub first: u64,
    /// Number of records, 0 in a gap.
    pub count: u32,
    /// Length of the whole frame in bytes.
    pub frame_bytes: usize,
}

/// The receiver's acknowledgement: everything of `epoch` up to and including
/// `sequence` is durable there. The payload of a stream's `ack` topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// Version of this document's form, 1.
    pub v: u8,
    /// Epoch of the node's buffer.
    pub epoch: u64,
    /// The last contiguous sequence.
    pub sequence: u64,
}

impl Watermark {
    /// A watermark of form 1.
    pub fn new(epoch: u64, sequence: u64) -> Self {
        Self {
            v: 1,
            epoch,
            sequence,
        }
    }
}

/// Why bytes are not a frame, or a frame cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It does not start like a frame.
    #[error("not a frame: the first bytes are wrong")]
    Magic,
    /// Written by a newer program.
    #[error("frame version {0} is not known, only {VERSION} is")]
    Version(u8),
    /// Neither records nor gap.
    #[error("frame kind {0} is not known")]
    Kind(u8),
    /// It ends too early, or something follows it.
    #[error("frame of {have} bytes where its header says {want}")]
    Length {
        /// Bytes given.
        have: usize,
        /// Bytes expected.
        want: usize,
    },
    /// Changed on the way, or of another stream.
    #[error("frame checksum does not match")]
    Checksum,
    /// The records do not fill the body.
    #[error("frame body does not match its record count")]
    Body,
    /// The sequences run backwards or past the last one.
    #[error("frame sequences are out of range")]
    Range,
    /// Too large.
    #[error("frame of {0} bytes is larger than {MAX_FRAME_BYTES}")]
    TooLarge(usize),
    /// A record's value is too large.
    #[error("record of {0} bytes is larger than {MAX_VALUE_BYTES}")]
    ValueTooLarge(usize),
    /// Neither JSON, CBOR nor bytes.
    #[error("record encoding {0} is not known")]
    Encoding(u8),
    /// The gap's reason is not known.
    #[error("gap reason {0} is not known")]
    Reason(u8),
}

impl Header {
    /// Reads the header of a frame, which may be cut off after it. Says
    /// nothing about the body; [`Frame::decode`] checks everything.
    ///
    /// # Errors
    /// [`FrameError`] if there is no header or its sizes are out of bounds.
    pub fn peek(mut bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() < HEADER_BYTES {
            return Err(FrameError::Length {
                have: bytes.len(),
                want: HEADER_BYTES,
            });
        }
        if bytes[..2] != MAGIC {
            return Err(FrameError::Magic);
        }
        bytes.advance(2);
        let version = bytes.get_u8();
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let kind = bytes.get_u8();
        if kind > KIND_GAP {
            return Err(FrameError::Kind(kind));
        }
        bytes.advance(4);
        let epoch = bytes.get_u64();
        let first = bytes.get_u64();
        let count = bytes.get_u32();
        let frame_bytes = HEADER_BYTES.saturating_add(bytes.get_u32() as usize);
        if frame_bytes > MAX_FRAME_BYTES {
            return Err(FrameError::TooLarge(frame_bytes));
        }
        let in_range = epoch <= MAX_EPOCH
            && first > 0
            && (kind == KIND_GAP) == (count == 0)
            && first.checked_add(u64::from(count)).is_some();
        if !in_range {
            return Err(FrameError::Range);
        }
        Ok(Self {
            epoch,
            first,
            count,
            frame_bytes,
        })
    }
}

impl Frame {
    /// Sequence of the last record, inclusive.
    pub fn last(&self) -> u64 {
        match &self.body {
            Body::Records(records) => self.first + (records.len() as u64).saturating_sub(1),
            Body::Gap(gap) => gap.last,
        }
    }

    /// Writes the frame for `stream`.
    ///
    /// # Errors
    /// [`FrameError`] if it is empty, too large or its sequences are out of range.
    pub fn encode(&self, stream: &str) -> Result<Bytes, FrameError> {
        match &self.body {
            Body::Records(records) => {
                let mut frame = FrameWriter::new(self.epoch, self.first);
                for record in records {
                    frame.push(record)?;
                }
                frame.finish(stream)
            }
            Body::Gap(gap) => {
                let in_range = gap.last >= self.first && gap.last < u64::MAX;
                if self.first == 0 || self.epoch > MAX_EPOCH || !in_range {
                    return Err(FrameError::Range);
                }
                let mut bytes = BytesMut::with_capacity(HEADER_BYTES + GAP_BODY_BYTES);
                bytes.put_bytes(0, HEADER_BYTES);
                bytes.put_u64(gap.last);
                bytes.put_u8(gap.reason as u8);
                bytes.put_u64(gap.lost);
                let places = [self.epoch, self.first];
                Ok(seal(bytes, stream, KIND_GAP, places, 0, GAP_BODY_BYTES))
            }
        }
    }

    /// Reads a frame of `stream`; the values share `bytes`' memory.
    ///
    /// # Errors
    /// [`FrameError`] if the bytes are not exactly one intact frame of that stream.
    pub fn decode(stream: &str, bytes: &Bytes) -> Result<Self, FrameError> {
        let header = Header::peek(bytes)?;
        if bytes.len() != header.frame_bytes {
            return Err(FrameError::Length {
                have: bytes.len(),
                want: header.frame_bytes,
            });
        }
        let stored = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        if stored != checksum(stream, bytes) {
            return Err(FrameError::Checksum);
        }
        let body = bytes.slice(HEADER_BYTES..);
        let body = if header.count == 0 {
            Body::Gap(decode_gap(header.first, body)?)
        } else {
            Body::Records(decode_records(header.count, body)?)
        };
        Ok(Self {
            epoch: header.epoch,
            first: header.first,
            body,
        })
    }
}

fn decode_records(count: u32, mut body: Bytes) -> Result<Vec<Record>, FrameError> {
    let count = count as usize;
    if count > body.len() / RECORD_OVERHEAD_BYTES {
        return Err(FrameError::Body);
    }
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        if body.len() < RECORD_OVERHEAD_BYTES {
            return Err(FrameError::Body);
        }
        let time_ms = body.get_u64();
        let encoding = Encoding::from_byte(body.get_u8())?;
        let length = body.get_u32() as usize;
        if length > MAX_VALUE_BYTES {
            return Err(FrameError::ValueTooLarge(length));
        }
        if length > body.len() {
            return Err(FrameError::Body);
        }
        records.push(Record {
            time_ms,
            encoding,
            value: body.split_to(length),
        });
    }
    if body.is_empty() {
        Ok(records)
    } else {
        Err(FrameError::Body)
    }
}

fn decode_gap(first: u64, mut body: Bytes) -> Result<Gap, FrameError> {
    if body.len() != GAP_BODY_BYTES {
        return Err(FrameError::Body);
    }
    let last = body.get_u64();
    let reason = GapReason::from_byte(body.get_u8())?;
    let lost = body.get_u64();
    if last < first || last == u64::MAX {
        return Err(FrameError::Range);
    }
    Ok(Gap { last, reason, lost })
}

fn checksum(stream: &str, frame: &[u8]) -> u32 {
    let crc = crc32c::crc32c(stream.as_bytes());
    let crc = crc32c::crc32c_append(crc, &[0]);
    let crc = crc32c::crc32c_append(crc, &frame[..4]);
    crc32c::crc32c_append(crc, &frame[8..])
}

#[cfg(test)]
mod vectors;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(value: &[u8]) -> Record {
        Record {
            time_ms: 1_700_000_000_123,
            encoding: Encoding::Json,
            value: Bytes::copy_from_slice(value),
        }
    }

    fn example() -> Frame {
        Frame {
            epoch: 7,
            first: 41,
            body: Body::Records(vec![record(b"{\"a\":1}"), record(b"2")]),
        }
    }

    #[test]
    fn version_1_reads_the_bytes_it_was_released_with() {
        let released = Bytes::from_static(
            b"EF\x01\x00\x8e\xec\x38\xea\
              \x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x29\
              \x00\x00\x00\x02\x00\x00\x00\x22\
              \x00\x00\x01\x8b\xcf\xe5\x68\x7b\x00\x00\x00\x00\x07{\"a\":1}\
              \x00\x00\x01\x8b\xcf\xe5\x68\x7b\x00\x00\x00\x00\x012",
        );
        assert_eq!(example().encode("vibration").expect("encodes"), released);
        assert_eq!(Frame::decode("vibration", &released), Ok(example()));
    }

    #[test]
    fn a_frame_does_not_pass_under_another_streams_name() {
        let bytes = example().encode("vibration").expect("encodes");
        assert_eq!(
            Frame::decode("vibration2", &bytes),
            Err(FrameError::Checksum)
        );
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = example().encode("s").expect("encodes");
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Frame::decode("s", &changed.into()).is_err(),
                "bit {bit} passed"
            );
        }
    }

    #[test]
    fn refuses_what_it_could_not_read_back() {
        let empty = Frame {
            body: Body::Records(Vec::new()),
            ..example()
        };
        assert_eq!(empty.encode("s"), Err(FrameError::Range));
        let large = Frame {
            body: Body::Records(vec![record(&vec![0; MAX_VALUE_BYTES + 1])]),
            ..example()
        };
        assert_eq!(
            large.encode("s"),
            Err(FrameError::ValueTooLarge(MAX_VALUE_BYTES + 1))
        );
        let zero = Frame {
            first: 0,
            ..example()
        };
        assert_eq!(zero.encode("s"), Err(FrameError::Range));
        let backwards = Frame {
            body: Body::Gap(Gap {
                last: 40,
                reason: GapReason::Quota,
                lost: 1,
            }),
            ..example()
        };
        assert_eq!(backwards.encode("s"), Err(FrameError::Range));
    }

    #[test]
    fn the_largest_record_fits_a_frame() {
        let frame = Frame {
            body: Body::Records(vec![record(&vec![1; MAX_VALUE_BYTES])]),
            ..example()
        };
        let bytes = frame.encode("s").expect("encodes");
        assert_eq!(Frame::decode("s", &bytes), Ok(frame));
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let encoding = prop_oneof![
            Just(Encoding::Json),
            Just(Encoding::Cbor),
            Just(Encoding::Bytes)
        ];
        let record = (
            any::<u64>(),
            encoding,
            prop::collection::vec(any::<u8>(), 0..300),
        )
            .prop_map(|(time_ms, encoding, value)| Record {
                time_ms,
                encoding,
                value: value.into(),
            });
        let reason = prop_oneof![
            Just(GapReason::Quota),
            Just(GapReason::Expired),
            Just(GapReason::Damaged),
            Just(GapReason::TooLarge)
        ];
        let first = 1..u64::MAX / 2;
        let records = (first.clone(), prop::collection::vec(record, 1..40))
            .prop_map(|(first, records)| (first, Body::Records(records)));
        let gap =
            (first, 0..1000u64, reason, any::<u64>()).prop_map(|(first, more, reason, lost)| {
                let last = first + more;
                (first, Body::Gap(Gap { last, reason, lost }))
            });
        (0..=MAX_EPOCH, prop_oneof![records, gap]).prop_map(|(epoch, (first, body))| Frame {
            epoch,
            first,
            body,
        })
    }

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(frame in any_frame(), stream in "[a-z]{1,8}") {
            let bytes = frame.encode(&stream).expect("encodes");
            let header = Header::peek(&bytes[..HEADER_BYTES]).expect("has a header");
            prop_assert_eq!(header.frame_bytes, bytes.len());
            prop_assert_eq!(header.first, frame.first);
            prop_assert_eq!(Frame::decode(&stream, &bytes), Ok(frame));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode("s", &bytes.into());
        }

        /// Past the checksum too: the fields are random, the checksum is right.
        #[test]
        fn no_body_makes_it_panic(
            kind in 0..3u8, first in any::<u64>(), epoch in 0..=MAX_EPOCH, count in prop_oneof![0..4u32, any::<u32>()],
            body in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..80),
        ) {
            let mut out = BytesMut::new();
            out.put_slice(&MAGIC);
            out.put_u8(VERSION);
            out.put_u8(kind);
            out.put_u32(0);
            out.put_u64(epoch);
            out.put_u64(first);
            out.put_u32(count);
            out.put_u32(u32::try_from(body.len()).expect("short"));
            out.put_slice(&body);
            let crc = checksum("s", &out);
            out[4..8].copy_from_slice(&crc.to_be_bytes());
            let bytes = out.freeze();
            if let Ok(frame) = Frame::decode("s", &bytes) {
                prop_assert_eq!(frame.encode("s"), Ok(bytes));
                prop_assert!(frame.last() >= frame.first);
            }
        }
    }
}
