"""Drives a server with Triton's own Python client, over HTTP and over gRPC.

usage: SERVER_PID=PID triton_client.py HTTP_HOST:PORT GRPC_HOST:PORT CASE..

The server has the models of models/tiny under the names of their files, with - for _.
"""

import os
import queue
import signal
import sys
import threading
import time
import traceback

import ml_dtypes
import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

# Far more steps than a test waits for; one takes about 0.1 ms.
ENDLESS = 1_000_000_000

VALUES = {
    "bool": np.array([True, False, True]),
    "uint8": np.array([0, 255], dtype=np.uint8),
    "uint16": np.array([0, 65535], dtype=np.uint16),
    "uint32": np.array([0, 2**32 - 1], dtype=np.uint32),
    "uint64": np.array([0, 2**64 - 1], dtype=np.uint64),
    "int8": np.array([-128, 127], dtype=np.int8),
    "int16": np.array([-(2**15), 2**15 - 1], dtype=np.int16),
    "int32": np.array([-(2**31), 2**31 - 1], dtype=np.int32),
    "int64": np.array([-(2**63), 2**63 - 1], dtype=np.int64),
    "fp16": np.array([0.1, -65504, np.inf], dtype=np.float16),
    "fp32": np.array([0.1, 1e-45, -3.4e38], dtype=np.float32),
    "fp64": np.array([0.1, 5e-324, -1.7e308], dtype=np.float64),
    "bytes": np.array(["".encode(), "grün".encode(), b'with "quotes" and \\'], dtype=np.object_),
}


def client(kind, address):
    return kind.InferenceServerClient(address)


def tensor(kind, name, array, datatype=None, **form):
    made = kind.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, **form)
    return made


def same(given, expected):
    assert given is not None, "no such output"
    # Strings come as bytes in binary and as text in JSON.
    given = [v.encode() if isinstance(v, str) else v for v in given.ravel()] if given.dtype == np.object_ else given
    assert np.array_equal(given, expected), f"{given!r}, expected {expected!r}"


def refused(code, *parts, call):
    try:
        call()
    except InferenceServerException as error:
        text = str(error.message())
        assert all(part in text for part in parts), f"{text!r} does not have all of {parts}"
        assert str(error.status()) == code, f"{error.status()!r}, expected {code!r}: {text}"
    else:
        raise AssertionError(f"not refused, expected {parts}")


def live(http, grpc):
    for server in (http, grpc):
        assert server.is_server_live() and server.is_server_ready()


