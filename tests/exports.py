"""Shared by tests of exports: networks, with images to check them on."""

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from graftcli.formats.graph import export_graph
from graftcli.formats.options import ExportOptions, ExportSource
from graftcli.graft.surgery.merge import merge, merge_hybrid
from graftcli.images.pixels import Preprocess
from graftcli.models.network import Network
from tests import pairs
from tests.nets import randomise, resnet


def preprocess(size: int, channels: int = 3) -> Preprocess:
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    return Preprocess((size, size), channels, mean, std, 1.0, "bilinear")


def pixels(count: int, size: int, channels: int = 3) -> Tensor:
    """Smooth, structured images, on which predictions are stable under rounding."""
    coarse = torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(3))
    return nn.functional.interpolate(255 * coarse, (size, size), mode="bilinear").round().to(torch.uint8)


def subject(module: nn.Module, size: int, count: int = 12) -> ExportSource:
    return ExportSource(
        module.float().eval(), preprocess(size), pixels(count, size), facts={"teacher": "big", "student": "small"}
    )


def small(depth: int = 8) -> nn.Module:
    """The option-A ResNet with random weights; deterministic."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomise(resnet(depth)).eval()


_GRAPHS: dict[tuple[Any, ...], onnx.ModelProto] = {}


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache exported graphs: equal networks are exported once, and each test gets a copy."""

    def remembering(subject: ExportSource, form: ExportOptions) -> onnx.ModelProto:
        digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in subject.module.state_dict().values())).digest()
        key = (
            type(subject.module),
            digest,
            subject.preprocess,
            form.static,
            form.dynamic_size,
            form.opset,
            form.pixels,
        )
        if key not in _GRAPHS:
            _GRAPHS[key] = export_graph(subject, form)
        return copy.deepcopy(_GRAPHS[key])

    monkeypatch.setattr("graftcli.formats.graph.export_graph", remembering)


def _of(made: Callable[[], Network]) -> Callable[[], ExportSource]:
    def make() -> ExportSource:
        network = made()
        return subject(network.module, network.input_size[1])

    return make


def _hybrid(name: str, blocks: set[int]) -> Callable[[], ExportSource]:
    def make() -> ExportSource:
        plan = pairs.planned(name)
        merged = merge_hybrid(plan, pairs.random_seams(plan), blocks)
        return subject(merged.module, plan.teacher.network.input_size[1])

    return make


def _with_adapters(name: str) -> Callable[[], ExportSource]:
    def make() -> ExportSource:
        plan = pairs.planned(name)
        merged = merge(plan, pairs.random_seams(plan))
        assert merged.kept
        return subject(merged.module, plan.student.network.input_size[1])

    return make


SUBJECTS: dict[str, Callable[[], ExportSource]] = {
    "cifar resnet": lambda: subject(small(), 32),
    "resnet": _of(lambda: pairs.of_timm("resnet10t")),
    "mobilenet_v3": _of(lambda: pairs.of_timm("mobilenetv3_small_050")),
    "convnext": _of(lambda: pairs.of_timm("convnext_atto")),
    "vit": _of(lambda: pairs.of_timm("test_vit", 32, img_size=32)),
    "swin": _of(lambda: pairs.swin(24)),
    "squeezenet": _of(lambda: pairs.of_torchvision("squeezenet1_1")),
    "regnet": _of(lambda: pairs.regnet(24)),
    "mobilevit": _of(lambda: pairs.of_timm("mobilevit_xxs")),
    "vgg": _of(lambda: pairs.flat_vgg(8)),
    "hybrid": _hybrid("resnet bottleneck, basic", {2}),
    "hybrid of two layouts": _hybrid("swin, resnet", {2}),
    "shufflenet, adapters kept": _with_adapters("shufflenet"),
}


PLACES = (str(Path(torch.__file__).parents[1]), str(Path(__file__).parents[2]), str(Path.home()), "site-packages")
