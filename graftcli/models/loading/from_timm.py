"""timm models: from the registry, the Hugging Face Hub, or a folder written by timm."""

import sys
from dataclasses import dataclass
from pathlib import Path

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
from graftcli.models.network import ModelRequest, Network, PreprocessDefaults, as_pair_error, measured_outputs
from graftcli.models.origin import Kwargs
from graftcli.models.weights import Weights, WeightsOrigin


@dataclass(frozen=True)
class TimmSettings:
    """The settings of a timm model, before it is built."""

    name: str
    kwargs: Kwargs  # arguments it was created with
    pretrained: Kwargs  # timm's `pretrained_cfg`: preprocessing and location of the weights

    @property
    def defaults(self) -> tuple[int, int, tuple[int, int]]:
        """The default number of classes, channels and image size."""
        channels, *size = self.pretrained["input_size"]
        size = self.kwargs.get("img_size", size)
        height, width = (size, size) if isinstance(size, int) else size
        classes = self.kwargs.get("num_classes", self.pretrained["num_classes"])
        return classes, self.kwargs.get("in_chans", channels), (height, width)


def is_registered(name: str) -> bool:
    """Whether timm's registry has a model of this name."""
    return bool(timm.is_model(name))


def names() -> tuple[str, ...]:
    """The model names in timm's registry, without deprecated ones."""
    return tuple(timm.list_models())


def registered(name: str) -> TimmSettings:
    """The settings of a model in timm's registry; deprecated names resolve to their successors."""
    name = get_deprecated_models().get(name) or name
    try:
        pretrained = timm.get_pretrained_cfg(name) or PretrainedCfg(architecture=name)
    except RuntimeError as err:  # a tag that the architecture does not have
        architecture, tag = split_model_name_tag(name)
        known_tags = ", ".join(get_arch_pretrained_cfgs(architecture)) or "none"
        raise PairError(f"timm's `{architecture}` has no weights `{tag}`.", f"Available: {known_tags}.") from err
    return TimmSettings(name, {}, pretrained.to_dict())


def on_hub(repo: str) -> TimmSettings:
    """The settings in the config.json of a Hugging Face Hub repository."""
    pretrained, name, kwargs = load_model_config_from_hf(repo)
    check_timm_config(pretrained, kwargs, Path(f"hf-hub:{repo}/config.json"))
    return TimmSettings(name, kwargs, PretrainedCfg(**pretrained).to_dict())


def in_folder(folder: Path) -> TimmSettings:
    """The settings in the config.json of a folder written by timm's `save_for_hf`."""
    fix = "Give a folder written by timm's save_for_hf: config.json with the architecture, and model.safetensors."
    try:
        pretrained, name, kwargs = load_model_config_from_path(folder)
        check_timm_config(pretrained, kwargs, folder / "config.json")
        return TimmSettings(name, kwargs, PretrainedCfg(**pretrained).to_dict())
    except FileNotFoundError as err:
        raise CheckpointError(f"`{folder}` has no config.json.", fix) from err
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        message = f"`{folder / 'config.json'}` does not describe a timm model: {type(err).__name__}: {err}."
        raise CheckpointError(message, fix) from err


def module(name: str, kwargs: Kwargs) -> nn.Module:
    """Create the timm model `name` with random weights."""
    with as_pair_error(name):
        built: nn.Module = timm.create_model(name, pretrained=False, **kwargs)
    return built


def network(settings: TimmSettings, request: ModelRequest, source: str) -> Network:
    """Build a timm model with random weights, for the requested classes, channels and size."""
    defaults = settings.defaults
    channels, size = request.in_chans or defaults[1], request.img_size or defaults[2]
    classes = defaults[0] if request.num_classes is None else request.num_classes
    built, kwargs = _sized(settings, {**settings.kwargs, "num_classes": classes, "in_chans": channels}, size)
    data = resolve_data_config(pretrained_cfg=dict(settings.pretrained))
    # six old weights use crop mode "border", which is treated as "center"
    preprocess = PreprocessDefaults(
        tuple(data["mean"]), tuple(data["std"]), data["crop_pct"], data["interpolation"], data["crop_mode"] == "squash"
    )
    return Network(
        module=built.eval(),
        name=settings.name,
        source=source,
        weights=Weights(WeightsOrigin.RANDOM),
        input_size=(channels, *size),
        num_classes=classes or measured_outputs(built.eval(), (channels, *size)),
        preprocess=preprocess.for_channels(channels),
        origin={"kind": "timm", "name": settings.name, "kwargs": kwargs},
    )


def _sized(settings: TimmSettings, kwargs: Kwargs, size: tuple[int, int]) -> tuple[nn.Module, Kwargs]:
    """Build the module; pass `img_size` if it matters and the constructor takes it. Returns module and kwargs."""
    if settings.pretrained.get("fixed_input_size") or "img_size" in kwargs or size != settings.defaults[2]:
        sized = {**kwargs, "img_size": list(size)}
        try:
            return module(settings.name, sized), sized
        except PairError as err:
            if not isinstance(err.__cause__, TypeError) or "img_size" not in str(err.__cause__):
                raise
    return module(settings.name, kwargs), kwargs


def converted(state: TensorState, module: nn.Module) -> CheckpointMatch | None:
    """Convert a checkpoint from the original code with timm's filter; None unless it then fits completely."""
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        matched = match(TensorState(convert(dict(state.tensors), module)), module)
    except Exception:  # the filter expects another checkpoint format
        return None
    return matched if matched.complete else None
