"""Windows of a measured acceleration signal, out of the package `aeon`.

BasicMotions (Jack Clements, University of East Anglia; on the time series
classification archive): a 3D accelerometer on a wrist, ten samples a second,
ten seconds a recording, four kinds of motion. Here a recording stands for a
machine: at rest and walking are its usual operation, running and badminton are
not. Each recording is cut into windows of five seconds that overlap by half,
one signal per axis.

    python3 models/vibration/dataset.py FOLDER OUT.ndjson

reads BasicMotions_TEST.ts in FOLDER (`cargo xtask setup` puts it in
artifacts/data) and writes the windows of that half, which the model has never
seen, as the records that a sensor sends. `label` is for tests; the handler
leaves it alone. Needs nothing but Python.
"""

import json
import pathlib
import sys

RATE_HZ = 10
WINDOW = 50
HOP = 25
AXES = "xyz"
USUAL = ("standing", "walking")


def recordings(folder, half):
    """(motion, [x, y, z]) of each recording of `half`, TRAIN or TEST."""
    text = pathlib.Path(folder, f"BasicMotions_{half}.ts").read_text(encoding="utf-8")
    _, _, data = text.partition("@data\n")
    for line in data.splitlines():
        if line.strip():
            *series, motion = line.strip().split(":")
            yield motion.lower(), [[float(v) for v in s.split(",")] for s in series[:3]]


def windows(folder, half):
    """(motion, recording, axis, samples) of each window of `half`."""
    for number, (motion, series) in enumerate(recordings(folder, half)):
        for axis, samples in zip(AXES, series):
            for start in range(0, len(samples) - WINDOW + 1, HOP):
                yield motion, number, axis, samples[start : start + WINDOW]


def records(folder):
    """The records of the test half; motions take turns, so that any stretch
    of the file has some of each."""
    by_motion = {}
    for motion, number, axis, samples in windows(folder, "TEST"):
        record = {
            "machine": f"press-{number % 10 + 1:02}",
            "axis": axis,
            "rate_hz": RATE_HZ,
            "samples": samples,
            "label": "usual" if motion in USUAL else "unusual",
        }
        by_motion.setdefault(motion, []).append(record)
    for turn in zip(*by_motion.values()):
        yield from turn


def main():
    folder, out = sys.argv[1:]
    with open(out, "w", encoding="utf-8") as file:
        for record in records(folder):
            file.write(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
