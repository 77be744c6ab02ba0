"""The parity gate: compare the logits of an exported file with those of PyTorch on real images."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from graftcli.errors import GateError
from graftcli.formats.match import Array, Match, ParityCheck
from graftcli.formats.options import DEFAULT_FORMAT, ExportOptions, ExportSource
from graftcli.images.pixels import center_crop, normalise

TOLERANCE = 1e-4  # relative to the largest logit, for float32
MAX_IMAGES = 1000
_BATCHES = (1, 2, 7)  # the remaining images follow in batches of _LARGE_BATCH
_LARGE_BATCH = 32


@torch.no_grad()
def parity_check(source: ExportSource, options: ExportOptions) -> ParityCheck:
    """Compute the expected logits, at batch sizes 1, 2, 7 and 32; for a static file, at batch size 1."""
    batches = [_batch(source, options, images) for images in _split(source.images[:MAX_IMAGES], options.static)]
    if options.dynamic_size:
        batches += [_batch(source, options, images, larger=True) for images in _split(source.images[:3], True)]
    return ParityCheck(tuple(batches))


def _split(images: Tensor, single: bool) -> Iterator[Tensor]:
    if single:
        yield from images.split(1)
        return
    start = 0
    for size in _BATCHES:
        yield images[torch.arange(start, start + size) % len(images)]  # few images are repeated
        start += size
    yield from (chunk for chunk in images[start:].split(_LARGE_BATCH) if len(chunk))


def _batch(source: ExportSource, options: ExportOptions, images: Tensor, larger: bool = False) -> tuple[Array, Array]:
    cropped = center_crop(images, source.preprocess)
    if larger:
        size = [side // 32 * 32 + 64 for side in cropped.shape[2:]]
        cropped = F.interpolate(cropped.float(), size, mode="bilinear").round().to(torch.uint8)
    logits = _pytorch_output(source, cropped)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        name = type(source.module).__name__
        raise GateError(f"`{name}` does not return logits [images, classes].", "Export a network that classifies.")
    if not bool(torch.isfinite(logits).all()):
        raise GateError("the network returns NaN or infinite logits.", "Nothing was written. Check its weights.")
    return source.to_inputs(cropped, options).numpy(), logits.numpy()


def _pytorch_output(source: ExportSource, cropped: Tensor) -> object:
    """The output of the network; raises GateError if it does not accept this image size."""
    try:
        return source.module(normalise(cropped, source.preprocess))
    except Exception as error:
        size = "x".join(map(str, cropped.shape[2:]))
        if tuple(cropped.shape[2:]) == source.preprocess.size:
            raise
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise GateError(f"the network does not accept images of {size}: {reason}.", "Remove --dynamic-size.") from error


def check_match(match: Match, options: ExportOptions, noise: bool) -> None:
    """Raise GateError unless a file matches PyTorch as closely as its precision requires."""
    is_close = match.error <= TOLERANCE or options.precision != "fp32"
    if is_close and match.agreement >= options.required_agreement:
        return
    images = "noise images" if noise else "images"
    message = (
        f"the {options.precision} file agrees with PyTorch on {match.agreement:.2%} of {match.images} {images};"
        f" {options.required_agreement:.2%} is required. Its logits differ by {match.error:.1e} of the largest"
        + (f"; {TOLERANCE:.0e} is allowed." if options.precision == "fp32" else ".")
    )
    raise GateError(message, f"Nothing was written. {_fix(options, is_close)}")


def _fix(options: ExportOptions, is_close: bool) -> str:
    if options.precision != "fp32":
        return "Lower --min-agreement, or use a higher --precision."
    if is_close and options.min_agreement is not None:
        return "Lower --min-agreement."
    return "Try another --opset." if options.kind.has_opset else f"Use --format {DEFAULT_FORMAT}."
