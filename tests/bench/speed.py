"""How fast the engine is, in ratios: resnet56 -> resnet20, the published recipe and the default one.

    python tests/bench/speed.py                           all of it; (b) has a whole run of `netgraft` in it
    python tests/bench/speed.py --parts acde --large      10,000 images of 224 pixels too, which takes minutes

CPU seconds throughout, medians of calls that take turns; on the images of $GRAFTCLI_DATA, or on noise where there are
none.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from graftcli.environment.machine import cpu, usable_cores
from graftcli.graft.backend.batchnorm import training_mode
from graftcli.graft.backend.memory_format import set_channels_last_pieces
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.chunking import chunk_size
from graftcli.graft.data.synthetic import Synthesis
from graftcli.graft.data.teacher_cache import TeacherCache
from graftcli.graft.data.views import Views, plain
from graftcli.graft.initialize.adapters import initialize_adapters
from graftcli.graft.initialize.inherit import inherit
from graftcli.graft.schedule import schedule_of
from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.pieces import pieces
from graftcli.graft.training.tasks import Task, loss, tasks, teacher_values
from graftcli.graft.training.trainer import BlockTrainer, TrainContext
from graftcli.images import Images, Preprocess, load
from graftcli.images.pixels import decode
from graftcli.recipe import Recipe
from graftcli.recipe.file import load as load_recipe
from graftcli.store.cache_files import Cache
from tests.bench.plain import NETS, Plain, networks
from tests.bench.timing import Process, interleaved, watched

DATA = Path(os.environ.get("GRAFTCLI_DATA", "data")).absolute()
CIFAR = DATA / "cifar10"
TEACHER = CIFAR / "teachers/resnet56-4bfd9763.th"
CPU = torch.device("cpu")
PREPROCESS = Preprocess((32, 32), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1.0, "bilinear", whole=True)
PLAINLY = Path(__file__).resolve().with_name("plain.py")
PLAIN = "plain"
LITERAL = "plain, as released"
ALL_VIEWS = ("--steps-scale", "0.15")  # steps enough to see all 40,000 views of a whole run
SCALES = (0.002, 0.003, 0.005, 0.02)  # of the default recipe's steps, until it has passed `netgraft`
FILES = 200
VIEWS = 12  # of each image: what a step costs does not depend on how many are remembered
ROOM = 2**28  # for views that are drawn once, as a run has it
MADE, MADE_IN = 96, 4  # synthetic images that are timed, and steps of each


class Unkept:
    """A unit whose state nobody keeps."""

    state = None

    def keep(self, step: int, state: object) -> None:
        pass


@dataclass(frozen=True)
class Step:
    """The CPU seconds of one step of a unit."""

    recipe: str
    unit: str
    count: int  # steps that the recipe makes of it
    seconds: float
    plain: float
    literal: float  # with gradients of the teacher's weights, as the released code has them
    bare: float  # the grafted network's forward and backward alone

    @property
    def stage(self) -> str:
        return self.unit.partition("-")[0]


def training_images(folder: Path) -> Images:
    """Ten images a class, or as much noise."""
    source = CIFAR / "10shot-draw0"
    return load(source if source.is_dir() else noise(folder / "noise", 100, 32), PREPROCESS)


def noise(folder: Path, count: int, size: int) -> Path:
    """A folder of so many JPEG images, smooth ones, as photographs are."""
    folder.mkdir()
    source = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(source.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)
    return folder


# -- (a), (c): a step ---------------------------------------------------------------------------------------------


def context(recipe: Recipe, images: Images, folder: Path, how: Precision) -> tuple[TrainContext, float]:
    """What a run's tasks are trained with, made as a run makes it, and the CPU seconds of the look at one view, in
    which it is drawn."""
    plan = networks(TEACHER if TEACHER.is_file() else None)
    looked_at = plain(images.pixels[:64], PREPROCESS)
    if recipe.init in ("inherit", "least-squares"):
        inherit(plan.teacher, plan.student, looked_at)
    joined = seams(plan, recipe.adapters.where)
    both = pieces(plan, joined)
    set_channels_last_pieces(both, looked_at[:2])
    initialize_adapters(recipe.adapters.start, plan, joined, both, looked_at, 0)
    views = Views(images.pixels, PREPROCESS, recipe.views.augment, VIEWS, 0, room=ROOM)
    values = {value for task in tasks(recipe, both.blocks, (1, 2, 3)) for value in teacher_values(task, both)}
    answers = TeacherCache(
        views,
        both.teacher,
        both.shapes,
        dict.fromkeys(values, "memory"),
        cache=Cache(folder),
        chunk=chunk_size(both.shapes, CPU),
        precision=how,
    )
    began = time.process_time()
    answers.fill(values, lambda *_: None)
    return TrainContext(both, answers, len(images.pixels), 0, how), (time.process_time() - began) / len(views)


def stepping(training: BlockTrainer) -> Callable[[], None]:
    """A step that is no mark."""

    def step() -> None:
        training.step(training.compute_loss())

    return step


def bare(training: BlockTrainer) -> Callable[[], None]:
    """The grafted network's forward and backward, on tensors that lie there."""
    task, both = training.task, training.context.pieces
    index = training.order.at(0)
    features = training.context.teacher_cache.at(task.first - 1, index)
    wanted = {value: training.context.teacher_cache.at(value, index) for value in training.targets}

    def step() -> None:
        training.trainable.zero_grad()
        with training.context.precision.autocast():
            given = training.grafted(features, training.targets)
        loss(task, both, given, wanted).backward()

    return step


