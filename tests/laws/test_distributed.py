"""Law 8: the same blocks however many processes share them, and shared batches that equal whole ones."""

import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import graftcli
from graftcli.api.verifying import check_run
from graftcli.distributed.deal import deal
from graftcli.distributed.world import SINGLE, World, world_of
from graftcli.environment.machine import Memory
from graftcli.errors import GraftError
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.teacher_cache import TeacherCache
from graftcli.graft.data.views import Views
from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.loop import run_loop
from graftcli.graft.training.pieces import pieces
from graftcli.graft.training.tasks import tasks
from graftcli.graft.training.trainer import BlockTrainer, TrainContext
from graftcli.recipe.file import load as load_recipe
from graftcli.runs.config import TrainOptions
from graftcli.runs.run_images import PixelPlace, pixel_place
from graftcli.store.cache_files import Cache
from graftcli.store.run_file import read_record
from tests.engine import PREPROCESS, MemoryUnit, images, plan, recipe
from tests.image_files import photos
from tests.jobs import in_processes, started, torchrun, torchrun_python

NETS = Path(__file__).resolve().parents[1] / "nets.py"
PAIR: dict[str, Any] = {
    "teacher": f"{NETS}:resnet(depth=14)",
    "student": f"{NETS}:resnet(depth=8)",
    "teacher_checkpoint": "none",
}
CELLS: dict[str, Any] = {"steps_scale": 0.005, "img_size": 32, "batch": 12, "device": "cpu"}


def test_work_is_dealt_longest_first() -> None:
    assert deal([1, 5, 3, 3], 2) == [0, 0, 1, 1]
    assert deal([2.0] * 5, 2) == [0, 1, 0, 1, 0]
    assert deal([7], 4) == [0] and deal([], 3) == []


def test_torchrun_describes_the_processes() -> None:
    ranks = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert world_of({**ranks, "MASTER_ADDR": "host"}) == World(3, 4, 1, 2)
    assert world_of(ranks) == SINGLE == world_of({})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("pictures"), [f"{number}.png" for number in range(24)])


def blocks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("blocks/*"))}


