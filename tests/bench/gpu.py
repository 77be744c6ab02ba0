"""What a GPU does: views/s, images/s of each stage, share of time in kernels, and a whole run on 10,000 images.

    python tests/bench/gpu.py                  # needs a CUDA device, and says so where there is none
    python tests/bench/gpu.py --images 1000 --steps-scale 0.1

resnet34 -> resnet18 at 224 pixels with random weights on images of noise: what is measured does not depend on either.
The figures go into recipes/results/gpu.md with the name of the device.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

import graftcli
from graftcli.events import Event, TaskFinished, TaskStarted
from graftcli.graft.backend.memory_format import set_channels_last_pieces
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.chunking import chunk_size
from graftcli.graft.data.teacher_cache import TeacherCache
from graftcli.graft.data.views import Views, plain
from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.pieces import pieces
from graftcli.graft.training.tasks import Task, tasks, teacher_values
from graftcli.graft.training.trainer import BlockTrainer, TrainContext
from graftcli.images import Preprocess
from graftcli.recipe.file import load as load_recipe
from graftcli.store.cache_files import Cache

PREPROCESS = Preprocess((224, 224), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875, "bilinear")
TEACHER, STUDENT = "torchvision:resnet34", "torchvision:resnet18"
VIEWS, STEPS, WARM_UP = 4096, 100, 20


class Unkept:
    """A task whose state nobody keeps."""

    state = None

    def keep(self, step: int, state: object) -> None: ...


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The seconds of one call, with the device's work finished."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def kernel_share(work: Callable[[], object], repeats: int) -> float:
    """The share of the time in which the device runs a kernel."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        torch.cuda.synchronize()
        elapsed = time.perf_counter() - began
    return float(sum(event.self_device_time_total for event in profiler.key_averages())) / 1e6 / elapsed


def noise(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, *PREPROCESS.stored_size), dtype=torch.uint8, generator=generator)


def context(device: torch.device, folder: Path, *, compiled: bool) -> tuple[list[Task], TrainContext]:
    """The tasks of the default recipe, and what they are trained with, on the device."""
    recipe, plan = load_recipe("graft"), graftcli.plan(TEACHER, STUDENT)
    both = pieces(plan, seams(plan, recipe.adapters.where))
    for piece in (*both.teacher, *both.student):
        piece.to(device)
    pixels = noise(256).to(device)
    set_channels_last_pieces(both, plain(pixels[:2], PREPROCESS))
    views = Views(pixels, PREPROCESS, recipe.views.augment, VIEWS // len(pixels), 0, device=device)
    precision = Precision(device, amp=True, compile=compiled)
    chosen = tasks(recipe, both.blocks, range(1, both.blocks + 1))
    values = {value for task in chosen for value in teacher_values(task, both)}
    cache = TeacherCache(
        views,
        both.teacher,
        both.shapes,
        dict.fromkeys(values, "device"),
        cache=Cache(folder),
        chunk=chunk_size(both.shapes, device),
        precision=precision,
    )
    cache.fill(values, lambda *_: None)
    return chosen, TrainContext(both, cache, len(pixels), 0, precision)


def steps(device: torch.device, folder: Path) -> None:
    """Print what a view and a step of each task take."""
    chosen, given = context(device, folder, compiled=False)
    views = given.teacher_cache.views
    index = torch.arange(256)
    views.normalised(index)
    print(f"| views at 224 px | {256 / seconds(lambda: views.normalised(index), 20):,.0f} views/s | |")
    for compiled in (False, True):
        if compiled:
            chosen, given = context(device, folder, compiled=True)
        for task in chosen:
            trainer = BlockTrainer(task, given, Unkept())

            def step(trainer: BlockTrainer = trainer) -> None:
                trainer.step(trainer.compute_loss())

            seconds(step, WARM_UP)
            speed, share = trainer.batch / seconds(step, STEPS), kernel_share(step, 20)
            print(f"| {task.name}{', compiled' * compiled} | {speed:,.0f} images/s | {share:.0%} |", flush=True)


def whole(count: int, scale: float, folder: Path) -> None:
    """Print the seconds of a run from images in memory to the merged student, and of its tasks."""
    images = [image for image in noise(count)]
    times: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, TaskStarted | TaskFinished):
            times.append(f"{type(event).__name__} {event.stage} {event.first}: {time.perf_counter() - began:.0f} s")

    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    graftcli.distill(
        TEACHER,
        STUDENT,
        images,
        teacher_checkpoint="none",
        img_size=224,
        steps_scale=scale,
        device="cuda",
        out=folder / "run",
        listen=listen,
    )
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(f"\n{count:,} images, {scale:g} of the steps: {time.perf_counter() - began:.0f} s, {peak:.1f} GiB")
    print("; ".join(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--steps-scale", type=float, default=1.0)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "There is no CUDA device here: nothing is measured. tests/laws/test_device.py checks what can be without."
        )
        return
    device = torch.device("cuda:0")
    with tempfile.TemporaryDirectory() as scratch:
        print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}\n")
        print("| what | speed | share of time in kernels |\n| --- | --: | --: |")
        steps(device, Path(scratch))
        whole(given.images, given.steps_scale, Path(scratch))


if __name__ == "__main__":
    main()
