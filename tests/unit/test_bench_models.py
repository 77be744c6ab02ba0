"""The candidates of a benchmark: networks and files of one input size, each with its own mean and std."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from graftcli.benching.models import NamedModel, make_candidates, reference_model
from graftcli.errors import UsageError
from graftcli.formats.options import ExportOptions
from graftcli.formats.write import write
from graftcli.models.network import Network, PreprocessDefaults
from graftcli.runs.scoring import PreprocessOptions, preprocess_for
from tests.engine import Stages, network
from tests.exports import pixels, preprocess, remembered, small, subject

__all__ = ["remembered"]  # a fixture
pytestmark = pytest.mark.usefixtures("remembered")

OWN, SAID = (0.4, 0.5, 0.6), (0.1, 0.1, 0.1)  # what the files of tests.exports say; what a user says


class Grey(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(1, 8, 3, 2), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


def seeing(mean: tuple[float, ...], source: str = "timm") -> Network:
    made = network(Stages((6, 8, 16), 1), "a")
    return replace(made, source=source, preprocess=PreprocessDefaults(mean, (0.25,) * 3, 1.0, "bilinear"))


def means(every: list[NamedModel], look: PreprocessOptions, of_the_run: PreprocessOptions) -> list[tuple[float, ...]]:
    first = reference_model(every, of_the_run)
    made = make_candidates(every, first, preprocess_for(first, of_the_run), look, 1)
    return [candidate.preprocess.mean for candidate in made if candidate.preprocess is not None]


def test_the_baseline_uses_the_preprocessing_of_its_run_and_the_others_their_own(tmp_path: Path) -> None:
    write(subject(small(), 16), ExportOptions(), tmp_path / "a.onnx")
    every = [
        NamedModel("a", seeing((0.7,) * 3)),
        NamedModel("b", seeing((0.8,) * 3)),
        NamedModel("a.onnx", tmp_path / "a.onnx"),
    ]
    every.append(NamedModel("c", seeing((0.9,) * 3, "file")))  # a user's code says nothing
    options = PreprocessOptions(mean=SAID)
    assert means(every, PreprocessOptions(), PreprocessOptions()) == [(0.7,) * 3, (0.8,) * 3, OWN, (0.7,) * 3]
    assert means(every, PreprocessOptions(), options) == [SAID, (0.8,) * 3, OWN, SAID]
    assert means(every, options, options) == [SAID] * 4


def test_crop_metadata_of_a_file_is_used_for_the_baseline_only(tmp_path: Path) -> None:
    made = subject(small(), 16)
    write(made, ExportOptions(), tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    next(one for one in model.metadata_props if one.key == "interpolation").value = "area"
    onnx.save(model, tmp_path / "a.onnx")
    every = [NamedModel("a", seeing(OWN)), NamedModel("a.onnx", tmp_path / "a.onnx")]
    assert means(every, PreprocessOptions(), PreprocessOptions()) == [OWN, OWN]
    with pytest.raises(UsageError, match="area"):
        means(every[1:], PreprocessOptions(), PreprocessOptions())


def test_a_file_that_leaves_channels_open_takes_the_networks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = replace(subject(Grey().eval(), 16), preprocess=preprocess(16, 1), images=pixels(12, 16, 1))
    write(made, ExportOptions(dynamic_size=True), tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    del model.metadata_props[:]
    channels = model.graph.input[0].type.tensor_type.shape.dim[1]
    channels.ClearField("dim_value")
    channels.dim_param = "channels"
    onnx.save(model, tmp_path / "a.onnx")
    grey = network(Grey(), "grey")
    grey = replace(grey, input_size=(1, 16, 16), preprocess=PreprocessDefaults((0.5,), (0.25,), 1.0, "bilinear"))
    every = [NamedModel("grey", grey), NamedModel("a.onnx", tmp_path / "a.onnx")]
    candidates = make_candidates(every, grey, preprocess_for(grey, PreprocessOptions()), PreprocessOptions(), 1)
    assert [candidate.size for candidate in candidates] == [(1, 16, 16)] * 2


def test_networks_of_other_channels_are_refused_with_the_way_out() -> None:
    grey = replace(network(Grey(), "grey"), input_size=(1, 16, 16))
    with pytest.raises(UsageError, match="the benchmark has input size 3x16x16, but grey takes 1x16x16") as refused:
        means([NamedModel("a", seeing(OWN)), NamedModel("grey", grey)], PreprocessOptions(), PreprocessOptions())
    assert "--in-chans" in str(refused.value)
