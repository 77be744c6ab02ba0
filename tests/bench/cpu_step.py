"""Images per CPU second of training steps in bfloat16 on one thread: PyTorch's autocast against graftcli's.

    python tests/bench/cpu_step.py    networks with depthwise convolutions, and two without
    THP_MEM_ALLOC_ENABLE=1 python tests/bench/cpu_step.py    the same with huge pages, as the command uses them
    python tests/bench/cpu_step.py --kernels    convolutions on small maps against unfold and a product

A step is forward, loss and backward of the whole network with BatchNorm in train mode and random weights. Both ways
take turns, and the fastest of `--rounds` counts.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from graftcli.graft.backend.precision import Precision
from tests.nets import resnet

NETWORKS = (  # name, image size, batch
    ("tf_efficientnet_lite0", 224, 16),
    ("tf_efficientnet_lite0", 96, 32),
    ("mobilenetv2_100", 224, 16),
    ("mobilenetv3_large_100", 224, 16),
    ("efficientnet_b0", 224, 16),
    ("ghostnet_100", 224, 16),
    ("convnext_atto", 224, 16),
    ("resnet18", 224, 16),
    ("resnet20", 32, 64),
)
MAPS = ((128, 16), (256, 8), (512, 4), (512, 2), (64, 8))  # channels, height and width


def main() -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--only", nargs="*", help="networks of the table")
    parser.add_argument("--kernels", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.kernels:
        for dtype in (torch.float32, torch.bfloat16):
            for channels, size in MAPS:
                print(kernel_row(channels, size, dtype, arguments.rounds), flush=True)
        return
    for name, size, batch in NETWORKS:
        if not arguments.only or name in arguments.only:
            print(step_row(name, size, batch, arguments.rounds), flush=True)


def step_row(name: str, size: int, batch: int, rounds: int) -> str:
    """Images per CPU second of a network, with autocast alone and with the faster gradients."""
    network = resnet(depth=20) if name == "resnet20" else timm.create_model(name)
    network = network.to(memory_format=torch.channels_last).train()
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    precision = Precision(torch.device("cpu"), amp=True)

    def plain() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            output = network(images)
        backward(network, output)

    def fast() -> None:
        with precision.autocast():
            output = network(images)
        backward(network, output)

    before, after = fastest((plain, fast), rounds)
    return f"{name} at {size}: {batch / before:.1f} -> {batch / after:.1f} images/s, {before / after:.2f}x"


def backward(network: nn.Module, output: Tensor) -> None:
    """The gradients of a loss of the output."""
    output.float().square().mean().backward()
    network.zero_grad()


def kernel_row(channels: int, size: int, dtype: torch.dtype, rounds: int) -> str:
    """Billions of operations per second of a 3x3 convolution, batch 64: PyTorch's kernels, and a matrix product."""
    images = torch.randn(64, channels, size, size, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    gradient = torch.randn_like(images)
    rows, flat = gradient.permute(0, 2, 3, 1).reshape(-1, channels), weight.permute(0, 2, 3, 1).reshape(channels, -1)

    def gradients(wanted: list[bool]) -> Callable[[], object]:
        geometry = None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1
        return lambda: torch.ops.aten.convolution_backward(gradient, images, weight, *geometry, wanted)

    ways = {
        "forward": lambda: F.conv2d(images, weight, padding=1),
        "input gradient": gradients([True, False, False]),
        "weight gradient": gradients([False, True, False]),
        "forward by unfold": lambda: unfolded(images) @ flat.t(),
        "weight gradient by unfold": lambda: rows.t() @ unfolded(images),
    }
    work = 2 * 64 * channels * channels * 9 * size * size
    figures = zip(ways, fastest(tuple(ways.values()), rounds), strict=True)
    rates = ", ".join(f"{way} {work / seconds / 1e9:.0f}" for way, seconds in figures)
    return f"{str(dtype).removeprefix('torch.')}, {channels} channels, {size}x{size}: {rates}"


def unfolded(images: Tensor) -> Tensor:
    """The 3x3 neighbourhoods of all pixels, a row each."""
    padded = F.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1).contiguous()
    count, height, width, channels = padded.shape
    windows = padded.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3)
    return windows.reshape(count * (height - 2) * (width - 2), 9 * channels)


def fastest(ways: tuple[Callable[[], object], ...], rounds: int) -> list[float]:
    """The least CPU seconds of each way, over calls that take turns."""
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds + 1):
        for taken, way in zip(seconds, ways, strict=True):
            start = time.process_time()
            way()
            taken.append(time.process_time() - start)
    return [min(taken[1:]) for taken in seconds]


if __name__ == "__main__":
    main()
