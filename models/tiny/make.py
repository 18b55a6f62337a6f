"""Makes the tiny models that tests run on. Needs the packages onnx and numpy:

    python3 make.py        writes the .onnx files beside this script

The bytes depend only on this script and the version of onnx (1.20.1 made the files in the repository).
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

HERE = Path(__file__).parent


def save(name, nodes, inputs, outputs, initializers=(), opset=17):
    graph = h.make_graph(nodes, name, inputs, outputs, list(initializers))
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], producer_name="make.py")
    model.ir_version = 8
    onnx.checker.check_model(model)
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def value(name, kind, shape):
    return h.make_tensor_value_info(name, kind, shape)


# A small network whose weights follow a formula, so that tests can work the result out: y = relu(x A) B,
# A[i][j] = ((i + j) % 5 - 2) / 8, B[j][k] = ((j * k) % 3 - 1) / 4.
def mlp():
    a = np.fromfunction(lambda i, j: ((i + j) % 5 - 2) / 8, (64, 64), dtype=np.float32).astype(np.float32)
    b = np.fromfunction(lambda j, k: ((j * k) % 3 - 1) / 4, (64, 8), dtype=np.float32).astype(np.float32)
    nodes = [h.make_node("MatMul", ["x", "a"], ["m"]), h.make_node("Relu", ["m"], ["r"]), h.make_node("MatMul", ["r", "b"], ["y"])]
    weights = [numpy_helper.from_array(a, "a"), numpy_helper.from_array(b, "b")]
    save("mlp", nodes, [value("x", T.FLOAT, ["N", 64])], [value("y", T.FLOAT, ["N", 8])], weights)


# One input and one output of every served type, each handed through.
def types():
    kinds = {
        "bool": T.BOOL, "uint8": T.UINT8, "uint16": T.UINT16, "uint32": T.UINT32, "uint64": T.UINT64,
        "int8": T.INT8, "int16": T.INT16, "int32": T.INT32, "int64": T.INT64,
        "fp16": T.FLOAT16, "bf16": T.BFLOAT16, "fp32": T.FLOAT, "fp64": T.DOUBLE, "bytes": T.STRING,
    }  # fmt: skip
    for name, kind in kinds.items():
        node = h.make_node("Identity", ["x"], ["y"])
        save(f"identity_{name}", [node], [value("x", kind, ["N"])], [value("y", kind, ["N"])])


# Two inputs, two outputs, fixed shapes, one of them a scalar: sum = a + b, product = a * b.
def pair():
    nodes = [h.make_node("Add", ["a", "b"], ["sum"]), h.make_node("Mul", ["a", "b"], ["product"])]
    save("pair", nodes, [value("a", T.FLOAT, [2, 2]), value("b", T.FLOAT, [])], [value("sum", T.FLOAT, [2, 2]), value("product", T.FLOAT, [2, 2])])


# Takes a row of a table; an index outside is refused by the run itself.
def lookup():
    table = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "table")
    save("lookup", [h.make_node("Gather", ["table", "index"], ["row"])], [value("index", T.INT64, ["N"])], [value("row", T.FLOAT, ["N", 3])], [table])


# As slow as asked for: squares a matrix `times` times in a loop that can be stopped between its steps.
def slow():
    body = h.make_graph(
        [h.make_node("MatMul", ["m_in", "m_in"], ["m_out"]), h.make_node("Identity", ["go_in"], ["go_out"])],
        "step",
        [value("i", T.INT64, []), value("go_in", T.BOOL, []), value("m_in", T.FLOAT, [128, 128])],
        [value("go_out", T.BOOL, []), value("m_out", T.FLOAT, [128, 128])],
    )
    start = numpy_helper.from_array(np.eye(128, dtype=np.float32), "start")
    go = numpy_helper.from_array(np.array(True), "go")
    nodes = [h.make_node("Loop", ["times", "go", "start"], ["end"], body=body)]
    save("slow", nodes, [value("times", T.INT64, [])], [value("end", T.FLOAT, [128, 128])], [start, go])


# Loads, but fails on every input: a reshape of 4 elements to 3.
def broken():
    shape = numpy_helper.from_array(np.array([3], dtype=np.int64), "shape")
    twice = h.make_node("Concat", ["x", "x"], ["xx"], axis=0)
    half = h.make_node("NonZero", ["xx"], ["at"])
    save("broken", [twice, half, h.make_node("Reshape", ["at", "shape"], ["y"])], [value("x", T.FLOAT, [2])], [value("y", T.INT64, [3])], [shape])


# A sequence of tensors as output, which has no served form.
def sequence():
    save("sequence", [h.make_node("SequenceConstruct", ["x", "x"], ["y"])], [value("x", T.FLOAT, [2])], [h.make_tensor_sequence_value_info("y", T.FLOAT, [2])])


# As many rows out as in, unless a number is negative: it is left out.
def positive():
    zero = numpy_helper.from_array(np.array(0, dtype=np.float32), "zero")
    nodes = [h.make_node("GreaterOrEqual", ["x", "zero"], ["keep"]), h.make_node("Compress", ["x", "keep"], ["y"], axis=0)]
    save("positive", nodes, [value("x", T.FLOAT, ["N"])], [value("y", T.FLOAT, ["M"])], [zero])


# Declares free first dimensions, but its output's is another one than its input's.
def turned():
    save("turned", [h.make_node("Transpose", ["x"], ["y"], perm=[1, 0])], [value("x", T.FLOAT, ["N", "T"])], [value("y", T.FLOAT, ["T", "N"])])


# The mean of each channel of a picture of any size, and the picture itself.
def means():
    nodes = [h.make_node("ReduceMean", ["x"], ["scores"], axes=[2, 3], keepdims=0), h.make_node("Identity", ["x"], ["pixels"])]
    shape = ["N", 3, "H", "W"]
    save("means", nodes, [value("x", T.FLOAT, shape)], [value("scores", T.FLOAT, ["N", 3]), value("pixels", T.FLOAT, shape)])


if __name__ == "__main__":
    for make in (mlp, types, pair, lookup, slow, broken, sequence, positive, turned, means):
        make()
