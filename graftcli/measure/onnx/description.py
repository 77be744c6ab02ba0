"""The graph of an ONNX file -> what it holds: precision, parameters, multiply-adds, its input. Nothing is run.

`child_main` runs this in a process with limits, for reading a hostile graph may take all memory or never end. It
imports nothing of graftcli.
"""

import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx

_INTEGER = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
)
_SCALES = {"QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "QLinearConv": (1, 2, 4, 5, 6, 7), "Resize": (1, 2)}
_INPUTS = ("float32", "float16", "float64", "uint8")
_MOST = 1 << 53  # parameters
_AGAIN = "Export it again."


class Unfit(Exception):
    """What is wrong with a file, as the end of a sentence that begins with its name, and the fix."""

    def __init__(self, found: str, fix: str = _AGAIN) -> None:
        super().__init__(found)
        self.fix = fix


def describe(path: Path, macs: Callable[[Any], int | None]) -> dict[str, Any]:
    """The fields of `OnnxFacts`, as JSON has them."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except MemoryError:
        raise
    except Exception as error:  # whatever its protobuf parser raises
        if "alloc failed" in str(error):
            raise MemoryError from error
        raise Unfit(f"cannot be read as ONNX: {' '.join(str(error).split())[:200]}") from error
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [given for given in graph.input if given.name not in weights]
    if len(inputs) != 1 or not graph.output:
        found = f"has {len(inputs)} inputs and {len(graph.output)} outputs; one of each is needed."
        raise Unfit(found, "Give a file that takes images and gives logits.")
    beside = _beside(model, path)
    facts = {
        "precision": _precision(graph),
        "bytes": path.stat().st_size + sum(file.stat().st_size for file in beside),
        "params": _params(graph),
        "input_type": _type(inputs[0]),
        "input_shape": _sides(inputs[0]),
        "told": _told(model),
    }
    return {**facts, "macs": macs(model)}  # last, for it changes the model


def _type(given: Any) -> str:
    number = given.type.tensor_type.elem_type
    try:
        name = str(onnx.helper.tensor_dtype_to_np_dtype(number).name)
    except KeyError:
        name = f"type {number}"
    if name not in _INPUTS:
        raise Unfit(f"takes {name}, and images are given as {', '.join(_INPUTS)}.")
    return name


def _sides(given: Any) -> list[int | None]:
    sides = [side.dim_value or None for side in given.type.tensor_type.shape.dim]
    if any(side is not None and side < 1 for side in sides):
        raise Unfit(f"takes images of {'x'.join(map(str, sides[:8]))}: each side must be at least 1.")
    return sides


# ---- what it says of its images ----


def _told(model: Any) -> dict[str, Any]:
    """What can be read of its `metadata_props`: the keys are those of graftcli's exports, and others' may hold
    anything. What has the form of a setting and cannot be one is refused."""
    said = {one.key: one.value for one in model.metadata_props}
    known: dict[str, Any] = {key: kind(_parsed(said[key])) for key, kind in _KINDS.items() if key in said}
    known = {key: value for key, value in known.items() if value is not None}
    for key, value in known.items():
        numbers = value if isinstance(value, list) else [value]
        if key in _POSITIVE and not all(number > 0 for number in numbers):
            raise Unfit(f"says {key} = {said[key][:80]} in its metadata: each must be above 0.", _METADATA)
        if key != "classes" and not all(math.isfinite(number) for number in numbers):
            raise Unfit(f"says {key} = {said[key][:80]} in its metadata: each must be a finite number.", _METADATA)
    if "interpolation" in said:
        known["interpolation"] = said["interpolation"][:64]
    return {**known, "squash": said.get("crop_mode") == "squash"}


_METADATA = "Export it again, or remove that entry of its metadata."
_POSITIVE = ("std", "size", "crop_pct")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _numbers(value: Any) -> list[float] | None:
    """One number for each channel."""
    if not isinstance(value, list) or not 0 < len(value) <= 64 or not all(_is_number(one) for one in value):
        return None
    return [_float(one) for one in value]


def _pair(value: Any) -> list[int] | None:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(one, int) for one in value):
        return None
    return [max(-1, min(one, 1 << 31)) for one in value]


def _names(value: Any) -> list[str] | None:
    if not isinstance(value, list) or not all(isinstance(one, str) or _is_number(one) for one in value):
        return None
    return [str(one) for one in value]


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        value = _parsed(value)
    return _float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


_KINDS: dict[str, Callable[[Any], Any]] = {
    "mean": _numbers,
    "std": _numbers,
    "size": _pair,
    "crop_pct": _number,
    "classes": _names,
}


# ---- its tensors ----


def _beside(model: Any, path: Path) -> list[Path]:
    """The files that hold a model's weights where it does not hold them itself: plain files in its own folder."""
    places: dict[str, Any] = {}
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            told = {entry.key: entry.value for entry in tensor.external_data}
            places.setdefault(told.get("location", ""), tensor.name)
    return [_checked(place, name, path) for place, name in sorted(places.items())]


def _checked(place: str, tensor: str, path: Path) -> Path:
    file = path.parent / place
    homes = {Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent}  # a file may be linked to
    inside = not Path(place).is_absolute() and ".." not in Path(place.replace("\\", "/")).parts and place != ""
    try:
        inside = inside and any(Path(os.path.realpath(file)).is_relative_to(home) for home in homes)
        kind = file.stat().st_mode if inside else 0
    except (OSError, ValueError) as error:
        fix = "Copy that file beside it, or export it again."
        raise Unfit(f"keeps `{tensor[:80]}` in the file `{place[:200]}`, which is not there.", fix) from error
    if not inside or not stat.S_ISREG(kind):
        found = f"keeps `{tensor[:80]}` in `{place[:200]}`, which is no plain file in its own folder."
        raise Unfit(found, "Export it again, with its weights in itself or beside it.")
    return file


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor of the model: of its graph, of graphs in its nodes, of its functions."""
    nodes = [node for function in model.functions for node in function.node]
    graphs = [model.graph]
    while graphs or nodes:
        if not nodes:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
            continue
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            graphs += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _kept(graph: Any) -> dict[str, Any]:
    """Every tensor that the graph holds, by its name: initializers, and arrays that some exporters keep in nodes."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            arrays = (attribute.t for attribute in node.attribute if attribute.name == "value")
            found.update((node.output[0], tensor) for tensor in arrays if node.output and math.prod(tensor.dims) > 1)
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
    found: int = sum(
        math.prod(tensor.dims)
        for name, tensor in _kept(graph).items()
        if tensor.data_type != onnx.TensorProto.INT64 and name not in scales
    )
    if not 0 <= found < _MOST:
        raise Unfit("has tensors of more numbers than any file holds, or of a negative number.")
    return found
