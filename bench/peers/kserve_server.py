"""KServe's server: ONNX Runtime on all cores, as requests run one after the other.

    python kserve_server.py PORT NAME=FILE.onnx...
"""

import os
import sys

import onnxruntime
import uvicorn
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import from_np_dtype, generate_uuid


class Onnx(Model):
    def __init__(self, name, file):
        super().__init__(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(file, options)
        self.names = [output.name for output in self.session.get_outputs()]
        self.ready = True

    def predict(self, payload: InferRequest, headers=None, response_headers=None):
        inputs = {i.name: i.as_numpy() for i in payload.inputs}
        results = self.session.run(self.names, inputs)
        outputs = []
        for name, result in zip(self.names, results):
            output = InferOutput(name, list(result.shape), from_np_dtype(result.dtype))
            output.set_data_from_numpy(result, binary_data=payload.use_binary_outputs)
            outputs.append(output)
        return InferResponse(
            payload.id or generate_uuid(), self.name, outputs, use_binary_outputs=payload.use_binary_outputs
        )


class Loopback(uvicorn.Config):
    """The server has no flag for the address that it listens on."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "host": "127.0.0.1"})


if __name__ == "__main__":
    port, *models = sys.argv[1:]
    uvicorn.Config = Loopback
    server = ModelServer(http_port=int(port), enable_grpc=False, enable_latency_logging=False)
    server.start([Onnx(*model.split("=", 1)) for model in models])
