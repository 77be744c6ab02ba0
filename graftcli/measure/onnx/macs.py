"""The multiply-adds of an ONNX graph, from the shapes that onnx infers. Nothing is run.

`description` runs this in a process with limits. It imports nothing of graftcli.
"""

import math
from collections.abc import Mapping
from typing import Any

import onnx

_MOST = 1 << 53  # multiply-adds
_SHAPES = 1024  # numbers in a tensor that may be a shape; what is larger is not needed for inferring shapes


def macs(model: Any) -> int | None:
    """The work of its convolutions and matrix products on one image, as PyTorch's counter has it.

    The model is changed: it loses its large tensors, which shapes do not depend on.
    """
    first = next(given for given in model.graph.input)
    if not first.type.tensor_type.shape.dim:
        return None
    batch = first.type.tensor_type.shape.dim[0].dim_value or 1
    first.type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.value_info[:]  # they name the batch, where now there is a number
    for made in model.graph.output:
        made.type.tensor_type.ClearField("shape")
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > _SHAPES:
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
    try:
        shaped = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # a graph with operators of some other maker
        return None
    shapes = {tensor.name: tuple(tensor.dims) for tensor in shaped.initializer}
    for known in (*shaped.value_info, *shaped.input, *shaped.output):
        sides = known.type.tensor_type.shape.dim
        if all(side.HasField("dim_value") for side in sides):
            shapes[known.name] = tuple(side.dim_value for side in sides)
    work = [_work(node, shapes) for node in shaped.node]
    total = None if any(one is None for one in work) else sum(one or 0 for one in work) // batch
    return total if total is not None and 0 <= total < _MOST else None


def _work(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Multiply-adds of one node; None where its shapes are unknown."""
    weighed = {"Conv": 1, "QLinearConv": 3, "ConvInteger": 1, "ConvTranspose": 1}
    if node.op_type in weighed:
        if len(node.input) <= weighed[node.op_type] or not node.output:
            return None
        many = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
        kernel = shapes.get(node.input[weighed[node.op_type]])
        return math.prod(many) * math.prod(kernel[1:]) if many and kernel else None
    if node.op_type in ("Gemm", "MatMul", "MatMulInteger"):
        if not node.input or not node.output:
            return None
        made, given = shapes.get(node.output[0]), shapes.get(node.input[0])
        turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return math.prod(made) * given[0 if turned else -1] if made and given else None
    return 0
