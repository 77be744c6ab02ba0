"""Settings and results of runs that were not trained, and edited run records."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftcli.images.pixels import Preprocess
from graftcli.models.cuts.foldability import KeptAdapter
from graftcli.recipe import Recipe
from graftcli.store.atomic import write_json
from graftcli.store.run_file import RUN_FILE, sealed
from graftcli.store.run_record import CutNames, FixedSettings, NetworkIdentity, RunResult, RunSettings

ORIGIN: dict[str, Any] = {
    **{"kind": "timm", "kwargs": {}, "input_size": [3, 16, 16], "num_classes": 5},
    "preprocess": {"mean": [0.5], "std": [0.25], "crop_pct": 1.0, "interpolation": "bilinear", "squash": False},
}
RECIPE = Recipe.model_validate(
    {
        **{"name": "two", "about": "Two stages", "init": "random"},
        "stages": [
            {
                **{"name": name, "train": train, "steps": 4, "lr": lr},
                "targets": [{"at": "logits", "loss": "kl"}],
            }
            for name, train, lr in (("graft", "blocks", 1e-3), ("finish", "student", 1e-2))
        ],
    }
)
KEPT = KeptAdapter(2, "to_student", (8, 12), "folding would change the network by +40 parameters")
FIXED = FixedSettings(memory=1000, disk=2000, at_once=None, threads=1, device="cpu")


def settings(names: tuple[str, str] = ("big", "small"), **changes: Any) -> RunSettings:
    """The settings of a run with three blocks."""
    teacher, student = (
        NetworkIdentity(name=name, origin={**ORIGIN, "name": name}, weights=digest)
        for name, digest in zip(names, ("0123", "4567"), strict=True)
    )
    cuts = ("stages.0", "stages.1")
    values = {
        **{"teacher": teacher, "student": student, "cuts": CutNames(teacher=cuts, student=cuts)},
        **{"blocks": (1, 2, 3), "frozen": (), "images": "89ab", "val_images": None, "recipe": RECIPE},
        "preprocess": Preprocess((16, 16), 3, (0.5,) * 3, (0.25,) * 3, 1.0, "bilinear"),
        **{"seed": 0, "device": "auto", "amp": False, "compile": False, "cache_gb": None},
    }
    return RunSettings(**{**values, **changes})


def result(**changes: Any) -> RunResult:
    """The figures of such a run."""
    values = {
        **{"teacher": "big", "student": "small", "blocks": (1, 2, 3)},
        **{"params": (5000, 2000), "macs": (900_000, 300_000), "unmerged": (2100, 310_000)},
        **{"kept": (KEPT,), "bytes": (20_000, 8000), "stock": True},
        **{"agreement": 0.875, "kl": None, "held_out": 8, "images": 12, "frozen": (), "setbacks": ()},
        **{"merge_errors": (0.0, 1e-7), "seconds": 75.0, "peak_memory": 1_200_000_000},
    }
    return RunResult(**{**values, **changes})


def write_document(folder: Path, document: Mapping[str, Any]) -> None:
    """Write run.json with a correct digest for any content."""
    write_json(folder / RUN_FILE, sealed(document))


SETTINGS = settings()


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of each file, without the lock, which names its last owner."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
