"""A model of Triton's Python backend: ONNX Runtime, one thread for each instance."""

import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        file = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(file, options)
        self.input = self.session.get_inputs()[0].name
        self.output = self.session.get_outputs()[0].name

    def execute(self, requests):
        """Runs what has queued as one batch; each request gets its rows of the result."""
        inputs = [triton.get_input_tensor_by_name(r, self.input).as_numpy() for r in requests]
        batch = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        result = self.session.run([self.output], {self.input: batch})[0]
        responses, start = [], 0
        for rows in inputs:
            tensor = triton.Tensor(self.output, result[start : start + len(rows)])
            responses.append(triton.InferenceResponse([tensor]))
            start += len(rows)
        return responses
