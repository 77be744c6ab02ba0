"""The candidates of a benchmark: networks as they would be deployed, each with its runtime."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from graftcli.images.pixels import Preprocess, normalise
from graftcli.measure import model_size
from graftcli.models.cuts.plan import count_parameters

Array = NDArray[np.generic]


@dataclass(frozen=True)
class PreparedInput:
    """A batch in the form that the network takes."""

    run: Callable[[], Array]  # the logits
    seconds: Callable[[], float]  # the seconds of one run


class Runner(Protocol):
    """Runs a network."""

    @property
    def batch(self) -> int | None:
        """The fixed batch size; None: any."""

    def prepare(self, pixels: Tensor, preprocess: Preprocess) -> PreparedInput:
        """Turn pixels into the network's input; this is not timed."""


@dataclass(frozen=True)
class Candidate:
    """A network to benchmark, as it would be deployed."""

    name: str
    format: str  # pytorch, onnx
    precision: str  # fp32, fp16, bf16, int8
    bytes: int
    params: int
    macs: int | None
    size: tuple[int, int, int]  # input channels, height, width
    runner: Runner
    preprocess: Preprocess | None = None  # its normalisation; None: that of the benchmark


class _ModuleRunner:
    batch: int | None = None

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval().cpu()

    def prepare(self, pixels: Tensor, preprocess: Preprocess) -> PreparedInput:
        inputs = normalise(pixels, preprocess)
        return PreparedInput(partial(self._run, inputs), partial(self._seconds, inputs))

    def _run(self, inputs: Tensor) -> Array:
        with torch.inference_mode():
            logits: Array = self.module(inputs).numpy()
        return logits

    def _seconds(self, inputs: Tensor) -> float:
        start = time.perf_counter()
        self._run(inputs)
        return time.perf_counter() - start


def module_candidate(
    name: str, module: nn.Module, size: tuple[int, int, int], *, bytes_: int | None = None
) -> Candidate:
    """A candidate that PyTorch runs in eval mode and float32, in the memory format it was loaded with.

    `bytes_` is the size of its file; by default, of its state dict.
    """
    module = module.eval().cpu()
    stored = bytes_ if bytes_ is not None else model_size(module)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, *size))
    macs = counter.get_total_flops() // 2
    return Candidate(name, "pytorch", "fp32", stored, count_parameters(module), macs, size, _ModuleRunner(module))
