"""A network as one ONNX file in float32, float16 or int8, which answers as PyTorch does on real images."""

import copy

import onnx
import torch

from graftcli.errors import GateError
from graftcli.events import Listener
from graftcli.formats import quantise
from graftcli.formats.graph import graph, signed, silence, told
from graftcli.formats.options import ExportOptions, ExportSource
from graftcli.formats.parity import Match, ParityCheck
from graftcli.formats.runtime import runner
from graftcli.images.pixels import centre, normalise

_RANGE_IMAGES = 8


def exported(
    subject: ExportSource, form: ExportOptions, exam: ParityCheck, listen: Listener
) -> tuple[bytes, Match, quantise.QuantisedLayers]:
    """The file, what it made of the exam, and which layers it has left in float."""
    model = graph(subject, form)
    kept = quantise.NOTHING
    if form.precision == "fp16":
        _check_range(subject)
        model = half(model)
    elif form.precision == "int8":
        model, kept = quantise.quantised(model, subject, form, exam, listen)
    data = signed(model, told(subject, form))
    return data, exam.taken(runner(data)), kept


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in float16, whose images and logits stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with silence():
        converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return converted


@torch.no_grad()
def _check_range(subject: ExportSource) -> None:
    """GateError where numbers overflow in float16. A CPU's onnxruntime would not show it: it computes in float32."""
    images = normalise(centre(subject.images[:_RANGE_IMAGES], subject.preprocess), subject.preprocess)
    try:
        logits = copy.deepcopy(subject.module).half()(images.half())
    except Exception:  # it has layers that know no float16 on a CPU: then the exam alone decides
        return
    if not bool(torch.isfinite(logits).all()):
        raise GateError(
            "in float16 the network gives logits that are no numbers: some of its own are beyond 65,504.",
            "Nothing was written. Take --precision fp32 or int8.",
        )
