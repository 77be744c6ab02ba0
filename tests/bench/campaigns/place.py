"""What the commands of a campaign work on: two tiny networks, twelve images, a finished run; and the commands.

place = furnish(folder)              nets.py, teacher.pth, photos/, base/ (a finished run)
COMMANDS["distill"](place).argv      the words; run in a working directory of its own
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench.campaigns.harness import Case, Ended, run_case

_NETS = '''
import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """Stages of convolutions with BatchNorm, each but the first strided at its start."""

    input_size = (3, 32, 32)

    def __init__(self, widths: tuple[int, ...], depth: int) -> None:
        super().__init__()
        layers, inputs = [], 3
        for stage, width in enumerate(widths):
            for i in range(depth):
                stride = 1 if i or not stage else 2
                layers += [nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
        self.stages = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x).mean((2, 3)))


def big() -> nn.Module:
    return Tiny((6, 8, 12, 12), 2)


def small() -> nn.Module:
    return Tiny((4, 6, 8, 10), 1)
'''
_TEACHER = """
import random, sys
import torch
from nets import big
torch.manual_seed(0)
net = big()
for name, tensor in net.state_dict().items():
    if tensor.is_floating_point() and tensor.ndim == 1:
        tensor.add_(0.3 * torch.rand(tensor.shape))
torch.save(net.state_dict(), "teacher.pth")
"""
_IMAGES = 12
# a quarter of the teacher cache in memory, the rest on the disk: both forms of it are written down
_CACHE = ("--cache-gb", "0.00008")
_CUTS = ("--blocks-count", "3")
_STAGES = ("views.count=2", "stages.graft.steps=4", "stages.finish.steps=6")
_SYNTHETIC = "views.synthetic={images: 24, below: 80, steps: 2}"
RUN, FILE = "run", "model.onnx"


@dataclass(frozen=True)
class Command:
    """A command that is interrupted and repeated; every one writes below its working directory and nowhere else."""

    name: str
    argv: tuple[str, ...]
    results: tuple[str, ...]  # patterns of files with the same bytes, however the command was interrupted
    start: Callable[[Path], None] = lambda folder: None  # furnishes the working directory


@dataclass(frozen=True)
class Place:
    folder: Path

    @property
    def base(self) -> Path:
        """A finished run, which no case changes."""
        return self.folder / "base" / RUN

    def words(self) -> tuple[str, ...]:
        """The networks and images of every run."""
        nets = f"{self.folder / 'nets.py'}"
        networks = ("--teacher", f"{nets}:big", "--teacher-checkpoint", f"{self.folder / 'teacher.pth'}")
        return (
            *networks,
            "--student",
            f"{nets}:small",
            "--images",
            f"{self.folder / 'photos'}",
            "--batch",
            "8",
            *_CUTS,
        )


def furnish(folder: Path) -> Place:
    """Networks, images and a finished run, made where they are not there yet."""
    place = Place(folder)
    os.environ["XDG_CONFIG_HOME"] = str(folder / "config")  # the user's own list of trusted code stays as it is
    if not (folder / "photos").exists():
        _write_images(folder / "photos.part")
        (folder / "nets.py").write_text(_NETS, encoding="utf-8")
        _checkpoint(folder)
        _trust(folder / "nets.py")
        (folder / "photos.part").rename(folder / "photos")
    if not (place.base / "report.html").exists():
        shutil.rmtree(place.base.parent, ignore_errors=True)
        finish(Case(distill(place).argv, place.base.parent))
    return place


def finish(case: Case) -> Ended:
    """A command that must succeed."""
    ended = run_case(case)
    if ended.code:
        raise SystemExit(f"`{' '.join(case.argv)}` ended with {ended.code}:\n{ended.output}")
    return ended


def _write_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(_IMAGES):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{seed}.png")


def _checkpoint(folder: Path) -> None:
    """The teacher's weights, made in a process of their own: the parent of all cases computes nothing."""
    subprocess.run([sys.executable, "-c", _TEACHER], cwd=folder, check=True)


def _trust(code: Path) -> None:
    """Both networks may be built again out of a run's documents."""
    from graftcli.models.loading import trust

    digest = hashlib.sha256(code.read_bytes()).hexdigest()
    trust.add(trust.Trusted(digest, call, str(code), "2026-01-01T00:00:00+00:00") for call in ("big", "small"))


# -- the commands -------------------------------------------------------------------------------------------------


def _sets(*changes: str) -> tuple[str, ...]:
    return tuple(word for change in changes for word in ("--set", change))


def distill(place: Place) -> Command:
    words = (*place.words(), *_CACHE, *_sets(*_STAGES, _SYNTHETIC))
    argv = ("distill", *words, "--out", RUN, "--quiet")
    return Command("distill", argv, (f"{RUN}/model.safetensors", f"{RUN}/blocks/*", f"{RUN}/metrics.jsonl"))


def partial(place: Place) -> Command:
    argv = ("partial", "--blocks", "2", "--run", str(place.base), "--out", RUN, "--quiet")
    return Command("partial", argv, (f"{RUN}/model.safetensors", f"{RUN}/blocks/*", f"{RUN}/metrics.jsonl"))


def compare(place: Place) -> Command:
    """Two recipes on images that are drawn first."""
    grid = ("--recipe", "graft", "--recipe", "kd", "--shots", "6", "--steps", "20")
    argv = ("compare", *place.words(), *grid, *_CACHE, "--set", "views.count=2", "--out", RUN, "--quiet")
    return Command("compare", argv, (f"{RUN}/cells/*/model.safetensors", f"{RUN}/cells/*/blocks/*"))


def export(place: Place) -> Command:
    """ONNX; with --overwrite, for a kill behind the file's last name would make the same command refuse it."""
    argv = ("export", RUN, "--out", FILE, "--overwrite", "--quiet")
    return Command("export", argv, (FILE, f"{RUN}/model.safetensors"), _with_run(place))


def weights(place: Place) -> Command:
    argv = ("export", RUN, "--format", "safetensors", "--out", "one.safetensors", "--overwrite", "--quiet")
    return Command("export weights", argv, ("one.safetensors", f"{RUN}/model.safetensors"), _with_run(place))


def report(place: Place) -> Command:
    """A report whose facts are gone, so that both networks are loaded and compared."""
    argv = ("report", RUN, "--quiet")
    results = (f"{RUN}/report.json", f"{RUN}/report.html", f"{RUN}/model.safetensors")
    return Command("report", argv, results, _with_run(place, without=("report.json", "report.html")))


def _with_run(place: Place, without: tuple[str, ...] = ()) -> Callable[[Path], None]:
    def copy(folder: Path) -> None:
        shutil.copytree(place.base, folder / RUN, ignore=shutil.ignore_patterns(*without))

    return copy


COMMANDS: Mapping[str, Callable[[Place], Command]] = {
    "distill": distill,
    "partial": partial,
    "compare": compare,
    "export": export,
    "export weights": weights,
    "report": report,
}
