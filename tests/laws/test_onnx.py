"""ONNX files: run in onnxruntime at every batch they answer as PyTorch, and hold nothing of this machine."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graftcli.errors import GateError, UsageError
from graftcli.formats.options import Exported, ExportOptions, ExportSource
from graftcli.formats.write import write
from graftcli.images.pixels import normalise
from tests.exports import PLACES, SUBJECTS, pixels, preprocess, remembered, small, subject
from tests.nets import randomise

__all__ = ["remembered"]  # a fixture
pytestmark = pytest.mark.usefixtures("remembered")


def session(path: str | Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def written(made: ExportSource, folder: Path, **form: Any) -> tuple[Exported, onnx.ModelProto]:
    found = write(made, ExportOptions(**form), folder / "a.onnx")
    assert [path.name for path in folder.iterdir()] == ["a.onnx"]  # one file, nothing beside it
    return found, onnx.load(found.path)


@pytest.mark.parametrize("name", SUBJECTS)
def test_an_exported_network_answers_as_pytorch_at_every_batch(name: str, tmp_path: Path) -> None:
    made = SUBJECTS[name]()
    found, model = written(made, tmp_path)
    onnx.checker.check_model(model, full_check=True)
    assert found.agreement == 1.0 and found.error <= 1e-4 and found.images == 12
    run = session(found.path)
    assert [[one.name for one in ends] for ends in (run.get_inputs(), run.get_outputs())] == [["images"], ["logits"]]
    for batch in (1, 2, 5, 7):
        images = normalise(made.images[:batch], made.preprocess)
        with torch.no_grad():
            wanted = made.module(images).numpy()
        (given,) = run.run(None, {"images": images.numpy()})
        assert np.abs(given - wanted).max() <= 1e-4 * np.abs(wanted).max()
    convolved = {output for node in model.graph.node if node.op_type == "Conv" for output in node.output}
    for node in model.graph.node:
        assert node.op_type != "BatchNormalization" or node.input[0] not in convolved
    assert not any(place.encode() in Path(found.path).read_bytes() for place in PLACES)


def test_the_file_tells_what_its_network_is(tmp_path: Path) -> None:
    _, model = written(subject(small(), 32), tmp_path)
    props = {one.key: one.value for one in model.metadata_props}
    assert (props["teacher"], props["student"], props["precision"]) == ("big", "small", "fp32")
    assert json.loads(props["mean"]) == [0.4, 0.5, 0.6] and json.loads(props["std"]) == [0.2, 0.25, 0.3]
    assert json.loads(props["size"]) == [32, 32] and props["input"].startswith("float32 NCHW")
    assert model.producer_name == "graftcli"
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


@pytest.mark.parametrize("opset", [19, 23])
def test_the_file_has_the_requested_opset(opset: int, tmp_path: Path) -> None:
    found, model = written(subject(small(), 32), tmp_path, opset=opset)
    assert found.opset == opset
    assert [(one.domain, one.version) for one in model.opset_import] == [("", opset)]


def test_an_opset_from_the_future_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--opset 99 is newer.*supports"):
        write(subject(small(), 32), ExportOptions(opset=99), Path("never.onnx"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_file_converts_to_a_newer_opset_with_equal_answers(precision: object, tmp_path: Path) -> None:
    made = subject(small(), 32)
    found, model = written(made, tmp_path, precision=precision)
    newer = onnx.version_converter.convert_version(model, 21)
    onnx.save(newer, tmp_path / "newer.onnx")
    images = normalise(made.images, made.preprocess).numpy()
    (old,), (new,) = (session(path).run(None, {"images": images}) for path in (found.path, tmp_path / "newer.onnx"))
    np.testing.assert_allclose(new, old, atol=1e-5)


def test_a_static_file_takes_one_image_and_no_more(tmp_path: Path) -> None:
    found, model = written(subject(small(), 32), tmp_path, static=True)
    assert [one.dim_value for one in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 32, 32]
    with pytest.raises(Exception, match="index: 0"):
        session(found.path).run(None, {"images": np.zeros((2, 3, 32, 32), np.float32)})


def test_a_file_of_dynamic_size_answers_at_sizes_it_never_saw(tmp_path: Path) -> None:
    made = subject(small(), 32)
    found, model = written(made, tmp_path, dynamic_size=True)
    assert [one.dim_param for one in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        "",
        "height",
        "width",
    ]
    images = torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        wanted = made.module(images).numpy()
    (given,) = session(found.path).run(None, {"images": images.numpy()})
    np.testing.assert_allclose(given, wanted, rtol=1e-3, atol=1e-4)


def test_a_network_of_one_size_refuses_dynamic_size_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="does not accept images of 96x96") as caught:
        write(subject(_Flat(), 32), ExportOptions(dynamic_size=True), tmp_path / "a.onnx")
    assert "--dynamic-size" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


class _Flat(nn.Module):
    """Reads every pixel by its place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(images.flatten(1))
        return logits


