"""int8: static QDQ, weights per channel, ranges from real images; layers that int8 harms stay in float.

Which those are is measured: each layer is quantised alone, and its error on the logits ranks it.
"""

import copy
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from graftcli.environment.machine import cpu
from graftcli.errors import GateError
from graftcli.events import LayersTried, Listener
from graftcli.formats.graph import IMAGES, clean, silence
from graftcli.formats.options import ExportOptions, ExportSource
from graftcli.formats.parity import Match, ParityCheck
from graftcli.formats.runtime import runner
from graftcli.images.pixels import centre

MOST_CALIBRATION = 256  # images
_BATCH = 16
_SHORT_EXAM = 32  # images that rank a layer
# What computes on numbers, where onnxruntime has an int8 kernel for it: without one (LayerNormalization) int8 harms and
# saves nothing. What merely moves numbers (a reshape, a pool) follows what comes before it.
_COMPUTING = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Softmax", "Sigmoid")
_MOVING = ("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Split", "Slice", "Pad")
_SHAPING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Resize")
_VNNI = ("avx_vnni", "avx512_vnni", "asimddp", "i8mm", "amx_int8")


@dataclass(frozen=True)
class QuantisedLayers:
    layers: int  # that could be quantised
    in_float: tuple[str, ...]  # of these, those that were not, the most sensitive first


NOTHING = QuantisedLayers(0, ())  # of a file in which no layer was to be quantised


class Quantiser:
    """A float32 graph whose ranges are known: gives it back with any of its layers in int8."""

    def __init__(self, model: onnx.ModelProto, batches: Iterator[NDArray[Any]]) -> None:
        from onnxruntime.quantization import CalibrationMethod, create_calibrator, quant_pre_process

        with tempfile.TemporaryDirectory() as folder, silence():
            plain, ready = Path(folder) / "plain.onnx", Path(folder) / "ready.onnx"
            onnx.save(model, plain)  # given the message itself, onnxruntime takes the weights out of it
            quant_pre_process(plain, ready, skip_symbolic_shape=True)
            self.model = clean(onnx.load(ready))
            self._name_nodes()
            onnx.save(self.model, ready)
            calibrator = create_calibrator(
                ready,
                [*_COMPUTING, *_MOVING, *_SHAPING],
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.MinMax,
            )
            calibrator.collect_data(_Reader(batches))
            self.ranges = calibrator.compute_data()
        self.layers = [node.name for node in self.model.graph.node if node.op_type in _COMPUTING]

    def _name_nodes(self) -> None:
        """Every node has a name of its own: by that it is chosen."""
        for index, node in enumerate(self.model.graph.node):
            node.name = node.name or f"{node.op_type}_{index}"

    def without(self, in_float: Sequence[str]) -> onnx.ModelProto:
        """All layers in int8 but these."""
        return self._made(None, list(in_float))

    def only(self, layer: str) -> onnx.ModelProto:
        """This layer alone in int8."""
        return self._made([layer], [])

    def _made(self, chosen: list[str] | None, left_out: list[str]) -> onnx.ModelProto:
        from onnxruntime.quantization import QDQQuantizer, QuantType

        narrow = not set(_VNNI) & set(cpu().features)  # without VNNI two products of 8 bits overflow their sum
        with silence():
            quantizer = QDQQuantizer(
                copy.deepcopy(self.model),
                True,  # per channel
                narrow,
                QuantType.QInt8,
                QuantType.QUInt8,
                self.ranges,
                chosen,
                left_out,
                [*_COMPUTING, *_MOVING, *_SHAPING],
                {"WeightSymmetric": True, "ActivationSymmetric": False},
            )
            quantizer.quantize_model()
        made: onnx.ModelProto = quantizer.model.model
        return made


class _Reader:
    """What onnxruntime reads images for calibration from."""

    def __init__(self, batches: Iterator[NDArray[Any]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {IMAGES: batch}


def quantised(
    model: onnx.ModelProto, subject: ExportSource, form: ExportOptions, exam: ParityCheck, listen: Listener
) -> tuple[onnx.ModelProto, QuantisedLayers]:
    """The graph in int8, with as few layers left in float as the agreement that is asked for takes."""
    quantiser = Quantiser(model, _batches(subject, form))
    layers = len(quantiser.layers)
    found = _tried(quantiser, exam, ())
    if found.agreement >= form.least_agreement:
        return quantiser.without(()), QuantisedLayers(layers, ())
    ranked = _ranked(quantiser, exam.short(_SHORT_EXAM), listen)
    return _kept(quantiser, exam, form, ranked, found)


def _kept(
    quantiser: Quantiser, exam: ParityCheck, form: ExportOptions, ranked: Sequence[str], found: Match
) -> tuple[onnx.ModelProto, QuantisedLayers]:
    """1, 2, 4, … of the most sensitive layers in float until the gate holds, then as few of them as will do."""
    low, count = 0, 1
    while True:
        match = _tried(quantiser, exam, ranked[:count])
        if match.agreement >= form.least_agreement:
            break
        if count >= len(ranked) // 2:
            raise _hopeless(form, found, match, ranked[:count], len(ranked))
        low, count = count, min(2 * count, len(ranked) // 2)
    while count - low > 1:
        middle = (low + count) // 2
        if _tried(quantiser, exam, ranked[:middle]).agreement >= form.least_agreement:
            count = middle
        else:
            low = middle
    return quantiser.without(ranked[:count]), QuantisedLayers(len(ranked), tuple(ranked[:count]))


def _tried(quantiser: Quantiser, exam: ParityCheck, in_float: Sequence[str]) -> Match:
    return exam.taken(runner(quantiser.without(in_float)))


def _ranked(quantiser: Quantiser, exam: ParityCheck, listen: Listener) -> list[str]:
    """The layers, that first whose int8 alone moves the logits most."""
    errors = {}
    for done, layer in enumerate(quantiser.layers):
        listen(LayersTried(done, len(quantiser.layers)))
        errors[layer] = exam.taken(runner(quantiser.only(layer))).error
    return sorted(errors, key=lambda layer: (-errors[layer], layer))


def _hopeless(form: ExportOptions, all_int8: Match, best: Match, in_float: Sequence[str], layers: int) -> GateError:
    shown = ", ".join(in_float[:5]) + (", …" if len(in_float) > 5 else "")
    return GateError(
        f"in int8 the network answers as in PyTorch on {all_int8.agreement:.2%} of {all_int8.images} images, where"
        f" {form.least_agreement:.2%} is asked; with the {len(in_float)} most sensitive of {layers} layers in float"
        f" ({shown}) on {best.agreement:.2%}.",
        "Nothing was written. Give more images with --calib, lower --min-agreement, or take --precision fp16.",
    )


def _batches(subject: ExportSource, form: ExportOptions) -> Iterator[NDArray[Any]]:
    """Images to take the ranges from, spread over all that there are."""
    images = subject.images if subject.calibration is None else subject.calibration
    images = images[:: -(-len(images) // MOST_CALIBRATION)]
    for part in images.split(1 if form.static else _BATCH):
        yield subject.shown(centre(part, subject.preprocess), form).numpy()