def step_of(recipe: Recipe, task: Task, given: TrainContext, rounds: int) -> Step:
    training = BlockTrainer(task, given, Unkept())
    views = given.teacher_cache.views.normalised(torch.arange(training.batch))
    checkpoint = TEACHER if TEACHER.is_file() else None
    written = {
        name: Plain(networks(checkpoint), task.blocks, literal=name == LITERAL).step for name in (PLAIN, LITERAL)
    }
    calls: dict[str, Callable[[], object]] = {"step": stepping(training), "bare": bare(training)}
    calls |= {name: partial(step, views) for name, step in written.items()}
    with training_mode(task.stage, training.trainable):
        taken = interleaved(calls, rounds)
    return Step(
        recipe.name,
        task.name,
        task.steps(given.images),
        taken["step"],
        taken[PLAIN],
        taken[LITERAL],
        taken["bare"],
    )


def making(recipe: Recipe, images: Images, folder: Path, how: Precision) -> tuple[int, float]:
    """How many synthetic images a run makes, and the CPU seconds of one."""
    recipe_synthetic, count = recipe.views.synthetic, schedule_of(recipe, len(images.pixels), 3).synthetic
    if recipe_synthetic is None or not count:
        return 0, 0.0
    teacher = networks(TEACHER if TEACHER.is_file() else None).teacher
    synthesis = Synthesis(teacher, PREPROCESS, how, MADE_IN)
    began = time.process_time()
    synthesis.make(images.pixels, recipe.views.augment, MADE, 0, Cache(folder), lambda *_: None)
    return count, (time.process_time() - began) / MADE / MADE_IN * recipe_synthetic.steps


def steps(images: Images, folder: Path, rounds: int, how: Precision) -> Iterator[tuple[Recipe, list[Step], float]]:
    for name in ("netgraft", "graft"):
        recipe = load_recipe(name)
        given, look = context(
            recipe, images, folder / name, how
        )  # a look that another recipe wrote down is none of its
        yield recipe, [step_of(recipe, t, given, rounds) for t in tasks(recipe, 3, (1, 2, 3))], look


