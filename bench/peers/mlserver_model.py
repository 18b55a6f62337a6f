"""A runtime of MLServer: ONNX Runtime on all cores, as requests run one after the other."""

import os

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Onnx(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        self.names = [output.name for output in self.session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {i.name: NumpyCodec.decode_input(i) for i in payload.inputs}
        results = self.session.run(self.names, inputs)
        outputs = [NumpyCodec.encode_output(n, r) for n, r in zip(self.names, results)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
