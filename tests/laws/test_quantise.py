"""int8: a quarter of the size, the same answers; layers that int8 would harm are found and kept in float."""

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from graftcli.errors import GateError, UsageError
from graftcli.events import Event, LayersTried
from graftcli.formats.options import ExportOptions, ExportSource
from graftcli.formats.write import write
from graftcli.images.pixels import normalise
from tests.exports import SUBJECTS, pixels, preprocess, remembered, small, subject

__all__ = ["remembered"]  # a fixture
pytestmark = pytest.mark.usefixtures("remembered")
INT8 = ExportOptions(precision="int8")


@torch.no_grad()
def hostile() -> nn.Module:
    """A network with one layer whose channels differ by four orders of magnitude, made good by the layer after it."""
    network = small()
    weights = network.state_dict()
    weights["layer2.0.bn1.weight"][:2] *= 1e4
    weights["layer2.0.bn1.bias"][:2] *= 1e4
    weights["layer2.0.conv2.weight"][:, :2] /= 1e4
    logits = network(normalise(pixels(40, 32), preprocess(32)))
    weights["linear.bias"] -= logits.mean(0)  # else it gives every image the same answer
    return network


def test_int8_is_per_channel_qdq_and_about_a_quarter_of_the_size(tmp_path: Path) -> None:
    whole = write(subject(small(20), 32), ExportOptions(), tmp_path / "a.onnx")
    found = write(subject(small(20), 32), INT8, tmp_path / "b.onnx")
    assert found.size <= 0.35 * whole.size and found.agreement >= 0.95 and found.in_float == ()
    model = onnx.load(found.path)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["QuantizeLinear"] and kinds["DequantizeLinear"] > kinds["QuantizeLinear"]
    weights = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 4]
    scales = {one.name: one for one in model.graph.initializer}
    assert len(weights) == kinds["Conv"]
    assert all(list(scales[one.name.replace("_quantized", "_scale")].dims) == [one.dims[0]] for one in weights)


def test_a_layer_that_int8_harms_stays_in_float(tmp_path: Path) -> None:
    events: list[Event] = []
    made = subject(hostile(), 32, 40)
    found = write(made, ExportOptions(precision="int8", min_agreement=0.95), tmp_path / "a.onnx", events.append)
    assert found.agreement >= 0.95
    assert 0 < len(found.in_float) <= 3 < found.layers
    model = onnx.load(found.path)
    kept = [node for node in model.graph.node if node.name in found.in_float]
    assert len(kept) == len(found.in_float)
    assert any(isinstance(event, LayersTried) for event in events)


def test_what_no_float_layer_can_repair_is_refused_with_figures(tmp_path: Path) -> None:
    made = subject(small(), 32)
    with pytest.raises(
        GateError, match=r"in int8 .* on \d+\.\d+% of 12 images.*most sensitive of \d+ layers"
    ) as caught:
        write(made, ExportOptions(precision="int8", min_agreement=1.01), tmp_path / "a.onnx")
    assert "--calib" in caught.value.fix and "--min-agreement" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_without_images_int8_is_refused(tmp_path: Path) -> None:
    made = ExportSource(small(), preprocess(32), pixels(12, 32), noise=True)
    with pytest.raises(UsageError, match="there are none") as caught:
        write(made, INT8, tmp_path / "a.onnx")
    assert "--calib" in caught.value.fix


def test_other_images_give_other_ranges(tmp_path: Path) -> None:
    made = subject(small(), 32)
    dark = ExportSource(made.module, made.preprocess, made.images, made.images // 8)
    write(made, ExportOptions(precision="int8", min_agreement=0), tmp_path / "a.onnx")
    write(dark, ExportOptions(precision="int8", min_agreement=0), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() != (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("name", ["vit", "mobilenet_v3"])
def test_other_families_go_to_int8_too(name: str, tmp_path: Path) -> None:
    found = write(SUBJECTS[name](), ExportOptions(precision="int8", min_agreement=0.0), tmp_path / "a.onnx")
    assert found.error < 0.5 and found.layers > 10


def test_a_static_file_in_int8_answers_one_image_at_a_time(tmp_path: Path) -> None:
    found = write(subject(small(), 32), ExportOptions(precision="int8", static=True), tmp_path / "a.onnx")
    assert found.images == 12
