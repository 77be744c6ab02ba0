"""Teachers and students of different families for small images, with all parameters and buffers randomised."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import timm
import torch
import torchvision
from timm.models.regnet import RegNet, RegNetCfg
from torch import Tensor, nn
from torchvision.models.regnet import BlockParams
from torchvision.models.regnet import RegNet as TorchvisionRegNet

from graftcli.graft.surgery.seams import Seam, seams
from graftcli.models.cuts.pairing import CutOptions
from graftcli.models.cuts.plan import Plan, make
from graftcli.models.network import IMAGENET, Network
from graftcli.models.origin import ModuleOrigin
from graftcli.models.weights import Weights, WeightsOrigin
from tests import nets

Maker = Callable[[], nn.Module]
CLASSES = 10


def of_timm(name: str, size: int = 64, **kwargs: object) -> Network:
    return network(lambda: timm.create_model(name, num_classes=CLASSES, **kwargs), name, size)


def of_torchvision(name: str, size: int = 64, **kwargs: object) -> Network:
    return network(lambda: torchvision.models.get_model(name, num_classes=CLASSES, **kwargs), name, size)


def network(make_module: Maker, name: str, size: int) -> Network:
    """A network with random weights and BatchNorm statistics; deterministic."""
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        module = nets.randomise(make_module(), seed=len(name)).eval()
    origin: ModuleOrigin = {"kind": "in-memory", "key": name}
    return Network(module, name, "package", Weights(WeightsOrigin.RANDOM), (3, size, size), CLASSES, IMAGENET, origin)


class FlatVGG(nn.Module):
    """A VGG whose classifier reads the flattened feature map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, width), (width, 2 * width), (2 * width, 3 * width)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(4)
        self.classifier = nn.Sequential(nn.Linear(3 * width * 16, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))
        return result


# every kind of unit of the architecture once or twice, which covers all cuts, joins and folds in less time
WIDE = (64, 128, 256, 512)
SMALL_SWIN: dict[str, Any] = {"img_size": 64, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 4, 8)}
SMALL_DEIT: dict[str, Any] = {"img_size": 64, "depth": 4}
SMALL_MOBILENET_V2 = [
    *([1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2], [6, 64, 1, 2]),
    *([6, 96, 1, 1], [6, 160, 1, 2], [6, 320, 1, 1]),
]


@dataclass(frozen=True)
class Pair:
    teacher: Callable[[], Network]
    student: Callable[[], Network]
    stock: bool = True  # whether all adapters fold into the student's layers
    choice: CutOptions | None = None


def alike(*names: str) -> CutOptions:
    return CutOptions(teacher=names, student=names)


def flat_vgg(width: int) -> Network:
    return network(lambda: FlatVGG(width), f"vgg{width}", 32)


def cifar(depth: int) -> Network:
    return network(lambda: nets.resnet(depth), f"resnet{depth}", 32)


def swin(width: int) -> Network:
    return of_timm("swin_tiny_patch4_window7_224", embed_dim=width, **SMALL_SWIN)


def resnet10(widths: tuple[int, ...] = (16, 32, 64, 128)) -> Network:
    return of_timm("resnet10t", channels=widths)


def resnet26(widths: tuple[int, ...] = (16, 32, 64, 128)) -> Network:
    return of_timm("resnet26", layers=(1, 1, 1, 1), channels=widths)


def mobilenet_v2() -> Network:
    return of_torchvision("mobilenet_v2", inverted_residual_setting=SMALL_MOBILENET_V2)


def densenet() -> Network:
    return network(lambda: torchvision.models.DenseNet(32, (2, 2, 2, 2), 64, num_classes=CLASSES), "densenet", 64)


def shufflenet(width: int) -> Network:
    channels = [24, width, 2 * width, 4 * width, 1024]
    return network(lambda: torchvision.models.ShuffleNetV2([2, 3, 2], channels, CLASSES), f"shufflenet{width}", 64)


