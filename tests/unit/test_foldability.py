"""Readers and makers of a tensor; whether they can absorb a 1x1 adapter, and if not, which layer prevents it."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, Conv2dSame, StdConv2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from graftcli.models.cuts.foldability import Fold, FoldableLayer
from graftcli.models.cuts.positions import Position, positions
from graftcli.models.tracing.trace import trace


class Scores(nn.Module):
    """Maps or scores -> scores."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.dim() == 4 else x


class Net(nn.Module):
    """stem (3 -> 8, 16x16) | `cut` | what is tried: some modules and a function around them."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.stem, self.cut, self.end = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), Scores()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.end(self.run(self, self.cut(self.stem(x))))


def place(network: nn.Module, name: str = "cut", size: int = 32) -> Position:
    found = positions(trace(network, torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))))
    return next(position for position in found if position.name == name)


def forwards(run: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> Fold:
    return place(Net(run, **parts)).forwards


def conv(inputs: int = 8, outputs: int = 4, kernel: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **more)


def into(*paths: str, repeat: int = 1) -> Fold:
    return Fold(tuple(FoldableLayer(path, repeat) for path in paths))


# ---- forwards: what takes an adapter in ----


@pytest.mark.parametrize(
    "reader",
    [
        conv(stride=2),
        conv(bias=False),
        conv(dilation=2),
        nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect"),
        Conv2dSame(8, 4, 3, 2),
        nn.Conv2d(8, 4, 16),
    ],
)
def test_a_plain_convolution_takes_an_adapter_in(reader: nn.Module) -> None:
    assert forwards(lambda m, x: m.a(x), a=reader) == into("a")


def test_all_readers_of_a_cut_take_the_adapter_in() -> None:
    assert forwards(lambda m, x: m.a(x) + m.b(x), a=conv(), b=conv(kernel=1)) == into("a", "b")
    assert place(timm.create_model("resnet10t"), "layer1", 64).forwards == into(
        "layer2.0.conv1", "layer2.0.downsample.1"
    )


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.a(m.b(x)),
        lambda m, x: m.a(F.avg_pool2d(x, 2)),
        lambda m, x: m.a(F.adaptive_avg_pool2d(x, (4, 4))),
        lambda m, x: m.a(x[:, :, ::2, 1:]),
        lambda m, x: m.a(x.contiguous()),
        lambda m, x: m.a(x.mean((2, 3), keepdim=True)),
        lambda m, x: m.a(x.mean(-1, True)),
        lambda m, x: m.a(x.permute(0, 2, 3, 1).permute(0, 3, 1, 2)),
        lambda m, x: m.a(x.flatten(2).transpose(1, 2).reshape(x.shape[0], 16, 16, 8).permute(0, 3, 1, 2)),
        lambda m, x: m.a(torch.permute(torch.permute(x, (0, 2, 3, 1)), dims=(0, -1, 1, 2))),
    ],
)
def test_an_adapter_passes_operations_that_treat_all_channels_alike(run: Callable[[Any, Tensor], Tensor]) -> None:
    assert forwards(run, a=conv(), b=nn.Sequential(nn.Identity(), nn.AvgPool2d(2), nn.Dropout2d())) == into("a")


@pytest.mark.parametrize(
    ("run", "inputs", "repeat"),
    [
        (lambda m, x: m.a(x.mean((2, 3))), 8, 1),
        (lambda m, x: m.a(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1)), 8, 1),
        (lambda m, x: m.a(torch.flatten(x, 1)), 8 * 256, 256),
        (lambda m, x: m.a(torch.flatten(x, start_dim=-3)), 8 * 256, 256),
        (lambda m, x: m.a(m.b(x)), 8 * 256, 256),
        (lambda m, x: m.a(x.view(x.size(0), -1)), 8 * 256, 256),
        (lambda m, x: m.a(x.reshape(x.shape[0], 8, 256)[:, :, ::2].flatten(1)), 8 * 128, 128),
        (lambda m, x: m.a(x.permute(0, 2, 3, 1)).mean((1, 2)), 8, 1),
        (lambda m, x: m.a(x.flatten(2).transpose(1, 2)).mean(1), 8, 1),
    ],
)
def test_a_linear_layer_reads_maps_flattened_averaged_or_channels_last(
    run: Callable[[Any, Tensor], Tensor], inputs: int, repeat: int
) -> None:
    assert forwards(run, a=nn.Linear(inputs, 4), b=nn.Flatten()) == into("a", repeat=repeat)


# ---- forwards: who is in the way ----


@pytest.mark.parametrize(
    ("reader", "kind"),
    [
        (conv(groups=2), "`a` (Conv2d, 2 groups)"),
        (nn.Conv2d(8, 8, 3, groups=8), "`a` (Conv2d, 8 groups)"),
        (StdConv2d(8, 4, 3), "`a` (StdConv2d"),
        (nn.BatchNorm2d(8), "`a` (BatchNorm2d)"),
        (nn.MaxPool2d(2), "`a` (MaxPool2d)"),
        (nn.ReLU(), "`a` (ReLU)"),
        (nn.LayerNorm([8, 16, 16]), "`a` (LayerNorm)"),
        (nn.GroupNorm(2, 8), "`a` (GroupNorm)"),
        (nn.ConvTranspose2d(8, 4, 3), "`a` (ConvTranspose2d)"),
        (nn.PixelUnshuffle(2), "`a` (PixelUnshuffle)"),
        (parametrizations.weight_norm(conv()), "`a` (ParametrizedConv2d"),
        (nn.Softmax(1), "`a` (Softmax)"),
    ],
)
def test_what_is_no_plain_convolution_is_named(reader: nn.Module, kind: str) -> None:
    blocker = forwards(lambda m, x: m.a(x), a=reader).blocker
    assert blocker is not None and blocker.startswith(f"read by {kind}")


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (lambda m, x: m.b(m.a(x) + x), "read by `add` in the forward pass"),
        (lambda m, x: m.b(F.relu(x)), "read by `relu` in the forward pass"),
        (lambda m, x: m.b(x[:, ::2].repeat(1, 2, 1, 1)), "read by `getitem` in the forward pass"),
        (lambda m, x: m.b(x.mean(1, keepdim=True).repeat(1, 8, 1, 1)), "read by `mean` in the forward pass"),
        (lambda m, x: m.b(x - x.mean(0, keepdim=True)), "read by `mean` in the forward pass"),
        (lambda m, x: m.b(x.transpose(0, 1).transpose(0, 1).exp()), "read by `exp`"),
        (lambda m, x: m.b(x.view(x.shape[0], 2, 4, 16, 16).flatten(1, 2)), "read by `view` in the forward pass"),
        (lambda m, x: m.b(m.b(x)), "read by `b` (Conv2d, used more than once)"),
        (lambda m, x: m.b(x) * F.conv2d(x, m.b.weight, padding=1), "read by `b` (Conv2d, with shared weights"),
    ],
)
def test_the_operation_in_the_way_is_named(run: Callable[[Any, Tensor], Tensor], reason: str) -> None:
    blocker = forwards(run, a=conv(outputs=8), b=conv(outputs=8)).blocker
    assert blocker is not None and blocker.startswith(reason)


def test_one_reader_in_the_way_is_enough() -> None:
    blocker = forwards(lambda m, x: m.a(x) + m.b(m.c(x)), a=conv(), b=conv(), c=nn.BatchNorm2d(8)).blocker
    assert blocker == "read by `c` (BatchNorm2d)"


def test_weights_shared_with_another_layer_stay_as_they_are() -> None:
    first, second = conv(outputs=8), conv(outputs=8)
    second.weight = first.weight
    blocker = forwards(lambda m, x: m.b(F.relu(m.a(x))), a=first, b=second).blocker
    assert blocker == "read by `a` (Conv2d, with shared weights)"


@pytest.mark.parametrize("before", [True, False])
def test_a_layer_with_hooks_is_left_alone(before: bool) -> None:
    reader = conv()
    if before:
        reader.register_forward_pre_hook(lambda _m, given: (given[0] * 2,))
    else:
        reader.register_forward_hook(lambda _m, _given, out: out * 2)
    blocker = forwards(lambda m, x: m.a(x), a=reader).blocker
    assert blocker == "read by `a` (Conv2d, with hooks)"


# ---- modules that are kept whole are looked into ----


class Leaf(nn.Module):
    """A module that its author does not let the tracer into."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, conv(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.second(F.relu(self.first(x)))


