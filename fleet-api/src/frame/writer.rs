use bytes::{BufMut, Bytes, BytesMut};

use super::{
    FrameError, HEADER_BYTES, KIND_RECORDS, MAGIC, MAX_EPOCH, MAX_FRAME_BYTES, MAX_VALUE_BYTES,
    Record, VERSION, checksum,
};

/// Room that a frame begins with; one usually ends a little below it.
const USUAL_BYTES: usize = 6 * 1024;

/// Writes a frame of records one record after the other.
#[derive(Debug)]
pub struct FrameWriter {
    bytes: BytesMut,
    epoch: u64,
    first: u64,
    count: u32,
}

impl FrameWriter {
    /// A frame without records yet, whose first will have sequence `first`.
    pub fn new(epoch: u64, first: u64) -> Self {
        let mut bytes = BytesMut::with_capacity(USUAL_BYTES);
        bytes.put_bytes(0, HEADER_BYTES);
        Self {
            bytes,
            epoch,
            first,
            count: 0,
        }
    }

    /// Sequence of the first record.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`FrameError`] if the record or the frame becomes too large; then nothing is added.
    pub fn push(&mut self, record: &Record) -> Result<(), FrameError> {
        let value = &record.value;
        let length = u32::try_from(value.len())
            .ok()
            .filter(|_| value.len() <= MAX_VALUE_BYTES)
            .ok_or(FrameError::ValueTooLarge(value.len()))?;
        let total = self.bytes.len() + record.encoded_bytes();
        if total > MAX_FRAME_BYTES {
            return Err(FrameError::TooLarge(total));
        }
        self.bytes.put_u64(record.time_ms);
        self.bytes.put_u8(record.encoding as u8);
        self.bytes.put_u32(length);
        self.bytes.put_slice(value);
        self.count += 1;
        Ok(())
    }

    /// The whole frame, for `stream`.
    ///
    /// # Errors
    /// [`FrameError::Range`] if it has no records or its sequences are out of range.
    pub fn finish(self, stream: &str) -> Result<Bytes, FrameError> {
        let in_range = self.count > 0 && self.first.checked_add(self.count.into()).is_some();
        if self.first == 0 || self.epoch > MAX_EPOCH || !in_range {
            return Err(FrameError::Range);
        }
        let body = self.bytes.len() - HEADER_BYTES;
        Ok(seal(
            self.bytes,
            stream,
            KIND_RECORDS,
            [self.epoch, self.first],
            self.count,
            body,
        ))
    }
}

/// Fills in the header of a frame whose body is there, below [`MAX_FRAME_BYTES`].
pub(super) fn seal(
    mut bytes: BytesMut,
    stream: &str,
    kind: u8,
    [epoch, first]: [u64; 2],
    count: u32,
    body_bytes: usize,
) -> Bytes {
    let mut header = &mut bytes[..HEADER_BYTES];
    header.put_slice(&MAGIC);
    header.put_u8(VERSION);
    header.put_u8(kind);
    header.put_u32(0);
    header.put_u64(epoch);
    header.put_u64(first);
    header.put_u32(count);
    header.put_u32(u32::try_from(body_bytes).unwrap_or(u32::MAX));
    let crc = checksum(stream, &bytes);
    bytes[4..8].copy_from_slice(&crc.to_be_bytes());
    bytes.freeze()
}