def regnet(width: int, reduction: float = 0.0) -> Network:
    """A RegNet of timm with six units; with a `reduction`, they have squeeze-and-excitation."""
    config = RegNetCfg(depth=6, w0=width, wa=1.5 * width, wm=2.0, group_size=8, se_ratio=reduction)
    return network(lambda: RegNet(config, num_classes=CLASSES), f"regnet{width}", 64)


def torchvision_regnet(width: int) -> Network:
    units = BlockParams.from_init_params(depth=6, w_0=width, w_a=1.5 * width, w_m=2.0, group_width=8, se_ratio=0.25)
    return network(lambda: TorchvisionRegNet(units, num_classes=CLASSES), f"regnet_y{width}", 64)


PAIRS = {
    "resnet bottleneck, basic": Pair(lambda: resnet26(WIDE), lambda: resnet10(WIDE)),
    "resnet, mobilenet_v2": Pair(resnet26, mobilenet_v2),
    "resnet, densenet": Pair(resnet10, densenet),
    "regnetx": Pair(lambda: regnet(48), lambda: regnet(24)),
    "regnety, torchvision's": Pair(lambda: regnet(48, 0.25), lambda: torchvision_regnet(32)),
    "efficientnet, mobilenet_v3, same padding": Pair(
        lambda: of_timm("test_efficientnet", pad_type="same"), lambda: of_timm("tf_mobilenetv3_small_100")
    ),
    "mobilenet_v3": Pair(lambda: of_timm("mobilenetv3_small_075"), lambda: of_torchvision("mobilenet_v3_small")),
    "convnext": Pair(
        lambda: of_timm("convnext_nano", depths=(1, 1, 2, 1), dims=(40, 80, 160, 320)),
        lambda: of_timm("convnext_atto", depths=(1, 1, 1, 1), dims=(24, 48, 96, 192)),
    ),
    "swin": Pair(lambda: swin(32), lambda: swin(24)),
    "swin, resnet": Pair(lambda: swin(32), lambda: resnet10(WIDE)),
    "resnet, swin": Pair(resnet10, lambda: swin(32)),
    "resnet, dla": Pair(lambda: resnet10(WIDE), lambda: of_timm("dla46_c")),
    "dla, mobilenet_v2": Pair(lambda: of_timm("dla46_c"), lambda: of_torchvision("mobilenet_v2")),
    "vgg with a flattened map": Pair(
        lambda: flat_vgg(12),
        lambda: flat_vgg(8),
        choice=alike("features.2", "features.5", "features.8"),
    ),
    "mobilevit, some modules kept whole": Pair(lambda: of_timm("mobilevit_xs"), lambda: of_timm("mobilevit_xxs")),
    "shufflenet": Pair(lambda: shufflenet(116), lambda: shufflenet(48), stock=False),
    "deit": Pair(
        lambda: of_timm("deit_tiny_patch16_224", embed_dim=96, num_heads=3, **SMALL_DEIT),
        lambda: of_timm("deit_tiny_patch16_224", embed_dim=48, num_heads=3, **SMALL_DEIT),
        stock=False,
        choice=alike("blocks.0", "blocks.1", "blocks.2"),
    ),
    "resnet for small images, option A": Pair(lambda: cifar(20), lambda: cifar(14)),
}


@cache
def planned(name: str) -> Plan:
    """The plan of a pair; cached, so that no test may modify its networks."""
    pair = PAIRS[name]
    return make(pair.teacher(), pair.student(), pair.choice)


def random_seams(plan: Plan, seed: int = 0) -> list[Seam]:
    """Seams with an adapter at every possible place, far from the identity but preserving the scale of features."""
    generator = torch.Generator().manual_seed(seed)
    found = seams(plan, "always")
    for seam in found:
        for adapter in seam.parameters():
            adapter.data = torch.randn(adapter.shape, generator=generator) / adapter.shape[1] ** 0.5
    return found


def noise(plan: Plan, count: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(count, *plan.teacher.network.input_size, generator=torch.Generator().manual_seed(seed))


def neighbours(count: int) -> Sequence[set[int]]:
    """Each single block, and each block with the next one."""
    return [{k} for k in range(1, count + 1)] + [{k, k + 1} for k in range(1, count)]