@pytest.mark.parametrize(("order", "precision"), [("nhwc", "fp32"), ("nchw", "fp16"), ("nhwc", "int8")])
def test_a_file_with_its_preprocessing_baked_takes_pixels(order: Any, precision: Any, tmp_path: Path) -> None:
    made = subject(small(), 32)
    found, model = written(made, tmp_path, pixels=order, precision=precision)
    shown = made.images.permute(0, 2, 3, 1) if order == "nhwc" else made.images
    (given,) = session(found.path).run(None, {"images": shown.contiguous().numpy()})
    with torch.no_grad():
        wanted = made.module(normalise(made.images, made.preprocess)).numpy()
    assert (given.argmax(1) == wanted.argmax(1)).mean() >= 0.9
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert next(one.value for one in model.metadata_props if one.key == "input") == f"uint8 {order.upper()}, 0 to 255"


def test_float16_halves_the_file_and_keeps_its_input_and_output(tmp_path: Path) -> None:
    whole, _ = written(subject(small(), 32), tmp_path)
    found, model = written(subject(small(), 32), tmp_path, precision="fp16")
    assert found.size < 0.6 * whole.size and found.agreement >= 0.99
    ends = (model.graph.input[0], model.graph.output[0])
    assert all(one.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for one in ends)


def test_numbers_beyond_float16_fail_the_gate_and_leave_no_file(tmp_path: Path) -> None:
    network = small()
    weights = network.state_dict()
    for name, factor in (("bn1.weight", 1e6), ("bn1.bias", 1e6), ("conv2.weight", 1e-6)):
        weights[f"layer2.0.{name}"].mul_(factor)
    with pytest.raises(GateError, match="activations exceed 65,504") as caught:
        write(subject(network, 32), ExportOptions(precision="fp16"), tmp_path / "a.onnx")
    assert "Nothing was written" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_answers_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = np.zeros((1, 10), np.float32)
    monkeypatch.setattr(
        "graftcli.formats.runtime.onnx_runner", lambda data: lambda images: zeros.repeat(len(images), 0)
    )
    with pytest.raises(GateError, match=r"differ by 1\.0e"):
        write(subject(small(), 32), ExportOptions(), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_every_image_is_compared_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = written(subject(small(), 32, 200), tmp_path)
    assert found.images == 200
    monkeypatch.setattr("graftcli.formats.parity.MAX_IMAGES", 90)
    assert write(subject(small(), 32, 200), ExportOptions(), tmp_path / "b.onnx").images == 90


class _Five(nn.Module):
    """Attention in five dimensions, as Hiera has it: the exporter does not support its fused form."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.fused_attn = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 5), True

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images).flatten(2).mT.unflatten(1, (2, 8)).unsqueeze(1)
        x = F.scaled_dot_product_attention(x, x, x) if self.fused_attn else (x @ x.mT / 8**0.5).softmax(-1) @ x
        logits: torch.Tensor = self.head(x.mean((1, 2, 3)))
        return logits


def test_five_dimensional_attention_is_decomposed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = _Five()
    with pytest.raises(GateError, match="4D query"):
        network.fused_attn = "always"  # type: ignore[assignment]  # not a switch that is known
        written(subject(network, 32), tmp_path)
    network.fused_attn = True
    found, _ = written(subject(network, 32), tmp_path)
    assert found.error <= 1e-4 and network.fused_attn


def test_a_graph_that_lost_a_tensor_is_exported_again_without_optimisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, optimized = torch.onnx.export, []

    def losing(*given: Any, optimize: bool, **more: Any) -> Any:
        program = export(*given, optimize=optimize, **more)
        optimized.append(optimize)
        assert program is not None
        model = program.model_proto
        if optimize:
            del model.graph.initializer[0]
        return SimpleNamespace(model_proto=model)

    monkeypatch.setattr(torch.onnx, "export", losing)
    network = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    found, _ = written(subject(network, 32), tmp_path)
    assert optimized == [True, False] and found.error <= 1e-4


def test_few_images_and_one_channel_do(tmp_path: Path) -> None:
    network = randomise(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))).eval()
    made = ExportSource(network, preprocess(16, 1), pixels(2, 16, 1))
    assert write(made, ExportOptions(), tmp_path / "a.onnx").images == 10  # 1 + 2 + 7, some of them again
