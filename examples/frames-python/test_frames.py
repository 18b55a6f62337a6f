"""Checks the decoder against vectors.json, which the Rust implementation is checked against too.

    python -m unittest test_frames
"""

import json
import pathlib
import random
import unittest

from frames import Frame, FrameError, Gap, Hole, Receiver, Record, crc32c, decode, encode

VECTORS = json.loads((pathlib.Path(__file__).parent / "vectors.json").read_text())


def told(frame):
    """A frame as the vectors write it."""
    told = {"epoch": frame.epoch, "first": frame.first}
    if frame.gap:
        gap = frame.gap
        told["gap"] = {"last": gap.last, "reason": gap.reason, "lost": gap.lost}
    else:
        told["records"] = [
            {"time_ms": r.time_ms, "encoding": r.encoding, "value": r.value.hex()}
            for r in frame.records
        ]
    return told


class Frames(unittest.TestCase):
    def test_crc32c_has_its_check_value(self):
        self.assertEqual(crc32c(b"123456789"), 0xE3069283)

    def test_good_vectors_decode_and_encode(self):
        self.assertGreater(len(VECTORS["good"]), 5)
        for vector in VECTORS["good"]:
            with self.subTest(vector["name"]):
                data = bytes.fromhex(vector["bytes"])
                frame = decode(vector["stream"], data)
                self.assertEqual(told(frame), vector["frame"])
                self.assertEqual(encode(vector["stream"], frame), data)

    def test_bad_vectors_are_refused(self):
        self.assertGreater(len(VECTORS["bad"]), 5)
        for vector in VECTORS["bad"]:
            with self.subTest(vector["name"]), self.assertRaises(FrameError):
                decode(vector["stream"], bytes.fromhex(vector["bytes"]))

    def test_every_flipped_bit_is_noticed(self):
        vector = VECTORS["good"][0]
        data = bytes.fromhex(vector["bytes"])
        for bit in range(len(data) * 8):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            with self.assertRaises(FrameError):
                decode(vector["stream"], bytes(changed))

    def test_whatever_comes_is_a_frame_or_a_frame_error(self):
        source = random.Random(7)
        for _ in range(2000):
            data = bytearray(source.randbytes(source.randrange(80)))
            data[:3] = b"EF\x01"
            try:
                decode("s", bytes(data))
            except FrameError:
                pass


class Receiving(unittest.TestCase):
    def records(self, first, last):
        records = [Record(s, 0, "json", b"1") for s in range(first, last + 1)]
        return Frame(7, first, records)

    def test_what_came_before_is_dropped_also_in_part(self):
        receiver = Receiver()
        self.assertEqual(len(receiver.take(self.records(1, 3))), 3)
        self.assertEqual(receiver.take(self.records(1, 3)), [])
        self.assertEqual([r.sequence for r in receiver.take(self.records(2, 5))], [4, 5])
        self.assertEqual(json.loads(receiver.watermark()), {"v": 1, "epoch": 7, "sequence": 5})

    def test_nothing_is_acknowledged_over_a_hole(self):
        receiver = Receiver()
        receiver.take(self.records(1, 3))
        with self.assertRaises(Hole):
            receiver.take(self.records(5, 6))
        self.assertEqual(json.loads(receiver.watermark())["sequence"], 3)

    def test_a_gap_moves_the_watermark(self):
        receiver = Receiver()
        receiver.take(self.records(1, 3))
        gap = receiver.take(Frame(7, 2, [], Gap(2, 9, "quota", 8)))
        self.assertEqual((gap[0].first, gap[0].last), (4, 9))
        self.assertEqual(json.loads(receiver.watermark())["sequence"], 9)


if __name__ == "__main__":
    unittest.main()
