"""torchvision's classifiers."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torchvision
from torch import nn

from graftcli.errors import PairError
from graftcli.models.network import ModelRequest, Network, PreprocessDefaults, making

# training-only classifiers, which torchvision itself leaves out of the networks it has trained
_WITHOUT_AUXILIARY = {"aux_logits": False, "init_weights": True}
_DEFAULTS = {"googlenet": _WITHOUT_AUXILIARY, "inception_v3": _WITHOUT_AUXILIARY}


@cache
def names() -> tuple[str, ...]:
    """The names of torchvision's classifiers; its detectors, segmenters and video networks are left out."""
    return tuple(torchvision.models.list_models(module=torchvision.models))


def entry(name: str, variant: str = "", file: str = "") -> Any:
    """A line in torchvision's list of weights: `variant`, else the one whose file is named `file`, else the default."""
    weights = torchvision.models.get_model_weights(name)
    if not variant:
        return next((line for line in weights if line.url.endswith(f"/{file}")), weights.DEFAULT)
    if variant not in weights.__members__:
        raise PairError(
            f"torchvision has no weights `{variant}` of `{name}`.", f"It has {', '.join(weights.__members__)}."
        )
    return weights[variant]


def module(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """torchvision's `name`, with random weights; `in_chans`, which torchvision does not know, is graftcli's own."""
    own = {key: value for key, value in kwargs.items() if key != "in_chans"}
    with making(name):
        made: nn.Module = torchvision.models.get_model(name, weights=None, **own)
    if "in_chans" in kwargs:
        _remake_first_convolution(made, kwargs["in_chans"])
    return made


def network(name: str, line: Any, wishes: ModelRequest, converted: bool) -> Network:
    """torchvision's `name` with random weights, for images prepared as for the weights `line`.

    `converted`: those very weights will be loaded, which for two old networks were made for other images.
    """
    preset = line.transforms()
    crop = preset.crop_size[0]
    channels, size = wishes.in_chans or 3, wishes.img_size or (crop, crop)
    kwargs = {**_DEFAULTS.get(name, {}), **_size_keyword(name, size), "num_classes": wishes.num_classes or 1000}
    if channels != 3:
        kwargs["in_chans"] = channels
    elif converted and name in _DEFAULTS:
        kwargs["transform_input"] = True
    crop_pct, interpolation = crop / preset.resize_size[0], preset.interpolation.value
    return Network(
        module=module(name, kwargs).eval(),
        name=name,
        source="torchvision",
        weights="random",
        input_size=(channels, *size),
        num_classes=kwargs["num_classes"],
        preprocess=PreprocessDefaults(tuple(preset.mean), tuple(preset.std), crop_pct, interpolation).for_channels(
            channels
        ),
        origin={"kind": "torchvision", "name": name, "kwargs": kwargs},
    )


def _remake_first_convolution(made: nn.Module, channels: int) -> None:
    path, old = next((path, m) for path, m in made.named_modules() if isinstance(m, nn.Conv2d))
    parent, _, child = path.rpartition(".")
    keep: dict[str, Any] = {"stride": old.stride, "padding": old.padding, "bias": old.bias is not None}
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size[0], **keep)
    setattr(made.get_submodule(parent), child, new)


def _size_keyword(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """The two families of torchvision that are built for one image size each say so in their own way."""
    family = torchvision.models.get_model_builder(name).__module__.rsplit(".", 1)[-1]
    if family == "maxvit":
        return {"input_size": list(size)}
    if family != "vision_transformer":
        return {}
    if size[0] != size[1]:
        raise PairError(f"torchvision's `{name}` takes square images, not {size[0]}x{size[1]}.", "Give one --img-size.")
    return {"image_size": size[0]}
