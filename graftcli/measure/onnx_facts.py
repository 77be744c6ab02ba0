"""What an ONNX file holds, read from its graph: precision, parameters, multiply-adds, its input. Nothing is run."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from graftcli.errors import CheckpointError

_INTEGER = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
)
_SCALES = {"QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "QLinearConv": (1, 2, 4, 5, 6, 7), "Resize": (1, 2)}
_Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Told:
    """What a file says in its `metadata_props` of the images that it wants and of its classes; None: nothing."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    classes: tuple[str, ...] = ()
    squash: bool = False


@dataclass(frozen=True)
class OnnxFacts:
    precision: str  # fp32, fp16, bf16, int8
    bytes: int  # on disk, with the files of weights beside it
    params: int  # numbers it multiplies with or adds: what BatchNorm was folded away is gone
    macs: int | None  # for one image; None where the graph does not tell its shapes
    input_type: str  # float32, float16, uint8
    input_shape: tuple[int | None, ...]  # None where any size does
    told: Told


def read_onnx(path: Path) -> OnnxFacts:
    """What the file says of itself."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # whatever its protobuf parser raises
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"`{path}` cannot be read as ONNX: {reason}", "Export it again.") from error
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [given for given in graph.input if given.name not in weights]
    if len(inputs) != 1 or not graph.output:
        found = f"`{path}` has {len(inputs)} inputs and {len(graph.output)} outputs; one of each is needed."
        raise CheckpointError(found, "Give a file that takes images and gives logits.")
    kind = inputs[0].type.tensor_type
    shape = tuple(side.dim_value or None for side in kind.shape.dim)
    type_ = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    bytes_ = path.stat().st_size + sum(file.stat().st_size for file in _beside(model, path))
    described = (_precision(graph), bytes_, _params(graph), _macs(model))
    return OnnxFacts(*described, type_, shape, _told(model))


def _told(model: Any) -> Told:
    """What can be read of it: the keys are those of graftcli's exports, and another's may hold anything."""
    said = {one.key: one.value for one in model.metadata_props}
    known: dict[str, Any] = {}
    for key, kind in (("mean", float), ("std", float), ("size", int), ("classes", str), ("crop_pct", float)):
        try:
            value = json.loads(said[key])
            known[key] = tuple(map(kind, value)) if isinstance(value, list) else kind(value)
        except (KeyError, ValueError, TypeError):
            continue
    lists = {"mean", "std", "size", "classes"}
    known = {key: value for key, value in known.items() if isinstance(value, tuple) == (key in lists)}
    return Told(interpolation=said.get("interpolation"), squash=said.get("crop_mode") == "squash", **known)


def _beside(model: Any, path: Path) -> list[Path]:
    """The files that hold a model's weights where it does not hold them itself."""
    places = {entry.value for t in model.graph.initializer for entry in t.external_data if entry.key == "location"}
    return [file for place in sorted(places) if (file := path.parent / place).is_file()]


def _kept(graph: Any) -> dict[str, Any]:
    """Every tensor that the graph holds, by its name: initializers, and arrays that some exporters keep in nodes."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            arrays = (attribute.t for attribute in node.attribute if attribute.name == "value")
            found.update((node.output[0], tensor) for tensor in arrays if math.prod(tensor.dims) > 1)
    return found


def _precision(graph: Any) -> str:
    if any(node.op_type in _INTEGER for node in graph.node):
        return "int8"
    types = {tensor.data_type for tensor in _kept(graph).values() if math.prod(tensor.dims) > 1}
    if onnx.TensorProto.FLOAT16 in types:
        return "fp16"
    return "bf16" if onnx.TensorProto.BFLOAT16 in types else "fp32"


def _params(graph: Any) -> int:
    """The weights; no shapes of maps, which are int64, and no scales of a quantised graph or of maps."""
    scales = {node.input[i] for node in graph.node for i in _SCALES.get(node.op_type, ()) if i < len(node.input)}
    return sum(
        math.prod(tensor.dims)
        for name, tensor in _kept(graph).items()
        if tensor.data_type != onnx.TensorProto.INT64 and name not in scales
    )


def _macs(model: Any) -> int | None:
    """The work of its convolutions and matrix products on one image, as PyTorch's counter has it."""
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    first = next(given for given in alone.graph.input)
    if not first.type.tensor_type.shape.dim:
        return None
    batch = first.type.tensor_type.shape.dim[0].dim_value or 1
    first.type.tensor_type.shape.dim[0].dim_value = batch
    del alone.graph.value_info[:]  # they name the batch, where now there is a number
    for made in alone.graph.output:
        made.type.tensor_type.ClearField("shape")
    try:
        shaped = onnx.shape_inference.infer_shapes(alone, data_prop=True).graph
    except Exception:  # a graph with operators of some other maker
        return None
    shapes = {tensor.name: tuple(tensor.dims) for tensor in shaped.initializer}
    for known in (*shaped.value_info, *shaped.input, *shaped.output):
        sides = known.type.tensor_type.shape.dim
        if all(side.HasField("dim_value") for side in sides):
            shapes[known.name] = tuple(side.dim_value for side in sides)
    work = [_work(node, shapes) for node in shaped.node]
    return None if any(one is None for one in work) else sum(one or 0 for one in work) // batch


def _work(node: Any, shapes: _Shapes) -> int | None:
    """Multiply-adds of one node; None where its shapes are unknown."""
    weighed = {"Conv": 1, "QLinearConv": 3, "ConvInteger": 1, "ConvTranspose": 1}
    if node.op_type in weighed:
        many = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
        kernel = shapes.get(node.input[weighed[node.op_type]])
        return math.prod(many) * math.prod(kernel[1:]) if many and kernel else None
    if node.op_type in ("Gemm", "MatMul", "MatMulInteger"):
        made, given = shapes.get(node.output[0]), shapes.get(node.input[0])
        turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return math.prod(made) * given[0 if turned else -1] if made and given else None
    return 0
