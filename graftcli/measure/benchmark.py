"""Benchmark candidates on the CPU: latency, throughput, agreement with the first candidate, and accuracy.

A candidate is a network that PyTorch or onnxruntime runs. All are measured together: latencies in turns, logits on the
same images.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftcli.errors import CheckpointError
from graftcli.images.pixels import Preprocess, center_crop
from graftcli.measure import accuracy, agreement
from graftcli.measure.candidate import Candidate
from graftcli.measure.latency import Latency, measure_latencies

SECONDS = 3.0  # per candidate and batch size
_MAX_BATCH = 64  # images per forward pass when nothing is timed
_MAX_VALUES = 64 * 3 * 224 * 224  # input values of such a batch


@dataclass(frozen=True)
class BenchImages:
    """The images that every candidate is measured on."""

    pixels: Tensor  # uint8 [images, channels, height, width]
    preprocess: Preprocess  # how they are cropped, and normalised for a candidate without its own `preprocess`
    labels: Tensor | None = None  # class indices, for `top1`
    noise: bool = False  # whether they are noise, so that only latencies are measured


@dataclass(frozen=True)
class BenchEntry:
    """The measurements of a candidate, relative to the first one, which is the teacher if there is one."""

    name: str
    format: str
    precision: str
    bytes: int
    params: int
    macs: int | None
    latency_ms: dict[str, Latency]  # by batch size
    images_per_second: float | None  # at the largest batch size
    ratio: float | None  # speed-up over the first candidate at batch size 1
    agreement: float | None  # with the first candidate
    top1: float | None
    images: int  # for agreement and top1
    threads: int


def benchmark(
    candidates: Sequence[Candidate],
    images: BenchImages,
    *,
    batch: int = 32,
    threads: int = 1,
    seconds: float = SECONDS,
    on_progress: Callable[[int, float], None] = lambda *_: None,
) -> tuple[BenchEntry, ...]:
    """Measure every candidate on the same images.

    Args:
        batch: Latencies are measured at batch size 1 and at this one.
        threads: Of PyTorch. ONNX sessions keep the threads that they were created with.
        seconds: Per candidate and batch size.
        on_progress: Called with the batch size and the share of its measurements that is done.
    """
    names = [candidate.name for candidate in candidates]
    if duplicates := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"candidates with the same name: {sorted(duplicates)}")
    pixels, preprocess = center_crop(images.pixels, images.preprocess), images.preprocess
    with _torch_threads(threads):
        latencies = {
            size: _latencies(candidates, pixels, preprocess, size, seconds, on_progress) for size in sorted({1, batch})
        }
        logits = [
            None if images.noise else candidate_logits(candidate, pixels, candidate.preprocess or preprocess)
            for candidate in candidates
        ]
    first = latencies[1].get(candidates[0].name)
    return tuple(
        _entry(candidate, latencies, first, own_logits, logits[0], images.labels, threads)
        for candidate, own_logits in zip(candidates, logits, strict=True)
    )


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _latencies(
    candidates: Sequence[Candidate],
    pixels: Tensor,
    preprocess: Preprocess,
    batch: int,
    seconds: float,
    on_progress: Callable[[int, float], None],
) -> dict[str, Latency]:
    """The latency of each candidate that accepts this batch size."""
    runs = {
        candidate.name: candidate.runner.prepare(_repeat(pixels, batch), candidate.preprocess or preprocess).seconds
        for candidate in candidates
        if candidate.runner.batch in (None, batch)
    }
    return measure_latencies(runs, seconds, lambda share: on_progress(batch, share)) if runs else {}


def _repeat(pixels: Tensor, count: int) -> Tensor:
    """The first `count` images, repeated if there are fewer."""
    return pixels[torch.arange(count) % len(pixels)]


def candidate_logits(candidate: Candidate, pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """The logits of all images, which have the network's input size.

    The last batch is padded for a fixed batch size. Batches of large images are smaller.
    """
    runner = candidate.runner
    batch = runner.batch or max(1, min(_MAX_BATCH, _MAX_VALUES // math.prod(candidate.size)))
    chunks: list[Tensor] = []
    for chunk in pixels.split(batch):
        images = _repeat(chunk, batch) if runner.batch else chunk
        logits = torch.from_numpy(np.array(runner.prepare(images, preprocess).run(), np.float32))
        _check_logits(candidate.name, logits, len(images), chunks[0].shape[1] if chunks else None)
        chunks.append(logits[: len(chunk)])
    return torch.cat(chunks)


def _check_logits(name: str, logits: Tensor, images: int, classes: int | None) -> None:
    """Raise CheckpointError unless there is one row of `classes` logits per image, without NaN."""
    if logits.ndim != 2 or len(logits) != images or not logits.shape[1] or classes not in (None, logits.shape[1]):
        shape, expected = "x".join(map(str, logits.shape)), f"{images}x{classes or 'classes'}"
        message = f"`{name}` returns {shape or 'a scalar'} for {images} images; logits are {expected}."
        raise CheckpointError(message, "Give a network that classifies images.")
    if count := int(logits.isnan().any(1).sum()):
        message = f"`{name}` returns NaN logits for {count} of {images} images."
        raise CheckpointError(message, "Check its weights, and its mean and std.")


def _entry(
    candidate: Candidate,
    latencies: dict[int, dict[str, Latency]],
    first: Latency | None,
    logits: Tensor | None,
    first_logits: Tensor | None,
    labels: Tensor | None,
    threads: int,
) -> BenchEntry:
    by_batch = {size: found[candidate.name] for size, found in latencies.items() if candidate.name in found}
    largest = max(by_batch, default=0)
    comparable = logits is not None and first_logits is not None and logits.shape == first_logits.shape
    return BenchEntry(
        name=candidate.name,
        format=candidate.format,
        precision=candidate.precision,
        bytes=candidate.bytes,
        params=candidate.params,
        macs=candidate.macs,
        latency_ms={str(size): latency for size, latency in by_batch.items()},
        images_per_second=1e3 * largest / by_batch[largest].median if by_batch else None,
        ratio=first.median / by_batch[1].median if first and 1 in by_batch else None,
        agreement=agreement(logits, first_logits).agreement.share if comparable else None,  # type: ignore[arg-type]
        top1=accuracy(logits, labels).top1.share if logits is not None and labels is not None else None,
        images=len(logits) if logits is not None else 0,
        threads=threads,
    )


def entries_as_json(entries: Sequence[BenchEntry]) -> list[dict[str, Any]]:
    """The content of bench.json."""
    return [asdict(entry) for entry in entries]
