"""The rungs of a ladder: networks and files, on images of one size, each normalised in its own way."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from graftcli.api.rungs import Named, first_of, rungs
from graftcli.api.scoring import Look, fit_for
from graftcli.errors import UsageError
from graftcli.export.form import Form
from graftcli.export.write import write
from graftcli.nets.network import Network, Preprocess
from tests.engine import Stages, network
from tests.exports import fit, pixels, small, subject

OWN, SAID = (0.4, 0.5, 0.6), (0.1, 0.1, 0.1)  # what the files of tests.exports say; what a user says


class Grey(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(1, 8, 3, 2), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


def seeing(mean: tuple[float, ...], source: str = "timm") -> Network:
    made = network(Stages((6, 8, 16), 1), "a")
    return replace(made, source=source, preprocess=Preprocess(mean, (0.25,) * 3, 1.0, "bilinear"))


def means(every: list[Named], look: Look, of_the_run: Look) -> list[tuple[float, ...]]:
    first = first_of(every, of_the_run)
    made = rungs(every, first, fit_for(first, of_the_run), look, 1)
    return [rung.fit.mean for rung in made if rung.fit is not None]


def test_the_first_sees_as_its_run_did_and_the_others_as_they_were_trained(tmp_path: Path) -> None:
    write(subject(small(), 16), Form(), tmp_path / "a.onnx")
    every = [Named("a", seeing((0.7,) * 3)), Named("b", seeing((0.8,) * 3)), Named("a.onnx", tmp_path / "a.onnx")]
    every.append(Named("c", seeing((0.9,) * 3, "file")))  # a user's code says nothing
    asked = Look(mean=SAID)
    assert means(every, Look(), Look()) == [(0.7,) * 3, (0.8,) * 3, OWN, (0.7,) * 3]
    assert means(every, Look(), asked) == [SAID, (0.8,) * 3, OWN, SAID]
    assert means(every, asked, asked) == [SAID] * 4


def test_what_a_file_says_of_cutting_images_matters_for_the_first_alone(tmp_path: Path) -> None:
    made = subject(small(), 16)
    write(made, Form(), tmp_path / "a.onnx")
    told = onnx.load(tmp_path / "a.onnx")
    next(one for one in told.metadata_props if one.key == "interpolation").value = "area"
    onnx.save(told, tmp_path / "a.onnx")
    every = [Named("a", seeing(OWN)), Named("a.onnx", tmp_path / "a.onnx")]
    assert means(every, Look(), Look()) == [OWN, OWN]
    with pytest.raises(UsageError, match="area"):
        means(every[1:], Look(), Look())


def test_a_file_that_leaves_channels_open_takes_the_networks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = replace(subject(Grey().eval(), 16), fit=fit(16, 1), images=pixels(12, 16, 1))
    write(made, Form(dynamic_size=True), tmp_path / "a.onnx")
    told = onnx.load(tmp_path / "a.onnx")
    del told.metadata_props[:]
    channels = told.graph.input[0].type.tensor_type.shape.dim[1]
    channels.ClearField("dim_value")
    channels.dim_param = "channels"
    onnx.save(told, tmp_path / "a.onnx")
    grey = network(Grey(), "grey")
    grey = replace(grey, input_size=(1, 16, 16), preprocess=Preprocess((0.5,), (0.25,), 1.0, "bilinear"))
    every = [Named("grey", grey), Named("a.onnx", tmp_path / "a.onnx")]
    made_of = rungs(every, grey, fit_for(grey, Look()), Look(), 1)
    assert [rung.size for rung in made_of] == [(1, 16, 16)] * 2


def test_networks_of_other_channels_are_refused_with_the_way_out() -> None:
    grey = replace(network(Grey(), "grey"), input_size=(1, 16, 16))
    with pytest.raises(UsageError, match="measured on images of 3x16x16, but grey takes 1x16x16") as refused:
        means([Named("a", seeing(OWN)), Named("grey", grey)], Look(), Look())
    assert "--in-chans" in str(refused.value)