def a_and_c(folder: Path, rounds: int, how: Precision) -> Iterator[str]:
    images = training_images(folder)
    yield "| recipe, unit | ms a step | plainly | as released | (a) ratios | (c) share of networks |"
    yield "| --- | --: | --: | --: | --: | --: |"
    for recipe, found, look in steps(images, folder, rounds, how):
        for one in found:
            yield row(f"`{recipe.name}` {one.unit}", [one])
        for stage in recipe.stages:
            yield row(f"**`{recipe.name}` {stage.name}, all**", [one for one in found if one.stage == stage.name])
        yield row(f"**`{recipe.name}`, all steps**", found)
        views = schedule_of(recipe, len(images.pixels), 3).total_views
        yield row(f"`{recipe.name}`, with the look at {views:,} views, {1e3 * look:.2f} ms each", found, look * views)
        count, each = making(recipe, images, folder, how)
        if count:
            name = f"`{recipe.name}`, with that and {count} synthetic images, {1e3 * each:.0f} ms each"
            yield row(name, found, look * views + count * each)


def row(name: str, found: Sequence[Step], beside: float = 0.0) -> str:
    """Several units weigh as many steps as the recipe makes of each; `beside` are seconds that belong to no step."""
    count = sum(one.count for one in found)
    each = [sum(one.count * one.seconds for one in found) + beside]
    each += [sum(one.count * getattr(one, kind) for one in found) for kind in ("plain", "literal", "bare")]
    took, plainly, literal, networks_alone = (1e3 * seconds / count for seconds in each)
    ratios = f"{plainly / took:.1f}x, {literal / took:.1f}x"
    return f"| {name} | {took:.1f} | {plainly:.1f} | {literal:.1f} | {ratios} | {networks_alone / took:.0%} |"


# -- (b), (d): whole runs -----------------------------------------------------------------------------------------


def distilling(images: Path, held_out: Path, out: Path, *more: str) -> list[str]:
    command = ["-m", "graftcli", "distill", "--images", str(images), "--val-images", str(held_out), "--crop-pct", "1"]
    return [*command, "--out", str(out), "--overwrite", "--json", *more]


def on_cifar(folder: Path, *more: str) -> tuple[Process, dict[str, float]]:
    """A run on ten images a class: what it took, and its result, with the agreement on another draw's."""
    networks_ = ["--teacher", f"{NETS}:resnet(depth=56)", "--student", f"{NETS}:resnet(depth=20)"]
    given = [*networks_, "--teacher-checkpoint", str(TEACHER), *more]
    out = folder / "run"
    process = watched(distilling(CIFAR / "10shot-draw0", CIFAR / "10shot-draw1", out, *given), folder)
    return process, json.loads((out / "run.json").read_text())["result"]


def b(folder: Path) -> Iterator[str]:
    """CPU seconds of the whole process, with imports and report, and the seconds of the run itself."""
    yield "| (b) run | agreement | CPU seconds | against `netgraft` | seconds of the run | against `netgraft` |"
    yield "| --- | --: | --: | --: | --: | --: |"
    whole, published = on_cifar(folder, "--recipe", "netgraft")
    goal, seconds = published["agreement"], published["seconds"]
    yield f"| `netgraft` | {goal:.1%} | {whole.seconds:.0f} | | {seconds:.0f} | |"
    for scale in SCALES:
        process, found = on_cifar(folder, "--steps-scale", str(scale))
        ratios = f"{whole.seconds / process.seconds:.1f}x", f"{seconds / found['seconds']:.1f}x"
        yield (
            f"| `graft --steps-scale {scale}` | {found['agreement']:.1%} | {process.seconds:.0f} | {ratios[0]}"
            f" | {found['seconds']:.0f} | {ratios[1]} |"
        )
        if found["agreement"] >= goal:
            return


