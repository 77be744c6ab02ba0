"""A network as one ONNX file, which answers as PyTorch does on real images."""

import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graftcli.errors import GateError, UsageError
from graftcli.written import write_bytes

_TOLERANCE = 1e-4  # of the largest logit
_BATCHES = (1, 2, 7)


def write_onnx(module: nn.Module, images: Tensor, path: Path, *, opset: int = 18) -> float:
    """Export with a dynamic batch, compare in onnxruntime, then write. Returns the largest difference, as a share of
    the largest logit; past 1e-4, or where an image gets another answer, nothing is written."""
    module = module.eval().cpu()
    data = _exported(module, images[:2], opset)
    error = _compared(module, data, images)
    write_bytes(path, data)
    return error


def _exported(module: nn.Module, example: Tensor, opset: int) -> bytes:
    if opset < 18:
        raise UsageError(f"--opset {opset} is older than what is written here.", "Give 18 or more.")
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter talks about itself
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                external_data=False,
                opset_version=opset,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                optimize=True,
            )
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise GateError(
                f"`{type(module).__name__}` cannot be exported to ONNX: {reason}.", "Its model.safetensors is unharmed."
            ) from error
    assert program is not None  # with dynamo there is always a program
    return _without_traces(program.model_proto)


def _without_traces(model: Any) -> bytes:
    """The file without the exporter's notes: they hold stack traces and paths of this machine."""
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        noted.ClearField("doc_string")
        if hasattr(noted, "metadata_props"):
            noted.ClearField("metadata_props")
    return bytes(model.SerializeToString())


def _compared(module: nn.Module, data: bytes, images: Tensor) -> float:
    """The largest difference to PyTorch over batches of several sizes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in _sizes(len(images)):
        part = images[:batch]
        with torch.no_grad():
            wanted = module(part).numpy()
        given = np.asarray(session.run(["logits"], {"images": part.numpy()})[0])
        worst = max(worst, float(np.abs(given - wanted).max() / max(np.abs(wanted).max(), 1e-12)))
        if worst > _TOLERANCE or bool((given.argmax(1) != wanted.argmax(1)).any()):
            raise GateError(
                f"the ONNX file answers otherwise than PyTorch: differs by {worst:.1e} of the largest logit,"
                f" where {_TOLERANCE:.0e} is allowed.",
                "Nothing was written. Try another --opset.",
            )
    return worst


def _sizes(images: int) -> Sequence[int]:
    return [size for size in _BATCHES if size <= images]