@pytest.fixture(scope="module")
def alone(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    in_processes(1, partial(distilled, images=pictures, out=folder, recipe="graft"))
    return folder


@pytest.mark.parametrize("size", [2, 3, 4])
def test_any_number_of_processes_trains_the_same_blocks(size: int, pictures: Path, alone: Path, tmp_path: Path) -> None:
    assert len(set(in_processes(size, partial(distilled, images=pictures, out=tmp_path / "run", recipe="graft")))) == 1
    expected, found = blocks(alone), blocks(tmp_path / "run")
    assert expected.keys() == found.keys() and len(expected) == 5
    different = [name for name in expected if expected[name] != found[name]]
    assert different in ([], ["finish-1-2-3.safetensors"])  # which shares its batches: equal within rounding


SHARED: dict[str, dict[str, Any]] = {
    "batchnorm": {"optimizer": "sgd", "momentum": 0.9, "batchnorm": "train"},
    # fewer and shorter steps: where a gradient has almost no component, Muon makes full-size steps of its rounding
    "muon": {"optimizer": "muon", "ema": 0.9, "targets": [{"at": "features", "loss": "mse"}], "steps": 5, "lr": 1e-3},
    "logits": {"optimizer": "adamw", "targets": [{"at": "logits", "loss": "kl", "temperature": 2}]},
    "norms": {"optimizer": "sgd", "targets": [{"at": "logits", "loss": "norm-l2"}], "clip": 0.1},
    "recalibrate": {"optimizer": "sgd", "batchnorm": "recalibrate"},
}


def student_of(world: World, changes: dict[str, Any], folder: Path) -> dict[str, NDArray[np.float64]]:
    """The weights after fifty steps, or those in the changes, on batches of ten; each process takes a part."""
    stage = {"name": "s", "train": "student", "targets": [{"at": "outputs", "loss": "mse"}], "lr": 1e-2, "batch": 10}
    made, precision = plan(), Precision(torch.device("cpu"))
    both = pieces(made, seams(made))
    task = tasks(recipe(stages=[{**stage, "steps": 50, **changes}]), 3, (1, 2, 3))[0]
    views = Views(images().pixels, PREPROCESS, load_recipe("graft").views.augment, 4, 0)
    cache = TeacherCache(
        views, both.teacher, both.shapes, {}, cache=Cache(folder / str(world.rank)), chunk=16, precision=precision
    )
    trainer = BlockTrainer(task, TrainContext(both, cache, 12, 0, precision, world=world), MemoryUnit())
    run_loop(trainer, lambda _: None)
    return {name: value.double().numpy() for name, value in trainer.trainable.state_dict().items()}


@pytest.mark.parametrize("kind", SHARED)
def test_shared_batches_train_as_whole_ones(kind: str, tmp_path: Path) -> None:
    whole = student_of(SINGLE, SHARED[kind], tmp_path)
    shared = in_processes(3, partial(student_of, changes=SHARED[kind], folder=tmp_path))
    for found in shared:
        assert all(np.array_equal(found[name], value) for name, value in shared[0].items())  # on every rank
    names = [name for name in whole if "num_batches" not in name]
    before, after = (np.concatenate([found[name].ravel() for name in names]) for found in (whole, shared[0]))
    assert 0 < np.linalg.norm(after - before) < 1e-4 * np.linalg.norm(before)


# -- what all processes of a job must agree on ---------------------------------------------------------------------


def test_the_first_process_decides_where_all_keep_their_images() -> None:
    places = in_processes(2, place_of)
    assert places[0] == places[1] == PixelPlace(Path("cache"), 2.5e8)  # a half of its memory, for two processes


def test_processes_that_see_other_images_end_with_a_message(pictures: Path, tmp_path: Path) -> None:
    others = photos(tmp_path / "others", [f"{number}.png" for number in range(12)])
    first, second = in_processes(2, partial(refused, images=(pictures, others), out=tmp_path / "run"))
    assert first == "Another process of this job failed."
    assert second.startswith("this process and the first one") and "images" in second


def test_batches_smaller_than_the_job_are_refused_before_training(pictures: Path, tmp_path: Path) -> None:
    found = in_processes(3, partial(refused, images=(pictures,) * 3, out=tmp_path / "run", batch=2))
    assert "batches of 2, and 3 processes" in found[0] and not (tmp_path / "run").exists()


def place_of(world: World) -> PixelPlace:
    with patch("graftcli.runs.run_images.memory", return_value=Memory(None, 10**9 * (1 + world.rank))):
        return pixel_place(Path("cache"), TrainOptions(), world)


def refused(world: World, images: Sequence[Path], out: Path, **more: Any) -> str:
    """The message of a run for which each process sees a folder of its own."""
    with pytest.raises(GraftError) as refusal:
        graftcli.distill(images=images[world.rank], recipe="kd", out=out, **PAIR, **{**CELLS, **more})
    return refusal.value.message


# -- real jobs ----------------------------------------------------------------------------------------------------


def command(size: int, pictures: Path, out: Path, *more: str) -> list[str]:
    flags = [word for name, value in PAIR.items() for word in (f"--{name.replace('_', '-')}", value)]
    short = ["--images", str(pictures), "--img-size", "32", "--device", "cpu", "--batch", "12", "--out", str(out)]
    return torchrun(size, "distill", *flags, *short, *more)


def ended(job: "Any", seconds: float) -> tuple[int, str, str]:
    """Wait for a job, and kill what is left of it."""
    try:
        out, err = job.communicate(timeout=seconds)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    return job.returncode, out, err


def workers(job: "Any") -> list[int]:
    """The processes that torchrun has started."""
    return [int(pid) for pid in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()]


def test_a_killed_process_ends_the_job_and_the_same_command_resumes(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = command(2, pictures, folder, "--steps-scale", "0.02")
    job, deadline = started(words), time.monotonic() + 120
    while not list(folder.glob("blocks/*")):  # killed while the next blocks are trained
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.1)
    os.kill(workers(job)[-1], signal.SIGKILL)
    code, _, _ = ended(job, 30)
    assert code != 0
    assert check_run(folder).is_intact and read_record(folder).status == "running"
    code, out, err = ended(started(words), 200)
    assert code == 0, err
    assert check_run(folder).is_intact and read_record(folder).status == "finished"
    assert out.count("agreement") == 1  # one process reports


def test_an_error_of_all_processes_is_reported_once(pictures: Path, tmp_path: Path) -> None:
    code, out, err = ended(started(command(2, pictures, tmp_path / "run", "--recipe", "none-such")), 60)
    assert code != 0 and out == ""
    assert err.count("none-such") == 1 and "rank 1" not in err.partition("torch")[0]


def test_an_error_of_one_process_names_its_rank_and_ends_the_others(pictures: Path, tmp_path: Path) -> None:
    code = "import os\nfrom tests.nets import resnet\n\ndef small():\n    if os.environ['RANK'] == '1':\n"
    (tmp_path / "net.py").write_text(f"{code}        raise ValueError('no such disk')\n    return resnet(depth=8)\n")
    words = command(2, pictures, tmp_path / "run", "--student", f"{tmp_path}/net.py:small")
    code_, _, err = ended(started(words), 60)
    assert code_ != 0
    assert "rank 1: " in err and "no such disk" in err and "another process of this job has ended" in err
    assert not (tmp_path / "run" / "run.json").exists()


TWICE = """
import torch
from graftcli.distributed.world import joined

torch.cuda.device_count = lambda: 1  # fewer devices than processes
for number in range(3):
    with joined() as world:
        print(f"{world.gather((number, world.rank))}\\n", end="")  # at once: the processes share the output
"""


def test_the_processes_of_a_job_connect_again(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text(TWICE)
    code, out, err = ended(started(torchrun_python(2, tmp_path / "twice.py")), 60)
    assert code == 0, err
    assert sorted(out.splitlines()) == sorted(2 * [f"[({number}, 0), ({number}, 1)]" for number in range(3)])


def test_cells_of_a_comparison_are_dealt(pictures: Path, tmp_path: Path) -> None:
    assert in_processes(2, partial(compared, images=pictures, out=tmp_path / "compare")) == [["kd", "fitnet"]] * 2
    for name in ("kd", "fitnet"):
        out = tmp_path / name
        in_processes(1, partial(distilled, images=pictures, out=out, recipe=name))
        (cell,) = (tmp_path / "compare" / "cells").glob(f"{name}*")
        assert blocks(cell) == blocks(out) != {}


def distilled(_: World, **arguments: Any) -> float | None:
    return graftcli.distill(**arguments, **PAIR, **CELLS).agreement


def compared(_: World, images: Path, out: Path) -> list[str]:
    table = graftcli.compare(images=images, recipe=["kd", "fitnet"], out=out, **PAIR, **CELLS)
    return [line.method for line in table.lines]
