"""Read precision, parameters, multiply-adds and input of an ONNX graph, without running it.

`child_main` runs this in a process with limits, because a malicious graph may need all memory or never end. It imports
nothing from graftcli.
"""

import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeGuard

import onnx

_INTEGER = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
)
_SCALES = {"QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "QLinearConv": (1, 2, 4, 5, 6, 7), "Resize": (1, 2)}
_INPUTS = ("float32", "float16", "float64", "uint8")
_MAX_PARAMS = 1 << 53
_EXPORT_AGAIN = "Export it again."


class UnusableFile(Exception):
    """What is wrong with a file, as the predicate of a sentence whose subject is the file, and the fix."""

    def __init__(self, message: str, fix: str = _EXPORT_AGAIN) -> None:
        super().__init__(message)
        self.fix = fix


def describe(path: Path, macs: Callable[[onnx.ModelProto], int | None]) -> dict[str, object]:
    """The fields of `OnnxFacts`, as JSON values."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except MemoryError:
        raise
    except Exception as error:  # the protobuf parser can raise anything
        if "alloc failed" in str(error):
            raise MemoryError from error
        raise UnusableFile(f"cannot be read as ONNX: {' '.join(str(error).split())[:200]}") from error
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or not graph.output:
        message = f"has {len(inputs)} inputs and {len(graph.output)} outputs; one of each is needed."
        raise UnusableFile(message, "Give a file that takes images and returns logits.")
    external = _external_files(model, path)
    facts = {
        "precision": _precision(graph),
        "bytes": path.stat().st_size + sum(file.stat().st_size for file in external),
        "params": _params(graph),
        "input_type": _type(inputs[0]),
        "input_shape": _shape(inputs[0]),
        "metadata": _metadata(model),
    }
    return {**facts, "macs": macs(model)}  # last, because it changes the model


def _type(value: onnx.ValueInfoProto) -> str:
    number = value.type.tensor_type.elem_type
    try:
        name = str(onnx.helper.tensor_dtype_to_np_dtype(number).name)
    except KeyError:
        name = f"type {number}"
    if name not in _INPUTS:
        raise UnusableFile(f"takes {name}; images are given as {', '.join(_INPUTS)}.")
    return name


def _shape(value: onnx.ValueInfoProto) -> list[int | None]:
    sides: list[int | None] = [side.dim_value or None for side in value.type.tensor_type.shape.dim]
    if any(side is not None and side < 1 for side in sides):
        raise UnusableFile(f"takes images of {'x'.join(map(str, sides[:8]))}: each side must be at least 1.")
    return sides


# ---- metadata ----


def _metadata(model: onnx.ModelProto) -> dict[str, object]:
    """The readable settings in `metadata_props`, by the keys of graftcli's exports; an impossible setting is refused.

    In files of other tools these keys may hold anything, so values of another form are ignored.
    """
    texts: dict[str, str] = {entry.key: entry.value for entry in model.metadata_props}
    settings: dict[str, object] = {"squash": texts.get("crop_mode") == "squash"}
    for key in filter(texts.__contains__, _NUMERIC):
        if (value := _NUMERIC[key](_parse_json(texts[key]))) is not None:
            _check_numbers(key, value if isinstance(value, list) else [value], texts[key])
            settings[key] = value
    if (classes := _names(_parse_json(texts.get("classes", "")))) is not None:
        settings["classes"] = classes
    if "interpolation" in texts:
        settings["interpolation"] = texts["interpolation"][:64]
    return settings


_FIX_METADATA = "Export it again, or remove that metadata entry."
_POSITIVE = ("std", "size", "crop_pct")


def _check_numbers(key: str, numbers: Sequence[float], text: str) -> None:
    """Refuse a setting that no preprocessing can have."""
    if key in _POSITIVE and not all(number > 0 for number in numbers):
        raise UnusableFile(f"has {key} = {text[:80]} in its metadata: each must be above 0.", _FIX_METADATA)
    if not all(math.isfinite(number) for number in numbers):
        raise UnusableFile(f"has {key} = {text[:80]} in its metadata: each must be finite.", _FIX_METADATA)


def _parse_json(text: str) -> object:
    try:
        parsed: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed


def _numbers(value: object) -> list[float] | None:
    """One number per channel."""
    if not isinstance(value, list) or not 0 < len(value) <= 64 or not all(map(_is_number, value)):
        return None
    return [_float(number) for number in value]


def _pair(value: object) -> list[int] | None:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(side, int) for side in value):
        return None
    return [max(-1, min(side, 1 << 31)) for side in value]


def _names(value: object) -> list[str] | None:
    if not isinstance(value, list) or not all(isinstance(name, str) or _is_number(name) for name in value):
        return None
    return [str(name) for name in value]


def _number(value: object) -> float | None:
    if isinstance(value, str):
        value = _parse_json(value)
    return _float(value) if _is_number(value) else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


_NUMERIC: dict[str, Callable[[object], list[float] | list[int] | float | None]] = {
    "mean": _numbers,
    "std": _numbers,
    "size": _pair,
    "crop_pct": _number,
}


# ---- tensors ----


def _external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """The external data files of a model: regular files in its folder."""
    locations: dict[str, str] = {}
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            locations.setdefault(entries.get("location", ""), tensor.name)
    return [_check_external(location, name, path) for location, name in sorted(locations.items())]


def _check_external(location: str, tensor: str, path: Path) -> Path:
    file = path.parent / location
    folders = {Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent}  # `path` may be a link
    parts = Path(location.replace("\\", "/")).parts
    inside = not Path(location).is_absolute() and ".." not in parts and location != ""
    try:
        inside = inside and any(Path(os.path.realpath(file)).is_relative_to(folder) for folder in folders)
        kind = file.stat().st_mode if inside else 0
    except (OSError, ValueError) as error:
        fix = "Copy that file next to it, or export it again."
        raise UnusableFile(
            f"keeps `{tensor[:80]}` in the file `{location[:200]}`, which does not exist.", fix
        ) from error
    if not inside or not stat.S_ISREG(kind):
        message = f"keeps `{tensor[:80]}` in `{location[:200]}`, which is not a regular file in its folder."
        raise UnusableFile(message, "Export it again, with its weights inside the file or next to it.")
    return file


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model: in its graph, its subgraphs and its functions."""
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


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The tensors of a graph by name: initializers, and the arrays of `Constant` nodes, which some exporters write."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            arrays = (attribute.t for attribute in node.attribute if attribute.name == "value")
            tensors.update((node.output[0], tensor) for tensor in arrays if node.output and math.prod(tensor.dims) > 1)
    return tensors


def _precision(graph: onnx.GraphProto) -> str:
    if any(node.op_type in _INTEGER for node in graph.node):
        return "int8"
    types = {tensor.data_type for tensor in _constants(graph).values() if math.prod(tensor.dims) > 1}
    if onnx.TensorProto.FLOAT16 in types:
        return "fp16"
    return "bf16" if onnx.TensorProto.BFLOAT16 in types else "fp32"


def _params(graph: onnx.GraphProto) -> int:
    """The number of weights. Excludes shapes, which are int64, and the scales of quantisation and resizing."""
    scales = {node.input[i] for node in graph.node for i in _SCALES.get(node.op_type, ()) if i < len(node.input)}
    count: int = sum(
        math.prod(tensor.dims)
        for name, tensor in _constants(graph).items()
        if tensor.data_type != onnx.TensorProto.INT64 and name not in scales
    )
    if not 0 <= count < _MAX_PARAMS:
        raise UnusableFile("has tensors whose sizes are impossible.")
    return count
