"""Frames of device data, as a node publishes them. No dependencies.

The format and the protocol around it are described in docs/frames.md.
"""

import json
import struct
from dataclasses import dataclass, field

VERSION = 1
HEADER = struct.Struct(">2sBBIQQII")
RECORD = struct.Struct(">QBI")
GAP = struct.Struct(">QBQ")
MAX_VALUE_BYTES = 256 * 1024
MAX_FRAME_BYTES = MAX_VALUE_BYTES + 4096
MAX_EPOCH = 2**53 - 1
MAX_SEQUENCE = 2**64 - 1
ENCODINGS = {0: "json", 1: "cbor", 2: "bytes"}
REASONS = {1: "quota", 2: "expired", 3: "damaged", 4: "too-large"}


class FrameError(ValueError):
    """Bytes that are not one intact frame of the stream."""


@dataclass
class Record:
    """One record of a device."""

    sequence: int
    time_ms: int
    encoding: str
    value: bytes

    def json(self):
        """The value of a record that is JSON."""
        return json.loads(self.value)


@dataclass
class Gap:
    """What stands in the place of records that are gone."""

    first: int
    last: int
    reason: str
    lost: int


@dataclass
class Frame:
    """A run of records with contiguous sequences, or one gap."""

    epoch: int
    first: int
    records: list = field(default_factory=list)
    gap: Gap = None

    @property
    def last(self):
        return self.gap.last if self.gap else self.first + len(self.records) - 1


def _crc32c_table():
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _crc32c_table()


def crc32c(*parts):
    """CRC-32C (Castagnoli) of the parts, one after the other."""
    crc = 0xFFFFFFFF
    for part in parts:
        for byte in part:
            crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _checksum(stream, data):
    return crc32c(stream.encode(), b"\0", data[:4], data[8:])


def decode(stream, data):
    """The frame in `data`, which must be all of one intact frame of `stream`."""
    if len(data) < HEADER.size:
        raise FrameError("it ends within the header")
    magic, version, kind, crc, epoch, first, count, length = HEADER.unpack_from(data)
    if magic != b"EF":
        raise FrameError("it is no frame")
    if version != VERSION:
        raise FrameError(f"version {version} is not known")
    if kind not in (0, 1):
        raise FrameError(f"kind {kind} is not known")
    if len(data) > MAX_FRAME_BYTES or len(data) != HEADER.size + length:
        raise FrameError("its length is not what the header says")
    if crc != _checksum(stream, data):
        raise FrameError("its checksum does not match")
    if not 1 <= first <= MAX_SEQUENCE - count or epoch > MAX_EPOCH or (kind == 1) != (count == 0):
        raise FrameError("its sequences are out of range")
    frame = Frame(epoch, first)
    at = HEADER.size
    if kind == 1:
        if length != GAP.size:
            raise FrameError("its body is no gap")
        last, reason, lost = GAP.unpack_from(data, at)
        if last < first or last == MAX_SEQUENCE:
            raise FrameError("its sequences are out of range")
        if reason not in REASONS:
            raise FrameError(f"gap reason {reason} is not known")
        frame.gap = Gap(first, last, REASONS[reason], lost)
        return frame
    for sequence in range(first, first + count):
        if at + RECORD.size > len(data):
            raise FrameError("its body has fewer records than its header says")
        time_ms, encoding, size = RECORD.unpack_from(data, at)
        at += RECORD.size
        if encoding not in ENCODINGS:
            raise FrameError(f"encoding {encoding} is not known")
        if size > MAX_VALUE_BYTES or at + size > len(data):
            raise FrameError("a record is longer than its frame")
        value = bytes(data[at : at + size])
        frame.records.append(Record(sequence, time_ms, ENCODINGS[encoding], value))
        at += size
    if at != len(data):
        raise FrameError("its body has more than its header says")
    return frame


def encode(stream, frame):
    """The bytes of a frame; what a node would send."""
    if frame.gap:
        codes = {name: code for code, name in REASONS.items()}
        body = GAP.pack(frame.gap.last, codes[frame.gap.reason], frame.gap.lost)
    else:
        codes = {name: code for code, name in ENCODINGS.items()}
        parts = (
            RECORD.pack(record.time_ms, codes[record.encoding], len(record.value)) + record.value
            for record in frame.records
        )
        body = b"".join(parts)
    kind = 1 if frame.gap else 0
    header = HEADER.pack(
        b"EF", VERSION, kind, 0, frame.epoch, frame.first, len(frame.records), len(body)
    )
    data = header + body
    return data[:4] + struct.pack(">I", _checksum(stream, data)) + data[8:]


class Hole(Exception):
    """A frame that does not follow what is there. The node sends again what is between."""


class Receiver:
    """One stream of one node: drops what came before and knows how far all is there."""

    def __init__(self):
        self.epoch = None
        self.marks = {}

    def restore(self, epoch, last):
        """Notes what is safe from an earlier run."""
        self.epoch = epoch
        self.marks[epoch] = max(last, self.marks.get(epoch, 0))

    def take(self, frame):
        """What is new of a frame: records, or a gap. Raises `Hole` if something is missing
        before it; nothing may be acknowledged over a hole."""
        self.epoch = frame.epoch
        mark = self.marks.setdefault(frame.epoch, frame.first - 1)
        if frame.first > mark + 1:
            raise Hole(f"{mark + 1} is awaited, {frame.first} came")
        if frame.last <= mark:
            return []
        self.marks[frame.epoch] = frame.last
        if frame.gap:
            return [Gap(max(frame.first, mark + 1), frame.last, frame.gap.reason, frame.gap.lost)]
        return [record for record in frame.records if record.sequence > mark]

    def watermark(self):
        """The payload of the acknowledgement. Publish it, retained, on the stream's topic with
        /ack after it, and only when everything up to it is where it must not be lost."""
        return json.dumps({"v": 1, "epoch": self.epoch, "sequence": self.marks[self.epoch]})
