"""Load pretrained weights from the cache or the internet; every failure is one CheckpointError."""

import io
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace

import timm
from huggingface_hub import constants
from timm.models import adapt_input_conv
from torch import Tensor
from torchvision.models import WeightsEnum

from graftcli.errors import CheckpointError
from graftcli.models.loading import from_timm
from graftcli.models.loading.checkpoint import CheckpointMatch, TensorState, load_into, match, refusal
from graftcli.models.loading.from_timm import TimmSettings
from graftcli.models.network import Network, checkpoint_flag
from graftcli.models.weights import Weights, WeightsOrigin

TIMEOUT = 10.0  # seconds to wait for a response


def hub_settings(repo: str, role: str) -> TimmSettings:
    """The settings of `hf-hub:repo`; downloads its config.json if it is not cached."""
    fix = f"Download the repository and name its folder: --{role} local-dir:path."
    with _fetching(f"The config.json of `hf-hub:{repo}`", fix, hub=True):
        return from_timm.on_hub(repo)


def timm_weights(network: Network, settings: TimmSettings, role: str) -> Network:
    """Load timm's pretrained weights."""
    where = settings.pretrained.get("hf_hub_id") or settings.pretrained.get("url")
    if not where:
        raise CheckpointError(f"timm has no pretrained weights for `{network.name}`.", _fix(network.name, role))
    notes = _new_classifier(network, settings.defaults[0], role)
    channels = settings.defaults[1]
    hub = "hf_hub_id" in settings.pretrained
    with _fetching(f"The pretrained weights of `{network.name}` ({where})", _fix(network.name, role), hub):
        assert network.origin["kind"] == "timm"  # as `from_timm.network` has made it
        options = {**network.origin["kwargs"], "pretrained_cfg": dict(settings.pretrained)}
        module = timm.create_model(network.name, pretrained=True, **options)
    adaptation = [] if channels == network.input_size[0] else [_adaptation_note(channels, network)]
    return replace(
        network, module=module.eval(), weights=Weights(WeightsOrigin.PRETRAINED, str(where), (*adaptation, *notes))
    )


def torchvision_weights(network: Network, entry: WeightsEnum, role: str) -> Network:
    """Load the pretrained weights `entry` of torchvision."""
    notes = _new_classifier(network, len(entry.meta["categories"]), role)
    with _fetching(f"The pretrained weights of `{network.name}` ({entry.url})", _fix(network.name, role), hub=False):
        tensors = entry.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    matched = match(TensorState(tensors), network.module)
    adapted = {
        name: adapt_input_conv(expected.shape[1], tensor)
        for name, (expected, tensor) in _first_convolutions(matched).items()
    }
    matched = match(TensorState({**tensors, **adapted}), network.module)
    classifier_shape = (network.num_classes,) if notes else ()
    mismatched = [name for name, (expected, _) in matched.differing.items() if expected.shape[:1] != classifier_shape]
    if matched.missing or matched.extra or mismatched:
        raise refusal(matched, entry.url, network.name)
    load_into(network.module, matched, entry.url)
    adaptation = [_adaptation_note(3, network)] if adapted else []
    return replace(network, weights=Weights(WeightsOrigin.PRETRAINED, entry.name, (*adaptation, *notes)))


def _first_convolutions(matched: CheckpointMatch) -> Mapping[str, tuple[Tensor, Tensor]]:
    """The tensors of first convolutions with a different number of input channels; no position embeddings."""
    pairs = matched.differing.items()
    return {
        name: (expected, tensor)
        for name, (expected, tensor) in pairs
        if expected.ndim == 4 and expected.shape[0] == tensor.shape[0]
    }


def _adaptation_note(channels: int, network: Network) -> str:
    return f"first convolution adapted from {channels} to {network.input_size[0]} channels"


def _new_classifier(network: Network, classes: int, role: str) -> list[str]:
    """A note if a student gets a new classifier; any other network must keep its pretrained classifier."""
    if network.num_classes == classes:
        return []
    if role == "student":
        return [f"new classifier with {network.num_classes} classes"]
    message = f"The pretrained weights of `{network.name}` have {classes:,} classes, not {network.num_classes:,}."
    raise CheckpointError(
        message, f"Remove --num-classes, or give trained weights: {checkpoint_flag(role)} {network.name}.pth."
    )


def _fix(name: str, role: str) -> str:
    return f"Give a weights file: {checkpoint_flag(role)} {name}.pth (or `none` for random weights)."


@contextmanager
def _fetching(what: str, fix: str, hub: bool) -> Iterator[None]:
    """A context for downloads: wait at most `TIMEOUT` seconds for a response, print nothing, raise one error."""
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
        message = str(getattr(err, "reason", err)).strip().split("\n")[0] or type(err).__name__
        if isinstance(err, OSError):
            raise CheckpointError(f"{what} cannot be downloaded: {(reason or message).rstrip('.')}.", fix) from err
        raise CheckpointError(f"{what} cannot be read from the cache: {message.rstrip('.')}.", fix) from err


@contextmanager
def _socket_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torch.hub sets no timeout
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _hub_offline() -> Iterator[None]:
    """Use only the cache of the Hugging Face Hub, which retries for a minute without a network."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _unreachable(url: str) -> str:
    """Why `url` is unreachable; empty if any server responds, even with an error."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return ""
    except urllib.error.URLError as err:
        return "" if isinstance(err.reason, ssl.SSLError) else f"{url} does not respond ({err.reason})"
    except OSError as err:
        return f"{url} does not respond ({err})"
    return ""
