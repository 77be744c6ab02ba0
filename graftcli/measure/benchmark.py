"""The ladder: the same task, from the teacher in PyTorch down to an int8 file, one rung below the other.

A rung is a network that is run by PyTorch or by onnxruntime, on the CPU. `ladder` measures all of them together: their
latencies in turns, their answers on the same images.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from graftcli.errors import CheckpointError
from graftcli.images.pixels import Preprocess, centre, normalise
from graftcli.measure import accuracy, likeness, size_of
from graftcli.measure.latency import Latency, in_turns
from graftcli.models.cuts.plan import count_parameters

SECONDS = 3.0  # of measuring, for each rung and batch
_ANSWERED = 64  # images computed at once where nothing is timed
_NUMBERS = 64 * 3 * 224 * 224  # that these images have, at most


class Runner(Protocol):
    """What runs a network: `ready` turns pixels into its input, outside the clock; `run` gives the logits, `seconds`
    how long one run takes."""

    @property
    def batch(self) -> int | None: ...  # the only one it takes; None: any

    def ready(self, pixels: Tensor, preprocess: Preprocess) -> Any: ...
    def run(self, given: Any) -> NDArray[Any]: ...
    def seconds(self, given: Any) -> float: ...


@dataclass(frozen=True)
class Candidate:
    """One network as it would be shipped."""

    name: str
    format: str  # pytorch, onnx
    precision: str  # fp32, fp16, bf16, int8
    bytes: int
    params: int
    macs: int | None
    size: tuple[int, int, int]  # channels, height and width of its input
    runner: Runner
    preprocess: Preprocess | None = None  # how it wants pixels normalised; None: as the ladder does


@dataclass(frozen=True)
class BenchEntry:
    """A rung and what was measured of it. Ratios are to the first rung, which is the teacher where there is one."""

    name: str
    format: str
    precision: str
    bytes: int
    params: int
    macs: int | None
    latency_ms: dict[str, Latency]  # by the batch
    images_per_second: float | None  # at the largest batch measured
    ratio: float | None  # how many times faster than the first rung on one image
    agreement: float | None  # with the first rung's answers
    top1: float | None
    images: int  # on which agreement and top1 were measured
    threads: int


class _Module:
    batch: int | None = None

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval().cpu()

    def ready(self, pixels: Tensor, preprocess: Preprocess) -> Tensor:
        return normalise(pixels, preprocess)

    def run(self, given: Tensor) -> NDArray[Any]:
        with torch.inference_mode():
            return self.module(given).numpy()  # type: ignore[no-any-return]

    def seconds(self, given: Tensor) -> float:
        began = time.perf_counter()
        self.run(given)
        return time.perf_counter() - began


def of_module(name: str, module: nn.Module, size: tuple[int, int, int], *, bytes_: int | None = None) -> Candidate:
    """A rung that PyTorch runs as it is: eval mode, float32, no gradients, the layout that it was loaded with."""
    module = module.eval().cpu()
    stored = bytes_ if bytes_ is not None else size_of(module)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, *size))
    macs = counter.get_total_flops() // 2
    return Candidate(name, "pytorch", "fp32", stored, count_parameters(module), macs, size, _Module(module))


def ladder(
    rungs: Sequence[Candidate],
    pixels: Tensor,
    preprocess: Preprocess,
    *,
    labels: Tensor | None = None,
    compared: bool = True,
    batch: int = 32,
    threads: int = 1,
    seconds: float = SECONDS,
    told: Callable[[int, float], None] = lambda *_: None,
) -> tuple[BenchEntry, ...]:
    """Every rung measured on the same images, uint8 [images, channels, height, width], beside the first.

    `preprocess` says how images are cropped, and how they are normalised for a candidate that does not say it itself.
    `compared` is False where the images are noise: then only time is measured. Sessions keep the threads that they were
    made with; PyTorch gets `threads` while this runs. `told` is called with the batch and the share of it that is done.
    """
    if double := {rung.name for rung in rungs if [other.name for other in rungs].count(rung.name) > 1}:
        raise ValueError(f"rungs of one name: {sorted(double)}")
    pixels = centre(pixels, preprocess)
    with _threads(threads):
        times = {size: _timed(rungs, pixels, preprocess, size, seconds, told) for size in sorted({1, batch})}
        said = [answers(rung, pixels, rung.preprocess or preprocess) if compared else None for rung in rungs]
    first = times[1].get(rungs[0].name)
    return tuple(
        _measured(rung, times, first, answer, said[0], labels, threads)
        for rung, answer in zip(rungs, said, strict=True)
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timed(
    rungs: Sequence[Candidate],
    pixels: Tensor,
    preprocess: Preprocess,
    batch: int,
    seconds: float,
    told: Callable[[int, float], None],
) -> dict[str, Latency]:
    """The latency of each rung that takes this batch."""
    works = {}
    for rung in rungs:
        if rung.runner.batch in (None, batch):
            works[rung.name] = _ready(rung.runner, _repeated(pixels, batch), rung.preprocess or preprocess)
    return in_turns(works, seconds, lambda share: told(batch, share)) if works else {}


def _ready(runner: Runner, pixels: Tensor, preprocess: Preprocess) -> Callable[[], float]:
    given = runner.ready(pixels, preprocess)
    return lambda: runner.seconds(given)


def _repeated(pixels: Tensor, count: int) -> Tensor:
    """The first `count` images, from the start again where there are fewer."""
    return pixels[torch.arange(count) % len(pixels)]


def answers(rung: Candidate, pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """The logits of all images, which are of the network's size.

    A static batch is filled up, and the filling's answers are left away. Large images are given fewer at once.
    """
    runner = rung.runner
    step = runner.batch or max(1, min(_ANSWERED, _NUMBERS // math.prod(rung.size)))
    parts: list[Tensor] = []
    for part in pixels.split(step):
        given = _repeated(part, step) if runner.batch else part
        logits = torch.from_numpy(np.array(runner.run(runner.ready(given, preprocess)), np.float32))
        _check_logits(rung.name, logits, len(given), parts[0].shape[1] if parts else None)
        parts.append(logits[: len(part)])
    return torch.cat(parts)


def _check_logits(name: str, logits: Tensor, images: int, classes: int | None) -> None:
    """One row of logits for each image, as long as those before, and all of them numbers."""
    if logits.ndim != 2 or len(logits) != images or not logits.shape[1] or classes not in (None, logits.shape[1]):
        shape, wanted = "x".join(map(str, logits.shape)), f"{images}x{classes or 'classes'}"
        found = f"`{name}` gives {shape or 'one number'} for {images} images; logits are {wanted}."
        raise CheckpointError(found, "Give a network that classifies images.")
    if bad := int(logits.isnan().any(1).sum()):
        found = f"`{name}` gives NaN as logits for {bad} of {images} images."
        raise CheckpointError(found, "Check its weights, and the mean and std that it is given images with.")


def _measured(
    rung: Candidate,
    times: dict[int, dict[str, Latency]],
    first: Latency | None,
    said: Tensor | None,
    teacher: Tensor | None,
    labels: Tensor | None,
    threads: int,
) -> BenchEntry:
    found = {size: timed[rung.name] for size, timed in times.items() if rung.name in timed}
    largest = max(found, default=0)
    alike = said is not None and teacher is not None and said.shape == teacher.shape
    return BenchEntry(
        name=rung.name,
        format=rung.format,
        precision=rung.precision,
        bytes=rung.bytes,
        params=rung.params,
        macs=rung.macs,
        latency_ms={str(size): latency for size, latency in found.items()},
        images_per_second=1e3 * largest / found[largest].median if found else None,
        ratio=first.median / found[1].median if first and 1 in found else None,
        agreement=likeness(said, teacher).agreement.share if alike else None,  # type: ignore[arg-type]
        top1=accuracy(said, labels).top1.share if said is not None and labels is not None else None,
        images=len(said) if said is not None else 0,
        threads=threads,
    )


def ladder_json(rungs: Sequence[BenchEntry]) -> list[dict[str, Any]]:
    """What bench.json holds."""
    return [asdict(rung) for rung in rungs]
