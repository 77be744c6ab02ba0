"""Quantise ONNX graphs to int8: static QDQ, per-channel weights, activation ranges from real images.

Sensitive layers stay in float. To rank them, each layer is quantised separately and its error on the logits is
measured.
"""

import copy
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx

from graftcli.environment.machine import cpu
from graftcli.errors import GateError
from graftcli.events import LayersTried, Listener
from graftcli.formats.graph import IMAGES, clean, silence
from graftcli.formats.match import Array, Match, ParityCheck
from graftcli.formats.options import ExportOptions, ExportSource, QuantisedLayers
from graftcli.formats.runtime import onnx_runner
from graftcli.images.pixels import center_crop

MAX_CALIBRATION = 256  # images
_BATCH = 16
_RANKING_IMAGES = 32  # to measure the sensitivity of a layer
# Operators that compute and have an int8 kernel in onnxruntime. Those without (LayerNormalization) lose accuracy and
# gain nothing. Operators that only move values (reshape, pool) follow their inputs.
_COMPUTING = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Softmax", "Sigmoid")
_MOVING = ("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Split", "Slice", "Pad")
_SHAPING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Resize")
_VNNI = ("avx_vnni", "avx512_vnni", "asimddp", "i8mm", "amx_int8")


class Quantiser:
    """A calibrated float32 graph, of which any subset of layers can be quantised."""

    def __init__(self, model: onnx.ModelProto, batches: Iterator[Array]) -> None:
        from onnxruntime.quantization import CalibrationMethod, create_calibrator, quant_pre_process

        with tempfile.TemporaryDirectory() as folder, silence():
            original, prepared = Path(folder) / "original.onnx", Path(folder) / "prepared.onnx"
            onnx.save(model, original)  # a file, because onnxruntime drops the weights of a ModelProto in memory
            quant_pre_process(original, prepared, skip_symbolic_shape=True)
            self.model = clean(onnx.load(prepared))
            self._name_nodes()
            onnx.save(self.model, prepared)
            calibrator = create_calibrator(
                prepared,
                [*_COMPUTING, *_MOVING, *_SHAPING],
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.MinMax,
            )
            calibrator.collect_data(_CalibrationReader(batches))
            self.ranges = calibrator.compute_data()
        self.layers = [node.name for node in self.model.graph.node if node.op_type in _COMPUTING]

    def _name_nodes(self) -> None:
        """Give every node a name, by which it is selected."""
        for index, node in enumerate(self.model.graph.node):
            node.name = node.name or f"{node.op_type}_{index}"

    def all_except(self, in_float: Sequence[str]) -> onnx.ModelProto:
        """Quantise all layers except these."""
        return self._quantise(None, list(in_float))

    def only(self, layer: str) -> onnx.ModelProto:
        """Quantise this layer only."""
        return self._quantise([layer], [])

    def _quantise(self, included: list[str] | None, excluded: list[str]) -> onnx.ModelProto:
        from onnxruntime.quantization import QDQQuantizer, QuantType

        reduce_range = not set(_VNNI) & set(cpu().features)  # without VNNI, the sum of two 8-bit products can overflow
        with silence():
            quantizer = QDQQuantizer(
                copy.deepcopy(self.model),
                True,  # per channel
                reduce_range,
                QuantType.QInt8,
                QuantType.QUInt8,
                self.ranges,
                included,
                excluded,
                [*_COMPUTING, *_MOVING, *_SHAPING],
                {"WeightSymmetric": True, "ActivationSymmetric": False},
            )
            quantizer.quantize_model()
        quantised: onnx.ModelProto = quantizer.model.model
        return quantised


class _CalibrationReader:
    """Feeds images to the calibrator of onnxruntime."""

    def __init__(self, batches: Iterator[Array]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, Array] | None:
        batch = next(self._batches, None)
        return None if batch is None else {IMAGES: batch}


def quantise(
    model: onnx.ModelProto, source: ExportSource, options: ExportOptions, check: ParityCheck, listen: Listener
) -> tuple[onnx.ModelProto, QuantisedLayers]:
    """Quantise to int8, with as few layers in float as the required agreement allows."""
    quantiser = Quantiser(model, _calibration_batches(source, options))
    layers = len(quantiser.layers)
    match = _match_without(quantiser, check, ())
    if match.agreement >= options.required_agreement:
        return quantiser.all_except(()), QuantisedLayers(layers, ())
    ranked = _by_sensitivity(quantiser, check.subset(_RANKING_IMAGES), listen)
    return _search_in_float(quantiser, check, options, ranked, match)


def _search_in_float(
    quantiser: Quantiser, check: ParityCheck, options: ExportOptions, ranked: Sequence[str], all_int8: Match
) -> tuple[onnx.ModelProto, QuantisedLayers]:
    """Keep 1, 2, 4, … of the most sensitive layers in float until the gate passes, then bisect for the fewest."""
    low, count = 0, 1
    while True:
        match = _match_without(quantiser, check, ranked[:count])
        if match.agreement >= options.required_agreement:
            break
        if count >= len(ranked) // 2:
            raise _gate_error(options, all_int8, match, ranked[:count], len(ranked))
        low, count = count, min(2 * count, len(ranked) // 2)
    while count - low > 1:
        middle = (low + count) // 2
        if _match_without(quantiser, check, ranked[:middle]).agreement >= options.required_agreement:
            count = middle
        else:
            low = middle
    return quantiser.all_except(ranked[:count]), QuantisedLayers(len(ranked), tuple(ranked[:count]))


def _match_without(quantiser: Quantiser, check: ParityCheck, in_float: Sequence[str]) -> Match:
    return check.run(onnx_runner(quantiser.all_except(in_float)))


def _by_sensitivity(quantiser: Quantiser, check: ParityCheck, listen: Listener) -> list[str]:
    """The layers, sorted by the error that quantising only this layer causes, largest first."""
    errors = {}
    for done, layer in enumerate(quantiser.layers):
        listen(LayersTried(done, len(quantiser.layers)))
        errors[layer] = check.run(onnx_runner(quantiser.only(layer))).error
    return sorted(errors, key=lambda layer: (-errors[layer], layer))


def _gate_error(
    options: ExportOptions, all_int8: Match, best: Match, in_float: Sequence[str], layers: int
) -> GateError:
    listed = ", ".join(in_float[:5]) + (", …" if len(in_float) > 5 else "")
    return GateError(
        f"in int8 the network agrees with PyTorch on {all_int8.agreement:.2%} of {all_int8.images} images;"
        f" {options.required_agreement:.2%} is required. With the {len(in_float)} most sensitive of {layers} layers in"
        f" float ({listed}), it agrees on {best.agreement:.2%}.",
        "Nothing was written. Give more images with --calib, lower --min-agreement, or use --precision fp16.",
    )


def _calibration_batches(source: ExportSource, options: ExportOptions) -> Iterator[Array]:
    """Batches of calibration images, spread evenly over all."""
    images = source.images if source.calibration is None else source.calibration
    images = images[:: -(-len(images) // MAX_CALIBRATION)]
    for batch in images.split(1 if options.static else _BATCH):
        yield source.to_inputs(center_crop(batch, source.preprocess), options).numpy()