def described(http, grpc):
    live(http, grpc)
    for server in (http, grpc):
        assert server.is_model_ready("mlp") and server.is_model_ready("mlp", "1")
        assert not server.is_model_ready("absent") and not server.is_model_ready("mlp", "2")
    as_json = {"as_json": True}
    one = http.get_server_metadata()
    other = grpc.get_server_metadata(**as_json)
    assert one == other and one["name"] == "edge-runtime" and "binary_tensor_data" in one["extensions"], (one, other)
    one = http.get_model_metadata("mlp")
    other = grpc.get_model_metadata("mlp", **as_json)
    assert one["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}], one
    assert other["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "64"]}], other
    assert one["platform"] == other["platform"] == "onnx_onnxv1"
    one = http.get_model_config("pair")
    other = grpc.get_model_config("pair", **as_json)["config"]
    assert one["input"][0] == {"name": "a", "data_type": "TYPE_FP32", "dims": [2, 2]}, one
    assert other["input"][0] == {"name": "a", "data_type": "TYPE_FP32", "dims": ["2", "2"]}, other
    assert one["backend"] == other["backend"] and one["instance_group"][0]["kind"] == "KIND_CPU"
    assert other["instance_group"][0]["kind"] == "KIND_CPU", other
    one = [(m["name"], m["version"], m["state"]) for m in http.get_model_repository_index()]
    other = [(m.name, m.version, m.state) for m in grpc.get_model_repository_index().models]
    assert one == other and ("mlp", "1", "READY") in one, (one, other)


def counted(http, grpc):
    def count():
        by_http = http.get_inference_statistics("pair")["model_stats"][0]
        by_grpc = grpc.get_inference_statistics("pair", "1").model_stats[0]
        assert by_http["inference_count"] == by_grpc.inference_count
        assert by_grpc.inference_stats.compute_infer.ns > 0 or by_grpc.inference_count == 0
        return by_grpc.inference_stats.success.count

    before = count()
    pair(http, over_http)
    pair(grpc, over_grpc)
    assert count() == before + 2, (before, count())
    assert len(http.get_inference_statistics()["model_stats"]) > 1
    assert len(grpc.get_inference_statistics().model_stats) > 1


def pair(server, kind, **options):
    a = np.array([[1, 2], [3, 4]], dtype=np.float32)
    b = np.array(2, dtype=np.float32)
    result = server.infer("pair", [tensor(kind, "a", a), tensor(kind, "b", b)], **options)
    same(result.as_numpy("sum"), a + b)
    same(result.as_numpy("product"), a * b)
    return result


def inferred(http, grpc):
    for form_in in (True, False):
        for form_out in (True, False):
            for kind, values in VALUES.items():
                if kind == "fp16" and not (form_in and form_out):
                    continue
                for array in (values, values[:0]):
                    given = tensor(over_http, "x", array, binary_data=form_in)
                    wanted = over_http.InferRequestedOutput("y", binary_data=form_out)
                    result = http.infer(f"identity-{kind}", [given], outputs=[wanted], request_id="r1")
                    same(result.as_numpy("y"), array)
                    assert result.get_response()["id"] == "r1"
    for kind, values in VALUES.items():
        for array in (values, values[:0]):
            result = grpc.infer(f"identity-{kind}", [tensor(over_grpc, "x", array)], request_id="r1")
            same(result.as_numpy("y"), array)
            assert result.get_response().id == "r1"
    # Mixed forms in one request, and in one answer.
    a = np.array([[1, 2], [3, 4]], dtype=np.float32)
    b = np.array(2, dtype=np.float32)
    inputs = [tensor(over_http, "a", a, binary_data=False), tensor(over_http, "b", b)]
    outputs = [over_http.InferRequestedOutput("product"), over_http.InferRequestedOutput("sum", binary_data=False)]
    result = http.infer("pair", inputs, model_version="1", outputs=outputs)
    same(result.as_numpy("product"), a * b)
    same(result.as_numpy("sum"), a + b)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["product", "sum"]
    only = over_grpc.InferRequestedOutput("product")
    inputs = [tensor(over_grpc, "a", a), tensor(over_grpc, "b", b)]
    result = grpc.infer("pair", inputs, outputs=[only], priority=1, timeout=20_000_000)
    same(result.as_numpy("product"), a * b)
    assert result.as_numpy("sum") is None
    # BF16 has no numpy type of its own.
    wide = np.array([0.5, -2.0], dtype=ml_dtypes.bfloat16)
    for kind, server in ((over_http, http), (over_grpc, grpc)):
        result = server.infer("identity-bf16", [tensor(kind, "x", wide, "BF16")])
        same(np.asarray(result.as_numpy("y"), dtype=wide.dtype), wide)
    for compression in ("gzip", "deflate"):
        pair(grpc, over_grpc, compression_algorithm=compression)


def compressed(http, grpc):
    for request in (None, "gzip", "deflate"):
        for response in (None, "gzip", "deflate"):
            pair(
                http,
                over_http,
                request_compression_algorithm=request,
                response_compression_algorithm=response,
            )


def classified(http, grpc):
    x = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)
    for kind, server in ((over_http, http), (over_grpc, grpc)):
        scores = server.infer("mlp", [tensor(kind, "x", x)]).as_numpy("y")
        best = server.infer(
            "mlp", [tensor(kind, "x", x)], outputs=[kind.InferRequestedOutput("y", class_count=3)]
        ).as_numpy("y")
        assert best.shape == (2, 3), best
        for row, classes in zip(scores, best):
            given = [entry.decode().split(":") for entry in classes]
            order = np.argsort(-row, kind="stable")[:3]
            assert [int(index) for _, index in given] == list(order), (given, row)
            assert np.allclose([float(score) for score, _ in given], row[order]), (given, row)


def faulted(http, grpc):
    def infer(server, kind, model, name, array, datatype=None, **options):
        return lambda: server.infer(model, [tensor(kind, name, array, datatype)], **options)

    x = np.zeros((1, 64), dtype=np.float32)
    for kind, server, not_found, invalid in (
        (over_http, http, "404", "400"),
        (over_grpc, grpc, "StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT"),
    ):
        refused(not_found, "'absent' is not deployed", call=infer(server, kind, "absent", "x", x))
        refused(not_found, "no version '7'", call=infer(server, kind, "mlp", "x", x, model_version="7"))
        refused(invalid, "no input 'z'", "'x'", call=infer(server, kind, "mlp", "z", x))
        refused(invalid, "shape [1, 65]", "[-1, 64]", call=infer(server, kind, "mlp", "x", np.zeros((1, 65), dtype=np.float32)))
        refused(invalid, "INT64", "expected FP32", call=infer(server, kind, "mlp", "x", np.zeros((1, 64), dtype=np.int64)))
        absent = kind.InferRequestedOutput("z")
        refused(invalid, "no output 'z'", call=infer(server, kind, "mlp", "x", x, outputs=[absent]))
        refused(not_found, "'absent' is not deployed", call=lambda: server.get_model_metadata("absent"))
    refused("403", "by deployments", call=lambda: http.load_model("mlp"))
    refused("403", "by deployments", call=lambda: http.unload_model("mlp"))
    refused("StatusCode.UNIMPLEMENTED", "by deployments", call=lambda: grpc.load_model("mlp"))
    refused("StatusCode.UNIMPLEMENTED", "by deployments", call=lambda: grpc.unload_model("mlp"))
    refused("StatusCode.UNIMPLEMENTED", "shared memory", call=lambda: grpc.get_system_shared_memory_status())


def slow(kind, steps=ENDLESS):
    return [tensor(kind, "times", np.array(steps, dtype=np.int64))]


def is_free(server, kind):
    """The model's only session runs nothing: a run of 30 ms or so, which also shows the server that this model is none
    of the quick ones that it runs without handing them to a thread, ends soon."""
    started = time.monotonic()
    server.infer("slow", slow(kind, 300))
    took = time.monotonic() - started
    assert took < 5, f"the session was busy for {took} s"


def has_begun(http):
    """Another's run holds the model's only session: who waits for it gets nothing in time."""
    for _ in range(50):
        try:
            http.infer("slow", slow(over_http, 300), timeout=300_000)
        except InferenceServerException as error:
            assert error.status() == "504", error
            return
    raise AssertionError("the run has not begun")


def stopped(http, grpc):
    is_free(http, over_http)
    refused("504", "deadline", call=lambda: http.infer("slow", slow(over_http), timeout=50_000))
    is_free(http, over_http)
    refused("StatusCode.DEADLINE_EXCEEDED", "deadline", call=lambda: grpc.infer("slow", slow(over_grpc), timeout=50_000))
    is_free(grpc, over_grpc)
    # The client's own deadline, which it also tells the server.
    refused("StatusCode.DEADLINE_EXCEEDED", call=lambda: grpc.infer("slow", slow(over_grpc), client_timeout=0.1))
    is_free(grpc, over_grpc)
    ended = queue.Queue()
    running = grpc.async_infer("slow", slow(over_grpc), callback=lambda result, error: ended.put(error))
    has_begun(http)
    running.cancel()
    error = ended.get(timeout=10)
    assert "cancel" in str(error).lower(), error
    is_free(grpc, over_grpc)


def streamed(http, grpc):
    results = queue.Queue()
    grpc.start_stream(callback=lambda result, error: results.put((result, error)))
    x = np.ones((2, 64), dtype=np.float32)
    for number in range(5):
        model = "absent" if number == 2 else "mlp"
        grpc.async_stream_infer(
            model, [tensor(over_grpc, "x", x)], request_id=str(number), enable_empty_final_response=True
        )
    for number in range(5):
        result, error = results.get(timeout=10)
        if number == 2:
            assert "not deployed" in str(error), error
            continue
        response = result.get_response()
        assert error is None and response.id == str(number), (error, response)
        assert response.parameters["triton_final_response"].bool_param
        assert result.as_numpy("y").shape == (2, 8)
    grpc.stop_stream()
    # A stream that is given up ends its run.
    is_free(grpc, over_grpc)
    grpc.start_stream(callback=lambda result, error: results.put((result, error)))
    grpc.async_stream_infer("slow", slow(over_grpc))
    has_begun(http)
    grpc.stop_stream(cancel_requests=True)
    is_free(grpc, over_grpc)


def drained(http, grpc):
    """A server that is told to end lets a run end first."""
    is_free(grpc, over_grpc)
    ended = queue.Queue()
    grpc.async_infer("slow", slow(over_grpc, 30_000), callback=lambda result, error: ended.put((result, error)))
    has_begun(http)
    os.kill(int(os.environ["SERVER_PID"]), signal.SIGTERM)
    result, error = ended.get(timeout=60)
    assert error is None and result.as_numpy("end").shape == (128, 128), error


def crowded(http, grpc):
    """Many clients at once each get their own answer."""
    faults = []

    def one(number):
        server = over_grpc.InferenceServerClient(sys.argv[2])
        try:
            for turn in range(20):
                a = np.full((2, 2), number * 100 + turn, dtype=np.float32)
                b = np.array(number, dtype=np.float32)
                result = server.infer("pair", [tensor(over_grpc, "a", a), tensor(over_grpc, "b", b)])
                same(result.as_numpy("sum"), a + b)
        except Exception as fault:
            faults.append(fault)
        finally:
            server.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults


def main():
    http = client(over_http, sys.argv[1])
    grpc = client(over_grpc, sys.argv[2])
    cases = {case.__name__: case for case in (live, described, counted, inferred, compressed, classified, faulted, stopped, streamed, drained, crowded)}
    for case in sys.argv[3:]:
        try:
            cases[case](http, grpc)
        except BaseException:
            traceback.print_exc()
            # A call that is under way would keep its thread, and that the process.
            os._exit(1)
        print(f"{case}: passed")
    http.close()
    grpc.close()


main()