def d(folder: Path) -> Iterator[str]:
    plainly = watched([str(PLAINLY), "8"], folder)
    yield "| (d) peak memory | held | own | against the plain loop |"
    yield "| --- | --: | --: | --: |"
    yield f"| plain loop | {gb(plainly.held)} | {gb(plainly.own)} | |"
    for more in (("--steps-scale", "0.01"), ALL_VIEWS):
        process, _ = on_cifar(folder, *more)
        ratios = f"{process.held / plainly.held:.2f}x, {process.own / plainly.own:.2f}x"
        yield f"| `graft {' '.join(more)}` | {gb(process.held)} | {gb(process.own)} | {ratios} |"


def large(folder: Path) -> Iterator[str]:
    """10,000 images of 224 pixels, in a run that sees each of them."""
    images, held_out = noise(folder / "many", 10_000, 224), noise(folder / "few", 16, 224)
    made = ["--teacher", "timm:test_resnet", "--teacher-checkpoint", "none", "--student", "teacher*0.5"]
    made += ["--img-size", "224", "--steps-scale", "0.0001", "--cache-gb", "2"]
    process = watched(distilling(images, held_out, folder / "run", *made), folder)
    yield ""
    yield f"10,000 images of 224 pixels, `--cache-gb 2`: {gb(process.held)} held, {gb(process.own)} of them its own."


def gb(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


# -- (e): images --------------------------------------------------------------------------------------------------


def e(folder: Path, rounds: int) -> Iterator[str]:
    yield "| (e) | images a CPU second |"
    yield "| --- | --: |"
    photographs = sorted((DATA / "imagenet/1shot").rglob("*.*g"))[:FILES] or list(
        noise(folder / "f", FILES, 400).iterdir()
    )
    small = sorted((CIFAR / "10shot-draw0").rglob("*.png")) or list(noise(folder / "g", FILES, 32).iterdir())
    wide = replace(PREPROCESS, size=(224, 224), crop_pct=0.875)
    for name, files, preprocess in (("photographs", photographs, wide), ("CIFAR-10", small, PREPROCESS)):
        data = [file.read_bytes() for file in files]
        taken = interleaved({name: partial(decode_all, data, preprocess)}, rounds, 1)[name]
        size = preprocess.stored_size[0]
        yield f"| decoding {len(data)} files, {name}, to {size} pixels | {len(data) / taken:,.0f} |"
    for recipe in ("netgraft", "graft"):
        for preprocess in (PREPROCESS, wide):
            pixels = torch.randint(0, 256, (64, 3, *preprocess.stored_size), dtype=torch.uint8)
            views = Views(pixels, preprocess, load_recipe(recipe).views.augment, 2, 0)
            index = torch.arange(64)
            taken = interleaved({recipe: partial(views.normalised, index)}, rounds)[recipe]
            yield f"| views of `{recipe}`, {preprocess.size[0]} pixels | {64 / taken:,.0f} |"


def decode_all(data: Sequence[bytes], preprocess: Preprocess) -> None:
    for one in data:
        decode(one, preprocess)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="acbde", help="which of (a) to (e); a and c are one table")
    parser.add_argument("--rounds", type=int, default=9, help="of which a time is the median")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument(
        "--amp", action="store_true", help="graftcli of a and c in bfloat16; the plain loop stays in float32"
    )
    parser.add_argument("--large", action="store_true", help="10,000 images of 224 pixels too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(
        f"{cpu().name}, {given.threads} thread{'s' * (given.threads > 1)}, PyTorch {torch.__version__}; CPU seconds.\n"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, Callable[[], Iterator[str]]] = {
            "a": lambda: a_and_c(folder, given.rounds, Precision(CPU, given.amp)),
            "b": lambda: b(folder),
            "d": lambda: d(folder),
            "e": lambda: e(folder, given.rounds),
        }
        chosen = [part for part in parts if part in given.parts.replace("c", "a")]
        for part in chosen:
            for line in parts[part]():
                print(line, flush=True)
            print()
        if given.large:
            print("\n".join(large(folder)))


if __name__ == "__main__":
    main()
