"""Small ONNX files that tests share, made without an exporter."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


class Tiny(nn.Module):
    """A convolution, the mean of its maps, a linear layer."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


def write(
    path: Path,
    module: Tiny,
    *,
    kind: str = "float32",
    batch: int | str = "batch",
    size: int = 16,
    channels_last: bool = False,
    quantised: bool = False,
    external: bool = False,
) -> Path:
    """The module as an ONNX file for square images; pixels of uint8 are divided by 255 in the graph."""
    number = "float16" if kind == "float16" else "float32"
    weights = {name: t.detach().numpy().astype(number) for name, t in module.state_dict().items()}
    nodes, now = [], "images"
    if channels_last:
        nodes.append(helper.make_node("Transpose", [now], ["nchw"], perm=[0, 3, 1, 2]))
        now = "nchw"
    if kind == "uint8":
        weights["full"] = np.array(255, np.float32)
        nodes += [
            helper.make_node("Cast", [now], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["cast", "full"], ["unit"]),
        ]
        now = "unit"
    if quantised:
        weights["scale"], weights["zero"] = np.array(1 / 64, np.float32), np.array(0, np.int8)
        nodes += [
            helper.make_node("QuantizeLinear", [now, "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        ]
        now = "dq"
    nodes += [
        helper.make_node("Conv", [now, "conv.weight", "conv.bias"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head.weight", "head.bias"], ["logits"], transB=1),
    ]
    shape = [batch, size, size, 3] if channels_last else [batch, 3, size, size]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TYPES[kind], shape)],
        [helper.make_tensor_value_info("logits", TYPES[number], [batch, len(weights["head.bias"])])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    beside = {"save_as_external_data": True, "location": f"{path.name}.data", "size_threshold": 0} if external else {}
    onnx.save(model, path, **beside)
    return path
