"""What `import graftcli` offers, and what the commands call. A module is imported when something in it is asked for, so
that `plan` waits for nothing that only training needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftcli.api.benching import Bench as Bench
    from graftcli.api.benching import bench as bench
    from graftcli.api.comparing import compare as compare
    from graftcli.api.evaluating import evaluate as evaluate
    from graftcli.api.exporting import CheckImages as CheckImages
    from graftcli.api.exporting import export as export
    from graftcli.api.planning import Inspection as Inspection
    from graftcli.api.planning import inspect as inspect
    from graftcli.api.planning import plan as plan
    from graftcli.comparison.budget import Budget as Budget
    from graftcli.comparison.grid import Grid as Grid
    from graftcli.formats.options import Exported as Exported
    from graftcli.formats.options import ExportOptions as ExportOptions
    from graftcli.models.cuts.pairing import CutOptions as CutOptions
    from graftcli.models.cuts.plan import Plan as Plan
    from graftcli.models.loading.build import build as build
    from graftcli.models.network import Network as Network
    from graftcli.report.comparison import Comparison as Comparison
    from graftcli.runs.config import ModelPair as ModelPair
    from graftcli.runs.config import RunConfig as RunConfig
    from graftcli.runs.config import TrainOptions as TrainOptions
    from graftcli.runs.image_check import ImagesReport as ImagesReport
    from graftcli.runs.image_check import check as check
    from graftcli.runs.loading import load as load
    from graftcli.runs.result import Result as Result
    from graftcli.runs.running import distill as distill
    from graftcli.runs.running import partial as partial
    from graftcli.runs.scoring import Evaluation as Evaluation
    from graftcli.runs.scoring import PreprocessOptions as PreprocessOptions

_OFFERED = {
    "graftcli.runs.config": ("RunConfig", "TrainOptions", "ModelPair"),
    "graftcli.api.benching": ("Bench", "bench"),
    "graftcli.comparison.grid": ("Grid",),
    "graftcli.runs.image_check": ("ImagesReport", "check"),
    "graftcli.api.comparing": ("compare",),
    "graftcli.api.exporting": ("CheckImages", "export"),
    "graftcli.runs.loading": ("load",),
    "graftcli.comparison.budget": ("Budget",),
    "graftcli.api.planning": ("Inspection", "inspect", "plan"),
    "graftcli.runs.result": ("Result",),
    "graftcli.runs.running": ("distill", "partial"),
    "graftcli.api.evaluating": ("evaluate",),
    "graftcli.runs.scoring": ("Evaluation", "PreprocessOptions"),
    "graftcli.formats.options": ("Exported", "ExportOptions"),
    "graftcli.models.network": ("Network",),
    "graftcli.models.cuts.pairing": ("CutOptions",),
    "graftcli.models.cuts.plan": ("Plan",),
    "graftcli.models.loading.build": ("build",),
    "graftcli.report.comparison": ("Comparison",),
}
_HOMES = {name: module for module, names in _OFFERED.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graftcli.api' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
