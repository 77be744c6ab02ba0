"""The gate: real images, the network's answers to them in PyTorch, and how near a file's answers come."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from graftcli.errors import GateError
from graftcli.formats.options import ExportOptions, ExportSource
from graftcli.images.pixels import centre, normalise

Runner = Callable[[NDArray[Any]], NDArray[Any]]  # images as the file takes them -> logits

TOLERANCE = 1e-4  # of the largest logit, for float32
MOST_IMAGES = 1000
_BATCHES = (1, 2, 7)  # each of them is run; then the rest of the images
_LARGE_BATCH = 32


@dataclass(frozen=True)
class Match:
    """How near a file's answers come to the network's."""

    error: float  # the largest difference, as a share of the largest logit of its batch
    agreement: float
    images: int


@dataclass(frozen=True)
class ParityCheck:
    """Batches as a file takes them, each with the logits that the network gives in PyTorch."""

    questions: tuple[tuple[NDArray[Any], NDArray[Any]], ...]

    def taken(self, run: Runner) -> Match:
        """What a file makes of it."""
        error, same, images = 0.0, 0, 0
        for shown, wanted in self.questions:
            given = np.asarray(run(shown), dtype=np.float32)
            if given.shape != wanted.shape or not np.isfinite(given).all():
                return Match(float("inf"), 0.0, sum(len(logits) for _, logits in self.questions))
            error = max(error, float(np.abs(given - wanted).max() / max(np.abs(wanted).max(), 1e-12)))
            same += int((given.argmax(1) == wanted.argmax(1)).sum())
            images += len(wanted)
        return Match(error, same / images, images)

    def short(self, images: int) -> "ParityCheck":
        """The last of the questions, with about so many images."""
        chosen: list[tuple[NDArray[Any], NDArray[Any]]] = []
        for question in reversed(self.questions):
            chosen.append(question)
            if sum(len(logits) for _, logits in chosen) >= images:
                break
        return ParityCheck(tuple(chosen))


@torch.no_grad()
def examine(subject: ExportSource, form: ExportOptions) -> ParityCheck:
    """Questions at batch 1, 2 and 7, and with the other images; a static file's all at its own batch."""
    questions = [_question(subject, form, part) for part in _parts(subject.images[:MOST_IMAGES], form.static)]
    if form.dynamic_size:
        questions += [_question(subject, form, part, larger=True) for part in _parts(subject.images[:3], True)]
    return ParityCheck(tuple(questions))


def _parts(images: Tensor, single: bool) -> Iterator[Tensor]:
    if single:
        yield from images.split(1)
        return
    start = 0
    for size in _BATCHES:
        yield images[torch.arange(start, start + size) % len(images)]  # few images are asked of again
        start += size
    yield from (part for part in images[start:].split(_LARGE_BATCH) if len(part))


def _question(
    subject: ExportSource, form: ExportOptions, images: Tensor, larger: bool = False
) -> tuple[NDArray[Any], NDArray[Any]]:
    cropped = centre(images, subject.preprocess)
    if larger:
        size = [side // 32 * 32 + 64 for side in cropped.shape[2:]]
        cropped = F.interpolate(cropped.float(), size, mode="bilinear").round().to(torch.uint8)
    wanted = _answered(subject, cropped)
    if not isinstance(wanted, Tensor) or wanted.ndim != 2:
        raise GateError(
            f"`{type(subject.module).__name__}` gives no logits [images, classes].", "Export a network that classifies."
        )
    if not bool(torch.isfinite(wanted).all()):
        raise GateError("the network gives logits that are no numbers.", "Check its weights: nothing was written.")
    return subject.shown(cropped, form).numpy(), wanted.numpy()


def _answered(subject: ExportSource, cropped: Tensor) -> object:
    """What the network says; GateError where it does not take images of another size than its own."""
    try:
        return subject.module(normalise(cropped, subject.preprocess))
    except Exception as error:
        size = "x".join(map(str, cropped.shape[2:]))
        if tuple(cropped.shape[2:]) == subject.preprocess.size:
            raise
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise GateError(f"the network takes no images of {size}: {reason}.", "Leave out --dynamic-size.") from error


def check(match: Match, form: ExportOptions, noise: bool) -> None:
    """Whether a file is as near to the network as its precision has to be; GateError where it is not."""
    near = match.error <= TOLERANCE or form.precision != "fp32"
    if near and match.agreement >= form.least_agreement:
        return
    what = "images of noise" if noise else "images"
    found = (
        f"the {form.precision} file answers as PyTorch does on {match.agreement:.2%} of {match.images} {what}, where"
        f" {form.least_agreement:.2%} is asked; its logits differ by {match.error:.1e} of the largest"
        + (f", where {TOLERANCE:.0e} is allowed." if form.precision == "fp32" else ".")
    )
    raise GateError(found, f"Nothing was written. {_mend(form, near)}")


def _mend(form: ExportOptions, near: bool) -> str:
    """What can be done about a file whose logits are near to the network's, or not."""
    if form.precision != "fp32":
        return "Lower --min-agreement, or take a higher --precision."
    if near and form.min_agreement is not None:
        return "Lower --min-agreement."
    return "Try another --opset." if form.format == "onnx" else "Take --format onnx."
