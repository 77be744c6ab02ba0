"""Few-shot model compression by progressive network grafting.

    import graftcli
    result = graftcli.distill("resnet34", "resnet18", "./10shot")
    student = graftcli.load(result.folder)

Importing this package is fast: torch is imported on first access to one of the names below.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from graftcli.api.benching import Bench as Bench
    from graftcli.api.benching import bench as bench
    from graftcli.api.comparing import compare as compare
    from graftcli.api.distilling import distill as distill
    from graftcli.api.distilling import partial as partial
    from graftcli.api.evaluating import evaluate as evaluate
    from graftcli.api.exporting import export as export
    from graftcli.api.planning import Inspection as Inspection
    from graftcli.api.planning import inspect as inspect
    from graftcli.api.planning import memory as memory
    from graftcli.api.planning import plan as plan
    from graftcli.api.planning import shares as shares
    from graftcli.api.selecting import Selection as Selection
    from graftcli.api.selecting import select_images as select_images
    from graftcli.errors import CheckpointError as CheckpointError
    from graftcli.errors import GateError as GateError
    from graftcli.errors import GraftError as GraftError
    from graftcli.errors import ImagesError as ImagesError
    from graftcli.errors import MachineError as MachineError
    from graftcli.errors import PairError as PairError
    from graftcli.errors import UsageError as UsageError
    from graftcli.formats.loading import load as load
    from graftcli.formats.options import Exported as Exported
    from graftcli.models.cuts.plan import Plan as Plan
    from graftcli.models.loading.build import build as build
    from graftcli.models.network import Network as Network
    from graftcli.recipe import Recipe as Recipe
    from graftcli.report.comparison import Comparison as Comparison
    from graftcli.runs.image_check import ImagesReport as ImagesReport
    from graftcli.runs.image_check import inspect_images as inspect_images
    from graftcli.runs.result import Result as Result
    from graftcli.runs.scoring import Evaluation as Evaluation
    from graftcli.runs.shares import Shares as Shares
_PUBLIC = {
    "graftcli.api.benching": ("Bench", "bench"),
    "graftcli.api.comparing": ("compare",),
    "graftcli.api.distilling": ("distill", "partial"),
    "graftcli.api.evaluating": ("evaluate",),
    "graftcli.api.exporting": ("export",),
    "graftcli.api.planning": ("Inspection", "inspect", "memory", "plan", "shares"),
    "graftcli.api.selecting": ("Selection", "select_images"),
    "graftcli.errors": (
        *("CheckpointError", "GateError", "GraftError", "ImagesError"),
        *("MachineError", "PairError", "UsageError"),
    ),
    "graftcli.formats.loading": ("load",),
    "graftcli.formats.options": ("Exported",),
    "graftcli.models.cuts.plan": ("Plan",),
    "graftcli.models.loading.build": ("build",),
    "graftcli.models.network": ("Network",),
    "graftcli.recipe": ("Recipe",),
    "graftcli.report.comparison": ("Comparison",),
    "graftcli.runs.image_check": ("ImagesReport", "inspect_images"),
    "graftcli.runs.result": ("Result",),
    "graftcli.runs.scoring": ("Evaluation",),
    "graftcli.runs.shares": ("Shares",),
}
_HOMES = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graftcli' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
