"""Count the multiply-adds of an ONNX graph from inferred shapes, without running it.

`child_main` runs this in a process with limits. It imports nothing from graftcli.
"""

import math
from collections.abc import Mapping

import onnx

_MAX_MACS = 1 << 53
_MAX_SHAPE = 1024  # values; larger tensors hold no shapes, so shape inference does not need them


def macs(model: onnx.ModelProto) -> int | None:
    """The multiply-adds of convolutions and matrix products per image, as PyTorch counts them; None if unknown.

    Clears the large tensors of `model`.
    """
    first = next(value for value in model.graph.input)
    if not first.type.tensor_type.shape.dim:
        return None
    batch = first.type.tensor_type.shape.dim[0].dim_value or 1
    first.type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.value_info[:]  # they name the batch size, which is now a number
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > _MAX_SHAPE:
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
    try:
        shaped = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # a graph with custom operators
        return None
    shapes = {tensor.name: tuple(tensor.dims) for tensor in shaped.initializer}
    for value in (*shaped.value_info, *shaped.input, *shaped.output):
        sides = value.type.tensor_type.shape.dim
        if all(side.HasField("dim_value") for side in sides):
            shapes[value.name] = tuple(side.dim_value for side in sides)
    counts = [_node_macs(node, shapes) for node in shaped.node]
    total = None if None in counts else sum(count or 0 for count in counts) // batch
    return total if total is not None and 0 <= total < _MAX_MACS else None


def _node_macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The multiply-adds of a node; None if its shapes are unknown."""
    weight_inputs = {"Conv": 1, "QLinearConv": 3, "ConvInteger": 1, "ConvTranspose": 1}
    if node.op_type in weight_inputs:
        if len(node.input) <= weight_inputs[node.op_type] or not node.output:
            return None
        positions = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
        kernel = shapes.get(node.input[weight_inputs[node.op_type]])
        return math.prod(positions) * math.prod(kernel[1:]) if positions and kernel else None
    if node.op_type in ("Gemm", "MatMul", "MatMulInteger"):
        if not node.input or not node.output:
            return None
        output, left = shapes.get(node.output[0]), shapes.get(node.input[0])
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return math.prod(output) * left[0 if transposed else -1] if output and left else None
    return 0
