"""A network as one ONNX file in float32, float16 or int8, which answers as PyTorch does on real images."""

import onnx

from graftcli.events import Listener
from graftcli.export import quantise
from graftcli.export.exam import Exam, Match
from graftcli.export.form import Form, Subject
from graftcli.export.graph import graph, signed, silence, told
from graftcli.export.runtime import runner


def exported(subject: Subject, form: Form, exam: Exam, listen: Listener) -> tuple[bytes, Match, quantise.Kept]:
    """The file, what it made of the exam, and which layers it has left in float."""
    model = graph(subject, form)
    kept = quantise.NOTHING
    if form.precision == "fp16":
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
