"""Trains the isolation forest of the handler `vibration`.

    pip install scikit-learn==1.9.1 skl2onnx==1.20.0 onnxruntime==1.32.0
    python3 models/vibration/train.py artifacts/data

writes `vibration.onnx` and `cases.json` beside this file, and prints how well
the model tells usual from unusual motion in windows it has not seen. The same
versions give the same bytes. `features` is the twin of
modules/vibration/src/features.rs; cases.json holds the two together.
"""

import json
import os
import pathlib
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import dataset

HERE = pathlib.Path(__file__).parent
BANDS = 6
SILENCE = 1e-12


def features(samples, rate_hz):
    """See modules/vibration/src/features.rs."""
    x = np.asarray(samples, dtype=np.float64)
    n = len(x)
    x = x - x.mean()
    variance = np.mean(x**2)
    rms = np.sqrt(variance)
    peak = np.abs(x).max()
    crossings = np.count_nonzero((x[:-1] < 0) != (x[1:] < 0))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    power = np.abs(np.fft.rfft(x * hann)[1:]) ** 2 / n**2
    total = power.sum() + SILENCE
    bins = len(power)
    edges = [band * bins // BANDS for band in range(BANDS + 1)]
    bands = [np.log10(power[a:b].sum() + SILENCE) for a, b in zip(edges, edges[1:])]
    shape = [
        rms,
        peak,
        peak / (rms + SILENCE),
        np.mean(x**3) / (variance**1.5 + SILENCE),
        np.mean(x**4) / (variance**2 + SILENCE),
        crossings * rate_hz / n,
        (np.argmax(power) + 1) / bins,
        (np.arange(1, bins + 1) * power).sum() / total / bins,
    ]
    return np.array(shape + bands, dtype=np.float32)


def load(folder, half):
    found = list(dataset.windows(folder, half))
    rows = np.stack([features(samples, dataset.RATE_HZ) for *_, samples in found])
    usual = np.array([motion in dataset.USUAL for motion, *_ in found])
    return found, rows, usual


def main():
    folder = sys.argv[1]
    _, rows, usual = load(folder, "TRAIN")
    # The threshold 0 is put where one usual window in fifty is called strange.
    forest = IsolationForest(n_estimators=50, max_samples=128, contamination=0.02, random_state=7)
    pipeline = make_pipeline(StandardScaler(), forest).fit(rows[usual])
    model = to_onnx(
        pipeline, rows[:1], target_opset={"": 17, "ai.onnx.ml": 3}, name="vibration"
    )
    model.producer_name, model.producer_version = "models/vibration/train.py", ""
    model.opset_import.sort(key=lambda entry: entry.domain)  # a set's order otherwise
    path = HERE / "vibration.onnx"
    path.write_bytes(model.SerializeToString())

    found, rows, usual = load(folder, "TEST")
    session = onnxruntime.InferenceSession(path.read_bytes())
    scores = session.run(["scores"], {"X": rows})[0].ravel()
    alone = np.array([session.run(["scores"], {"X": row[None]})[0][0, 0] for row in rows])
    assert np.allclose(scores, alone, atol=1e-6), "a batch gives the scores of its rows"
    print(f"{path.name}: {path.stat().st_size} bytes, {len(rows)} unseen windows")
    print(f"AUC {roc_auc_score(~usual, -scores):.3f}")
    print(f"alerts: {np.mean(scores[~usual] < 0):.0%} of the unusual, {np.mean(scores[usual] < 0):.0%} of the usual")
    print(f"median score: usual {np.median(scores[usual]):.3f}, unusual {np.median(scores[~usual]):.3f}")
    for motion in sorted({m for m, *_ in found}):
        of = np.array([m == motion for m, *_ in found])
        print(f"  {motion}: {np.mean(scores[of] < 0):.0%} alerts")

    cases = [
        {
            "motion": found[k][0],
            "rate_hz": dataset.RATE_HZ,
            "samples": found[k][3],
            "features": [float(v) for v in rows[k]],
            "score": float(scores[k]),
        }
        for k in range(0, len(found), len(found) // 12)
    ]
    (HERE / "cases.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()
