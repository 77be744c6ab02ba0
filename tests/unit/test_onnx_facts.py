"""The facts read from an ONNX file agree with the network that it was made of."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from graftcli.errors import CheckpointError
from graftcli.measure.candidate import module_candidate
from graftcli.measure.onnx.facts import OnnxMetadata, read_onnx
from tests.tiny_onnx import Tiny, write

PARAMS = 8 * 27 + 8 + 5 * 8 + 5
MACS = 8 * 8 * 8 * 27 + 5 * 8


def test_the_facts_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.onnx", Tiny())
    found = read_onnx(path)
    assert (found.precision, found.params, found.macs) == ("fp32", PARAMS, MACS)
    assert (found.input_type, found.input_shape) == ("float32", (None, 3, 16, 16))
    assert found.bytes == path.stat().st_size


def test_work_is_that_of_one_image_whatever_the_batch(tmp_path: Path) -> None:
    found = read_onnx(write(tmp_path / "x.onnx", Tiny(), batch=4))
    assert found.macs == MACS and found.input_shape[0] == 4


@pytest.mark.parametrize(
    ("kind", "quantised", "precision"),
    [("float16", False, "fp16"), ("float32", True, "int8"), ("uint8", False, "fp32")],
)
def test_precision_is_read_from_the_graph(tmp_path: Path, kind: str, quantised: bool, precision: str) -> None:
    found = read_onnx(write(tmp_path / "x.onnx", Tiny(), kind=kind, quantised=quantised))
    assert (found.precision, found.input_type) == (precision, kind)
    assert found.params == PARAMS + (kind == "uint8")  # no scale, no zero point counts


def test_weights_beside_the_file_count_into_its_size(tmp_path: Path) -> None:
    path = write(tmp_path / "x.onnx", Tiny(), external=True)
    assert read_onnx(path).bytes == path.stat().st_size + (tmp_path / "x.onnx.data").stat().st_size
    assert read_onnx(path).params == PARAMS


def test_weights_that_are_kept_in_nodes_count_too(tmp_path: Path) -> None:
    path = write(tmp_path / "x.onnx", Tiny())
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)
    found = read_onnx(path)
    assert (found.precision, found.params, found.macs) == ("fp32", PARAMS, MACS)


@pytest.mark.parametrize(
    ("props", "metadata"),
    [
        ({}, OnnxMetadata()),
        (
            {"mean": "[0.5, 0.25]", "std": "[1, 2]", "size": "[8, 9]", "crop_pct": "0.5", "classes": '["a", "b"]'},
            OnnxMetadata((0.5, 0.25), (1.0, 2.0), (8, 9), 0.5, None, ("a", "b")),
        ),
        (
            {"mean": "0.5", "std": "{}", "size": "big", "crop_pct": "[1]", "interpolation": "bicubic"},
            OnnxMetadata(interpolation="bicubic"),
        ),
        (
            {"crop_mode": "squash", "crop_pct": "1.0"},
            OnnxMetadata(crop_pct=1.0, squash=True),
        ),
    ],
)
def test_preprocessing_metadata_is_read_where_it_is_readable(
    props: dict[str, str], metadata: OnnxMetadata, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.onnx", Tiny())
    model = onnx.load(path)
    onnx.helper.set_model_props(model, props)
    onnx.save(model, path)
    assert read_onnx(path).metadata == metadata


def test_an_exported_network_has_the_work_that_pytorch_counts(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        """Grouped, transposed and plain convolutions, attention's products, a linear layer."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.group = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=4)
            self.up, self.head = nn.ConvTranspose2d(8, 4, 2, 2), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.up(self.group(self.conv(x))).flatten(2)
            return self.head((x @ x.transpose(1, 2) @ x).mean(2))  # type: ignore[no-any-return]

    module, path = Mixed().eval(), tmp_path / "x.onnx"
    torch.onnx.export(module, (torch.randn(2, 3, 16, 16),), path, dynamo=True, external_data=False)
    rung = module_candidate("x", module, (3, 16, 16))
    assert read_onnx(path).macs == rung.macs
    assert read_onnx(path).params == pytest.approx(rung.params, abs=4)


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no network")
    with pytest.raises(CheckpointError, match=r"x\.onnx"):
        read_onnx(tmp_path / "x.onnx")
    with pytest.raises(CheckpointError, match="missing"):
        read_onnx(tmp_path / "missing.onnx")
