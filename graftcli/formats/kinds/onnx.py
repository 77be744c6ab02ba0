"""ONNX in float32, float16 or int8."""

import copy
from typing import TYPE_CHECKING, assert_never

from graftcli.errors import GateError
from graftcli.formats.options import Encoded, ExportFormat, ExportOptions, ExportSource, QuantisedLayers, add_format

if TYPE_CHECKING:
    import onnx

    from graftcli.events import Listener
    from graftcli.formats.match import ParityCheck, Runner

_RANGE_IMAGES = 8


def _encode(source: ExportSource, options: ExportOptions, check: "ParityCheck", listen: "Listener") -> Encoded:
    from graftcli.formats import graph
    from graftcli.formats.quantise import quantise

    model, quantised = graph.export_graph(source, options), QuantisedLayers()
    match options.precision:
        case "fp32":
            pass
        case "fp16":
            _check_range(source)
            model = _to_float16(model)
        case "int8":
            model, quantised = quantise(model, source, options, check, listen)
        case _:
            assert_never(options.precision)
    return Encoded(graph.serialise(model, graph.file_metadata(source, options)), quantised)


def _to_float16(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Convert to float16; inputs and logits stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    from graftcli.formats.graph import silence

    with silence():
        converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return converted


def _check_range(source: ExportSource) -> None:
    """Raise GateError on float16 overflow. onnxruntime would miss it: on a CPU it computes in float32."""
    import torch

    from graftcli.images.pixels import center_crop, normalise

    images = normalise(center_crop(source.images[:_RANGE_IMAGES], source.preprocess), source.preprocess)
    try:
        with torch.no_grad():
            logits = copy.deepcopy(source.module).half()(images.half())
    except Exception:  # a CPU lacks float16 kernels for some layers; the parity check still runs
        return
    if not bool(torch.isfinite(logits).all()):
        raise GateError(
            "in float16 the network returns NaN or infinite logits: some activations exceed 65,504.",
            "Nothing was written. Use --precision fp32 or int8.",
        )


def _runner(data: bytes) -> "Runner":
    from graftcli.formats import runtime

    return runtime.onnx_runner(data)


add_format(
    ExportFormat(
        name="onnx",
        suffix=".onnx",
        about="ONNX",
        encode=_encode,
        runner=_runner,
        precisions=("fp32", "fp16", "int8"),
        has_opset=True,
        is_benchmarked=True,
        single="exported",
    )
)
