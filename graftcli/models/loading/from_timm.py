"""timm's networks: from its registry, from the Hugging Face Hub, from a folder that it wrote."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_data_config
from timm.models import (
    PretrainedCfg,
    get_arch_pretrained_cfgs,
    get_deprecated_models,
    load_model_config_from_hf,
    split_model_name_tag,
)
from timm.models._hub import load_model_config_from_path
from torch import nn

from graftcli.errors import CheckpointError, PairError
from graftcli.models.loading.checkpoint import CheckpointMatch, TensorState, match
from graftcli.models.loading.documents import check_timm_config
from graftcli.models.network import ModelRequest, Network, PreprocessDefaults, making, measured_width


@dataclass(frozen=True)
class TimmSettings:
    """What is known of a network of timm's before it is built."""

    name: str
    kwargs: Mapping[str, Any]  # what its maker built it with
    pretrained: Mapping[str, Any]  # timm's `pretrained_cfg`: the data its weights were made for, and where they are

    @property
    def own(self) -> tuple[int, int, tuple[int, int]]:
        """The classes, channels and image size that its maker built it for."""
        channels, *size = self.pretrained["input_size"]
        size = self.kwargs.get("img_size", size)
        height, width = (size, size) if isinstance(size, int) else size
        classes = self.kwargs.get("num_classes", self.pretrained["num_classes"])
        return classes, self.kwargs.get("in_chans", channels), (height, width)


def known(name: str) -> bool:
    return bool(timm.is_model(name))


def names() -> tuple[str, ...]:
    """The names of timm's registry, without those of former versions."""
    return tuple(timm.list_models())


def registered(name: str) -> TimmSettings:
    """The settings of a name in timm's registry, whose old names lead to their successors."""
    name = get_deprecated_models().get(name) or name
    try:
        pretrained = timm.get_pretrained_cfg(name) or PretrainedCfg(architecture=name)
    except RuntimeError as err:  # a tag that the architecture does not have
        architecture, tag = split_model_name_tag(name)
        known_tags = ", ".join(get_arch_pretrained_cfgs(architecture)) or "none"
        raise PairError(f"timm's `{architecture}` has no weights `{tag}`.", f"It has {known_tags}.") from err
    return TimmSettings(name, {}, pretrained.to_dict())


def on_hub(repo: str) -> TimmSettings:
    """The settings of a repository on the Hugging Face Hub, as its config.json says."""
    pretrained, name, kwargs = load_model_config_from_hf(repo)
    check_timm_config(pretrained, kwargs, Path(f"hf-hub:{repo}/config.json"))
    return TimmSettings(name, kwargs, PretrainedCfg(**pretrained).to_dict())


def in_folder(folder: Path) -> TimmSettings:
    """The settings of a folder that timm's `save_for_hf` wrote, as its config.json says."""
    mend = (
        "Give a folder that timm's save_for_hf wrote: config.json with the architecture, model.safetensors beside it."
    )
    try:
        pretrained, name, kwargs = load_model_config_from_path(folder)
        check_timm_config(pretrained, kwargs, folder / "config.json")
        return TimmSettings(name, kwargs, PretrainedCfg(**pretrained).to_dict())
    except FileNotFoundError as err:
        raise CheckpointError(f"`{folder}` holds no config.json.", mend) from err
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        found = f"`{folder / 'config.json'}` does not describe a network of timm's: {type(err).__name__}: {err}."
        raise CheckpointError(found, mend) from err


def module(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """timm's `name`, with random weights."""
    with making(name):
        made: nn.Module = timm.create_model(name, pretrained=False, **kwargs)
    return made


def network(settings: TimmSettings, wishes: ModelRequest, source: str) -> Network:
    """timm's network with random weights, for the classes, channels and size asked for, else its own."""
    own = settings.own
    channels, size = wishes.in_chans or own[1], wishes.img_size or own[2]
    classes = own[0] if wishes.num_classes is None else wishes.num_classes
    made, kwargs = _sized(settings, {**settings.kwargs, "num_classes": classes, "in_chans": channels}, size)
    data = resolve_data_config(pretrained_cfg=dict(settings.pretrained))
    # of timm's ways to crop, six old weights have a third, "border", which is taken for the centre
    preprocess = PreprocessDefaults.read({**data, "squash": data["crop_mode"] == "squash"})
    return Network(
        module=made.eval(),
        name=settings.name,
        source=source,
        weights="random",
        input_size=(channels, *size),
        num_classes=classes or measured_width(made.eval(), (channels, *size)),
        preprocess=preprocess.for_channels(channels),
        origin={"kind": "timm", "name": settings.name, "kwargs": kwargs},
    )


def _sized(settings: TimmSettings, kwargs: dict[str, Any], size: tuple[int, int]) -> tuple[nn.Module, dict[str, Any]]:
    """The module and its kwargs, with an `img_size` where it matters and the constructor takes one."""
    if settings.pretrained.get("fixed_input_size") or "img_size" in kwargs or size != settings.own[2]:
        sized = {**kwargs, "img_size": list(size)}
        try:
            return module(settings.name, sized), sized
        except PairError as err:
            if not isinstance(err.__cause__, TypeError) or "img_size" not in str(err.__cause__):
                raise
    return module(settings.name, kwargs), kwargs


def converted(state: TensorState, made: nn.Module) -> CheckpointMatch | None:
    """A checkpoint from before timm had the network, by timm's own conversion, where the whole then fits."""
    convert = getattr(sys.modules[type(made).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        matched = match(TensorState(convert(dict(state.tensors), made)), made)
    except Exception:  # it was written for one foreign checkpoint, and this is another
        return None
    return matched if matched.complete else None
