"""A small, fast architecture for every module of timm and every family of torchvision's classifiers."""

from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from tests.nets import randomise


@dataclass(frozen=True)
class Architecture:
    spec: str
    size: int = 64  # the smallest at which the network runs with all its stages, from 64 on
    blocks: int = 4  # minimum number of blocks; 1 if several tensors are alive from the first layer to the last
    kwargs: dict[str, Any] = field(default_factory=dict)  # fewer or narrower layers, but at least one of every kind

    @property
    def installed(self) -> bool:
        source, name = self.spec.split(":")
        return bool(timm.is_model(name)) if source == "timm" else name in torchvision.models.list_models()

    def build(self) -> nn.Module:
        """The network with ten classes, in eval mode, with all parameters and buffers randomised; deterministic."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return randomise(self._create()).eval()

    def _create(self) -> nn.Module:
        source, name = self.spec.split(":")
        if source == "torchvision":
            made: nn.Module = torchvision.models.get_model(name, num_classes=10, **self._for_torchvision(name))
            return made
        try:
            made = timm.create_model(name, num_classes=10, img_size=self.size, **self.kwargs)
        except TypeError:  # this model takes images of any size
            made = timm.create_model(name, num_classes=10, **self.kwargs)
        return made

    def _for_torchvision(self, name: str) -> dict[str, Any]:
        if name.startswith("vit_"):
            return {"image_size": self.size}
        return {"init_weights": False} if name in ("googlenet", "inception_v3", "vgg11_bn") else {}


TINY = {"embed_dim": 96, "depth": 4, "num_heads": 3}

ARCHITECTURES = [
    Architecture("timm:haloregnetz_b", size=224),
    Architecture("timm:test_byobnet"),
    Architecture("timm:cait_xxs24_224", kwargs={"depth": 6}),
    Architecture("timm:coat_lite_tiny"),
    Architecture("timm:convit_tiny"),
    Architecture("timm:convmixer_1024_20_ks9_p14"),
    Architecture("timm:test_convnext"),
    Architecture("timm:cpubone_nano"),
    Architecture("timm:crossvit_tiny_240", size=240, blocks=1),
    Architecture("timm:csatv2"),
    Architecture("timm:cs3darknet_focus_s"),
    Architecture("timm:cspnext_tiny"),
    Architecture("timm:davit_tiny", kwargs={"depths": (1, 1, 1, 1)}),
    Architecture("timm:deit_tiny_patch16_224", kwargs={"depth": 6}),
    Architecture("timm:densenet121"),
    Architecture("timm:dla46x_c", blocks=5),
    Architecture("timm:dpn48b"),
    Architecture("timm:edgenext_xx_small"),
    Architecture("timm:efficientformer_l1", size=224),
    Architecture("timm:efficientformerv2_s0"),
    Architecture("timm:tinynet_e"),
    Architecture("timm:efficientvim_m1", blocks=3),
    Architecture("timm:efficientvit_b0"),
    Architecture("timm:efficientvit_m0", blocks=5),
    Architecture("timm:vit_tiny_patch16_dinov3_qkvb", kwargs={"depth": 6}),
    Architecture("timm:fasternet_t0"),
    Architecture("timm:fastvit_t8"),
    Architecture("timm:focalnet_tiny_srf"),
    Architecture("timm:gcvit_xxtiny"),
    Architecture("timm:ghostnet_050"),
    Architecture("timm:hardcorenas_a"),
    Architecture("timm:hgnetv2_b0"),
    Architecture("timm:hiera_tiny_224", kwargs={"stages": (1, 1, 2, 1)}),
    Architecture("timm:sam2_hiera_tiny", kwargs={"stages": (1, 1, 2, 1), "global_att_blocks": (3,)}),
    Architecture("timm:hrnet_w18_small", blocks=2),
    Architecture("timm:iformer_t"),
    Architecture("timm:inception_next_atto"),
    Architecture("timm:inception_resnet_v2", size=96),
    Architecture("timm:inception_v3", size=96),
    Architecture("timm:inception_v4", size=96),
    Architecture("timm:lcnetv2_small"),
    Architecture("timm:levit_128s"),
    Architecture("timm:lowformer_b0"),
    Architecture("timm:test_mambaout"),
    Architecture("timm:test_coatnet"),
    Architecture("timm:poolformer_s12"),
    Architecture("timm:mixer_s32_224"),
    Architecture("timm:mobilenetv3_small_050"),
    Architecture("timm:mobilevit_xxs"),
    Architecture("timm:mvitv2_tiny"),
    Architecture("timm:nest_tiny", blocks=3),
    Architecture("timm:nextvit_small", kwargs={"depths": (1, 2, 5, 1)}),
    Architecture("timm:test_nfnet", blocks=3),
    Architecture("timm:pit_ti_224", blocks=3),
    Architecture("timm:pvt_v2_b0"),
    Architecture("timm:rdnet_tiny"),
    Architecture("timm:regnetx_002"),
    Architecture("timm:repghostnet_050"),
    Architecture("timm:repvit_m0_9"),
    Architecture("timm:res2net50_48w_2s"),
    Architecture("timm:resnest14d"),
    Architecture("timm:test_resnet"),
    Architecture("timm:resnetv2_18"),
    Architecture("timm:rexnet_100"),
    Architecture("timm:selecsls42"),
    Architecture("timm:legacy_seresnet18"),
    Architecture("timm:sequencer2d_s", blocks=2, kwargs={"layers": (1, 1, 2, 1)}),
    Architecture("timm:shvit_s1", blocks=5),
    Architecture("timm:skresnet18"),
    Architecture("timm:starnet_s050"),
    Architecture("timm:swiftformer_xs"),
    Architecture("timm:swin_tiny_patch4_window7_224", kwargs={"depths": (2, 2, 2, 2)}),
    Architecture("timm:swinv2_tiny_window8_256", kwargs={"depths": (2, 2, 2, 2)}),
    Architecture("timm:swinv2_cr_tiny_224", kwargs={"depths": (2, 2, 2, 2)}),
    Architecture("timm:tiny_vit_5m_224"),
    Architecture("timm:tnt_s_legacy_patch16_224", blocks=2),
    Architecture("timm:tresnet_m", kwargs={"layers": (1, 1, 2, 1)}),
    Architecture("timm:twins_svt_small", kwargs={"depths": (2, 2, 2, 2)}),
    Architecture("timm:visformer_tiny", blocks=3),
    Architecture("timm:test_vit"),
    Architecture("timm:vit_tiny_r_s16_p8_224", blocks=2),
    Architecture("timm:test_vit_relpos"),
    Architecture("timm:vitamin_small_224", blocks=3),
    Architecture("timm:volo_d1_224", blocks=2),
    Architecture("timm:ese_vovnet19b_slim_dw"),
    Architecture("timm:legacy_xception"),
    Architecture("timm:xception41"),
    Architecture("timm:xcit_nano_12_p16_224", blocks=3),
    Architecture("timm:beit_base_patch16_224", kwargs=TINY),
    Architecture("timm:mobilenetv5_base", blocks=3, kwargs={"channel_multiplier": 0.5}),
    Architecture("timm:naflexvit_base_patch16_gap", kwargs=TINY),
    Architecture("timm:nasnetalarge", blocks=1, kwargs={"num_features": 384, "stem_size": 16}),
    Architecture("timm:pnasnet5large", blocks=1),
    Architecture("timm:vgg11_bn", kwargs={"mlp_ratio": 0.05}),
    Architecture("timm:samvit_base_patch16_224", kwargs=TINY),
    Architecture("torchvision:alexnet", blocks=3),
    Architecture("torchvision:convnext_tiny"),
    Architecture("torchvision:densenet121"),
    Architecture("torchvision:efficientnet_b0"),
    Architecture("torchvision:efficientnet_v2_s"),
    Architecture("torchvision:googlenet"),
    Architecture("torchvision:inception_v3", size=96),
    Architecture("torchvision:maxvit_t", size=224),
    Architecture("torchvision:mnasnet0_5"),
    Architecture("torchvision:mobilenet_v2"),
    Architecture("torchvision:mobilenet_v3_small"),
    Architecture("torchvision:regnet_y_400mf"),
    Architecture("torchvision:resnet18"),
    Architecture("torchvision:shufflenet_v2_x0_5"),
    Architecture("torchvision:squeezenet1_1", blocks=3),
    Architecture("torchvision:swin_t"),
    Architecture("torchvision:swin_v2_t"),
    Architecture("torchvision:vgg11_bn"),
    Architecture("torchvision:vit_b_32"),
]

EXCEPTIONS = {
    "deepseek_vit": "encoders of language models from 412 M parameters on, no classifiers",
    "gemma4_vit": "encoders of language models from 167 M parameters on, no classifiers",
    "qwen3_vit": "encoders of language models from 87 M parameters on, no classifiers",
}


def module_of(name: str) -> str:
    """The module of timm in which an architecture is written."""
    return str(timm.models.model_entrypoint(name).__module__).rpartition(".")[2]


def family_of(name: str) -> str:
    """The module of torchvision in which an architecture is written."""
    return str(torchvision.models.get_model_builder(name).__module__).rpartition(".")[2]
