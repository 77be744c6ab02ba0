"""Run ONNX files with onnxruntime."""

import numpy as np
import onnx

from graftcli.formats.graph import IMAGES, LOGITS
from graftcli.formats.match import Array, Runner


def onnx_runner(model: bytes | onnx.ModelProto) -> Runner:
    """A function that runs the model with onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(images: Array) -> Array:
        return np.asarray(session.run([LOGITS], {IMAGES: images})[0])

    return run
