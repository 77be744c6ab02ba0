"""Export a network to ONNX in float32, float16 or int8."""

import copy

import onnx
import torch

from graftcli.errors import GateError
from graftcli.events import Listener
from graftcli.formats import quantise
from graftcli.formats.graph import export_graph, file_metadata, serialise, silence
from graftcli.formats.options import ExportOptions, ExportSource
from graftcli.formats.parity import Match, ParityCheck
from graftcli.formats.runtime import onnx_runner
from graftcli.images.pixels import center_crop, normalise

_RANGE_IMAGES = 8


def export(
    source: ExportSource, options: ExportOptions, check: ParityCheck, listen: Listener
) -> tuple[bytes, Match, quantise.QuantisedLayers]:
    """Return the file, how it matches PyTorch, and its quantised layers."""
    model = export_graph(source, options)
    quantised = quantise.NOT_QUANTISED
    if options.precision == "fp16":
        _check_range(source)
        model = _to_float16(model)
    elif options.precision == "int8":
        model, quantised = quantise.quantise(model, source, options, check, listen)
    data = serialise(model, file_metadata(source, options))
    return data, check.run(onnx_runner(data)), quantised


def _to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert to float16; inputs and logits stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with silence():
        converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return converted


@torch.no_grad()
def _check_range(source: ExportSource) -> None:
    """Raise GateError on float16 overflow. onnxruntime would miss it: on a CPU it computes in float32."""
    images = normalise(center_crop(source.images[:_RANGE_IMAGES], source.preprocess), source.preprocess)
    try:
        logits = copy.deepcopy(source.module).half()(images.half())
    except Exception:  # layers without float16 support on a CPU: the parity check decides
        return
    if not bool(torch.isfinite(logits).all()):
        raise GateError(
            "in float16 the network gives NaN or infinite logits: some activations exceed 65,504.",
            "Nothing was written. Use --precision fp32 or int8.",
        )
