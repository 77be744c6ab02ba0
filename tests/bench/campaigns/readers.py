"""Commands that read a finished run, and which of its files they read; a damaged one must not change what they say."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench.campaigns.harness import Case
from tests.bench.campaigns.place import RUN, Command, Place, distill, finish

_WHOLE = ("model.safetensors", "graft.json", "run.json")
_STOCK = "stock"  # the folder of a run with timm's networks, whose config.json timm reads
_STOCK_NETWORKS = ("--teacher", "timm:test_resnet", "--teacher-checkpoint", "none", "--student", "timm:test_convnext")
_STOCK_STEPS = ("--recipe", "kd", "--set", "stages.finish.epochs=1", "--img-size", "64", "--batch", "4")


@dataclass(frozen=True)
class Reader:
    """A command on a copy of a finished run."""

    command: Command
    run: Path  # what is copied into the working directory
    files: tuple[str, ...]  # patterns; one of their files is damaged
    says: bool = False  # whether what it prints is its result


def readers(place: Place, *, stock: bool = True) -> Mapping[str, Reader]:
    """All of them; without `stock` none that needs a run with timm's networks."""
    photos = ("--images", str(place.folder / "photos"))
    weights = ("export", RUN, "--format", "safetensors", "--out", "one.safetensors", "--quiet")
    hybrid = ("partial", "--blocks", "2", "--run", RUN, "--out", "hybrid", "--quiet")
    found = {
        "eval": _saying(place, ("eval", RUN, *photos, "--teacher", RUN, "--json"), ("model.safetensors", "graft.json")),
        "export": Reader(Command("export", weights, ("one.safetensors",)), place.base, _WHOLE),
        "report": Reader(
            Command("report", ("report", RUN, "--quiet"), (f"{RUN}/report.html",)),
            place.base,
            ("report.json", "metrics.jsonl", "run.json", "bench.json"),
        ),
        "partial": Reader(
            Command("partial", hybrid, ("hybrid/model.safetensors", "hybrid/blocks/*")),
            place.base,
            ("blocks/graft-2.safetensors", "run.json"),
        ),
        "distill again": Reader(
            Command("distill", distill(place).argv, (f"{RUN}/model.safetensors",)), place.base, (*_WHOLE, "blocks/*")
        ),
    }
    if _has_check():
        found["check"] = _saying(place, ("check", RUN), (*_WHOLE, "blocks/*"))
    if stock:
        words = ("eval", f"local-dir:{RUN}", *photos, "--teacher", f"local-dir:{RUN}", "--json")
        command = Command("eval local-dir", words, ())
        found["eval local-dir"] = Reader(command, _stock(place), ("config.json", "model.safetensors"), says=True)
    return found


def _saying(place: Place, argv: tuple[str, ...], files: tuple[str, ...]) -> Reader:
    return Reader(Command(argv[0], argv, ()), place.base, files, says=True)


def _has_check() -> bool:
    """Whether this graftcli has `check`, which reads a whole run."""
    from graftcli.cli import app

    return any((one.name or getattr(one.callback, "__name__", "")) == "check" for one in app.registered_commands)


def furnish_ladder(place: Place) -> None:
    """bench.json in the finished run, which reports show."""
    if not (place.base / "bench.json").exists():
        words = ("bench", RUN, "--images", str(place.folder / "photos"), "--seconds", "0.2")
        finish(Case(words, place.base.parent))


def _stock(place: Place) -> Path:
    """A finished run with two of timm's networks, made where it is not there yet."""
    folder = place.folder / _STOCK
    if not (folder / RUN / "report.html").exists():
        shutil.rmtree(folder, ignore_errors=True)
        images = ("--images", str(place.folder / "photos"))
        finish(Case(("distill", *_STOCK_NETWORKS, *images, *_STOCK_STEPS, "--out", RUN, "--quiet"), folder))
    return folder / RUN