class Stubborn(Leaf):
    """One that cannot be traced: on other numbers it may do something else."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x) if x.sum() > -1e9 else x


def test_readers_inside_a_module_that_is_kept_whole_are_found() -> None:
    from timm.layers import register_notrace_module

    register_notrace_module(Leaf)
    assert forwards(lambda m, x: m.a(x), a=Leaf(conv())) == into("a.first")
    blocker = forwards(lambda m, x: m.a(x), a=Leaf(conv(groups=4))).blocker
    assert blocker == "read by `a.first` (Conv2d, 4 groups)"


def test_a_module_that_cannot_be_traced_is_named() -> None:
    blocker = forwards(lambda m, x: m.a(x), a=Stubborn(conv())).blocker
    assert blocker == "read by `a` (Stubborn, whose layers cannot be traced)"


def test_timms_own_leaves_are_traced_or_named() -> None:
    norm_free = trace(timm.create_model("test_nfnet", num_classes=10), torch.randn(2, 3, 64, 64))
    stages = [p for p in positions(norm_free) if p.name in ("stages.0", "stages.1")]
    assert [p.forwards.blocker for p in stages] == [
        "read by `stages.1.0.act1` (SiLU)",
        "read by `stages.2.0.act1` (SiLU)",
    ]
    vgg = trace(timm.create_model("vgg11", num_classes=10, mlp_ratio=0.05), torch.randn(2, 3, 64, 64))
    last = next(p for p in positions(vgg) if p.name == "features")
    assert last.forwards.blocker == "read by `pre_logits` (ConvMlp, whose layers cannot be traced)"


def test_a_weight_standardised_network_does_not_fold() -> None:
    network = timm.create_model("resnetv2_50x1_bit", num_classes=10)
    cut = place(network, "stages.0", 64)
    assert cut.forwards.blocker is not None and cut.backwards.blocker is not None
    assert not cut.foldable


# ---- backwards ----


def test_the_convolution_that_made_a_tensor_takes_an_adapter_in() -> None:
    found = place(Net(lambda m, x: m.b(m.a(x)), a=conv(outputs=8), b=nn.ReLU()), "a")
    assert found.backwards == into("a")


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8), BatchNormAct2d(8, apply_act=False)])
def test_a_linear_batchnorm_lies_between(norm: nn.Module) -> None:
    found = place(Net(lambda m, x: m.b(m.n(m.a(x))), a=conv(outputs=8), n=norm, b=nn.ReLU()), "n")
    assert found.backwards == Fold((FoldableLayer("a", 1, "n"),))


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        (nn.BatchNorm2d(8, track_running_stats=False), "BatchNorm2d"),
        (BatchNormAct2d(8), "BatchNormAct2d"),
        (nn.GroupNorm(2, 8), "GroupNorm"),
        (nn.MaxPool2d(1), "MaxPool2d"),
    ],
)
def test_what_is_not_linear_behind_the_convolution_is_named(norm: nn.Module, kind: str) -> None:
    found = place(Net(lambda m, x: m.b(m.n(m.a(x))), a=conv(outputs=8), n=norm, b=nn.ReLU()), "n")
    assert found.backwards.blocker == f"produced by `n` ({kind})"


def test_through_pooling_and_layout_changes_it_reaches_its_maker() -> None:
    network = Net(
        lambda m, x: m.h(m.p(m.a(x)).permute(0, 2, 3, 1)).mean((1, 2)), a=conv(), p=nn.AvgPool2d(2), h=nn.Linear(4, 5)
    )
    assert place(network, "p").backwards == into("a")
    assert place(network, "permute").backwards == into("a")


def test_a_tensor_that_others_read_before_is_not_changed() -> None:
    network = Net(lambda m, x: m.h((m.a(x) + m.b(x)).mean((2, 3))), a=conv(), b=conv(), h=nn.Linear(4, 5))
    assert place(network, "add").backwards.blocker == "produced by `add` in the forward pass"


def test_the_images_themselves_have_no_maker() -> None:
    network = Net(lambda m, x: m.h(x.mean((2, 3))), h=nn.Linear(8, 5))
    network.stem = nn.Identity()  # type: ignore[assignment]
    network.h = nn.Linear(3, 5)
    assert place(network, "stem").backwards.blocker == "produced by `stem` (Identity)"


# ---- in words ----


def test_a_fold_is_true_where_it_has_layers_and_nothing_in_the_way() -> None:
    assert into("a") and not Fold(blocker="read by `relu`") and not Fold()


@pytest.mark.parametrize(
    ("name", "kwargs", "at", "blocker"),
    [
        ("deit_tiny_patch16_224", {"img_size": 64, "depth": 2}, "blocks.0", "`blocks.1.norm1` (LayerNorm)"),
        ("densenet121", {}, "features.pool0", "`features.denseblock1.denselayer1`"),
        ("fastvit_t8", {}, "stages.0", "`stages.1.downsample.proj.0.large_conv.conv` (Conv2d, 48 groups)"),
    ],
)
def test_real_networks_name_what_a_person_can_find(name: str, kwargs: dict[str, Any], at: str, blocker: str) -> None:
    found = place(timm.create_model(name, num_classes=10, **kwargs), at, 64)
    assert found.forwards.blocker is not None and blocker in found.forwards.blocker
