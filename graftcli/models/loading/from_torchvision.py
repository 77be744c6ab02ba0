"""torchvision classification models."""

from functools import cache
from typing import Any

import torchvision
from torch import nn
from torchvision.models import WeightsEnum

from graftcli.errors import PairError
from graftcli.models.network import ModelRequest, Network, PreprocessDefaults, as_pair_error
from graftcli.models.origin import Kwargs
from graftcli.models.weights import Weights, WeightsOrigin

# without auxiliary classifiers, as in torchvision's pretrained models
_WITHOUT_AUXILIARY = {"aux_logits": False, "init_weights": True}
_DEFAULTS = {"googlenet": _WITHOUT_AUXILIARY, "inception_v3": _WITHOUT_AUXILIARY}


@cache
def names() -> tuple[str, ...]:
    """The names of torchvision's classification models."""
    return tuple(torchvision.models.list_models(module=torchvision.models))


def entry(name: str, variant: str = "", file: str = "") -> WeightsEnum:
    """An entry of torchvision's weights enum: `variant`, else the one stored as `file`, else the default."""
    weights = torchvision.models.get_model_weights(name)
    if not variant:
        return next((member for member in weights if member.url.endswith(f"/{file}")), weights.DEFAULT)
    if variant not in weights.__members__:
        raise PairError(
            f"torchvision has no weights `{variant}` of `{name}`.", f"Available: {', '.join(weights.__members__)}."
        )
    return weights[variant]


def module(name: str, kwargs: Kwargs) -> nn.Module:
    """Create the torchvision model `name` with random weights; graftcli adds the argument `in_chans`."""
    supported = {key: value for key, value in kwargs.items() if key != "in_chans"}
    with as_pair_error(name):
        built: nn.Module = torchvision.models.get_model(name, weights=None, **supported)
    if "in_chans" in kwargs:
        _remake_first_convolution(built, kwargs["in_chans"])
    return built


def network(name: str, entry: WeightsEnum, request: ModelRequest, loads_entry: bool) -> Network:
    """Build a torchvision model with random weights and the preprocessing of the weights `entry`.

    `loads_entry`: these weights will be loaded; two old models need `transform_input` for them.
    """
    preset = entry.transforms()
    crop = preset.crop_size[0]
    channels, size = request.in_chans or 3, request.img_size or (crop, crop)
    classes = request.num_classes or 1000
    kwargs = {**_DEFAULTS.get(name, {}), **_size_keyword(name, size), "num_classes": classes}
    if channels != 3:
        kwargs["in_chans"] = channels
    elif loads_entry and name in _DEFAULTS:
        kwargs["transform_input"] = True
    crop_pct, interpolation = crop / preset.resize_size[0], preset.interpolation.value
    return Network(
        module=module(name, kwargs).eval(),
        name=name,
        source="torchvision",
        weights=Weights(WeightsOrigin.RANDOM),
        input_size=(channels, *size),
        num_classes=classes,
        preprocess=PreprocessDefaults(tuple(preset.mean), tuple(preset.std), crop_pct, interpolation).for_channels(
            channels
        ),
        origin={"kind": "torchvision", "name": name, "kwargs": kwargs},
    )


def _remake_first_convolution(module: nn.Module, channels: int) -> None:
    path, old = next((path, m) for path, m in module.named_modules() if isinstance(m, nn.Conv2d))
    parent, _, child = path.rpartition(".")
    settings: dict[str, Any] = {"stride": old.stride, "padding": old.padding, "bias": old.bias is not None}
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size[0], **settings)
    setattr(module.get_submodule(parent), child, new)


def _size_keyword(name: str, size: tuple[int, int]) -> dict[str, object]:
    """The size argument of the two torchvision families that are built for one image size."""
    family = torchvision.models.get_model_builder(name).__module__.rsplit(".", 1)[-1]
    if family == "maxvit":
        return {"input_size": list(size)}
    if family != "vision_transformer":
        return {}
    if size[0] != size[1]:
        raise PairError(f"torchvision's `{name}` takes square images, not {size[0]}x{size[1]}.", "Give one --img-size.")
    return {"image_size": size[0]}
