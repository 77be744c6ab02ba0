"""The pretrained weights of named networks, from a cache or the internet; what keeps them away, as one error."""

import io
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from typing import Any

import timm
from huggingface_hub import constants
from timm.models import adapt_input_conv
from torch import Tensor

from graftcli.errors import CheckpointError
from graftcli.models.loading import from_timm
from graftcli.models.loading.checkpoint import CheckpointMatch, TensorState, load_into, match, refusal
from graftcli.models.loading.from_timm import TimmSettings
from graftcli.models.network import Network, checkpoint_flag

TIMEOUT = 10.0  # seconds without an answer


def hub_settings(repo: str, role: str) -> TimmSettings:
    """The settings of `hf-hub:repo`, whose config.json may have to be downloaded."""
    mend = f"Download the repository and give its folder: --{role} local-dir:path."
    with _fetching(f"The config.json of `hf-hub:{repo}`", mend, hub=True):
        return from_timm.on_hub(repo)


def timm_weights(network: Network, settings: TimmSettings, role: str) -> Network:
    """The network with timm's pretrained weights of that name."""
    where = settings.pretrained.get("hf_hub_id") or settings.pretrained.get("url")
    if not where:
        raise CheckpointError(f"timm has no pretrained weights of `{network.name}`.", _mend(network.name, role))
    fresh = _fresh_classifier(network, settings.own[0], role)
    channels = settings.own[1]
    hub = "hf_hub_id" in settings.pretrained
    with _fetching(f"The pretrained weights of `{network.name}` ({where})", _mend(network.name, role), hub):
        options = {**network.origin["kwargs"], "pretrained_cfg": dict(settings.pretrained)}
        module = timm.create_model(network.name, pretrained=True, **options)
    adapted = [] if channels == network.input_size[0] else [_adapted(channels, network)]
    return replace(network, module=module.eval(), weights="; ".join([f"pretrained ({where})", *adapted, *fresh]))


def torchvision_weights(network: Network, line: Any, role: str) -> Network:
    """The network with the pretrained weights `line` of torchvision's list."""
    fresh = _fresh_classifier(network, len(line.meta["categories"]), role)
    with _fetching(f"The pretrained weights of `{network.name}` ({line.url})", _mend(network.name, role), hub=False):
        tensors = line.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    matched = match(TensorState(tensors), network.module)
    adapted = {name: adapt_input_conv(own.shape[1], other) for name, (own, other) in _stems(matched).items()}
    matched = match(TensorState({**tensors, **adapted}), network.module)
    of_classes = (network.num_classes,) if fresh else ()
    others = [name for name, (own, _) in matched.differing.items() if own.shape[:1] != of_classes]
    if matched.missing or matched.extra or others:
        raise refusal(matched, line.url, network.name)
    load_into(network.module, matched, line.url)
    stem = [_adapted(3, network)] if adapted else []
    return replace(network, weights="; ".join([f"pretrained ({line.name})", *stem, *fresh]))


def _stems(matched: CheckpointMatch) -> Mapping[str, tuple[Tensor, Tensor]]:
    """The first convolutions, which read another number of channels; no position that has been learnt."""
    pairs = matched.differing.items()
    return {name: (own, other) for name, (own, other) in pairs if own.ndim == 4 and own.shape[0] == other.shape[0]}


def _adapted(channels: int, network: Network) -> str:
    return f"the first convolution adapted from {channels} to {network.input_size[0]} channels"


def _fresh_classifier(network: Network, classes: int, role: str) -> list[str]:
    """A sentence where the pretrained classifier cannot be used; a teacher without its classifier teaches nothing."""
    if network.num_classes == classes:
        return []
    if role == "student":
        return [f"a fresh classifier of {network.num_classes} classes"]
    found = f"The pretrained weights of `{network.name}` have {classes:,} classes; asked are {network.num_classes:,}."
    raise CheckpointError(
        found, f"Leave --num-classes out, or give trained weights: {checkpoint_flag(role)} {network.name}.pth."
    )


def _mend(name: str, role: str) -> str:
    return f"Give a file: {checkpoint_flag(role)} {name}.pth (or `none` for random weights)."


@contextmanager
def _fetching(what: str, mend: str, hub: bool) -> Iterator[None]:
    """Downloads within: they wait `TIMEOUT` seconds at most for an answer, print nothing, and end in one error."""
    reason = ""
    try:
        with ExitStack() as stack:
            stack.enter_context(redirect_stdout(io.StringIO()))  # torch.hub prints there
            stack.enter_context(_socket_timeout())
            if hub and (reason := _unreachable(constants.ENDPOINT)):
                stack.enter_context(_hub_offline())
            yield
    except CheckpointError:
        raise
    except Exception as err:
        said = str(getattr(err, "reason", err)).strip().split("\n")[0] or type(err).__name__
        if isinstance(err, OSError):
            raise CheckpointError(f"{what} cannot be downloaded: {(reason or said).rstrip('.')}.", mend) from err
        raise CheckpointError(f"{what} cannot be read from the cache: {said.rstrip('.')}.", mend) from err


@contextmanager
def _socket_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torch.hub sets none
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _hub_offline() -> Iterator[None]:
    """The Hugging Face Hub answers from its cache alone; asked over a dead line it would try for a minute."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _unreachable(url: str) -> str:
    """Why nothing at all answers at `url`; empty where something does, be it a refusal."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return ""
    except urllib.error.URLError as err:
        return "" if isinstance(err.reason, ssl.SSLError) else f"{url} does not answer ({err.reason})"
    except OSError as err:
        return f"{url} does not answer ({err})"
    return ""
