"""Makes mlp.onnx, the small model that measures what a request costs apart
from the model: 64 -> 64 (ReLU) -> 8, weights from a fixed seed.

    pip install onnx==1.20.1 numpy
    python3 models/mlp/make.py
"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(7)
nodes = [
    helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
    helper.make_node("Relu", ["h"], ["r"]),
    helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
]
weights = {
    "w1": rng.normal(0, 0.125, (64, 64)),
    "b1": rng.normal(0, 0.1, 64),
    "w2": rng.normal(0, 0.125, (64, 8)),
    "b2": rng.normal(0, 0.1, 8),
}
graph = helper.make_graph(
    nodes,
    "mlp",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
    [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
)
model = helper.make_model(
    graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="models/mlp/make.py"
)
model.ir_version = 8
onnx.checker.check_model(model)
(pathlib.Path(__file__).parent / "mlp.onnx").write_bytes(model.SerializeToString())
