"""What `import graftcli` offers, and what the commands call. A module is imported when something in it is asked for, so
that `plan` waits for nothing that only training needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftcli.api.asked import Asked as Asked
    from graftcli.api.asked import How as How
    from graftcli.api.asked import Networks as Networks
    from graftcli.api.benching import Bench as Bench
    from graftcli.api.benching import bench as bench
    from graftcli.api.cells import Grid as Grid
    from graftcli.api.checking import Check as Check
    from graftcli.api.checking import check as check
    from graftcli.api.comparing import compare as compare
    from graftcli.api.evaluating import evaluate as evaluate
    from graftcli.api.exporting import Seen as Seen
    from graftcli.api.exporting import export as export
    from graftcli.api.loading import load as load
    from graftcli.api.pacing import Budget as Budget
    from graftcli.api.planning import Inspection as Inspection
    from graftcli.api.planning import inspect as inspect
    from graftcli.api.planning import plan as plan
    from graftcli.api.result import Result as Result
    from graftcli.api.running import distill as distill
    from graftcli.api.running import partial as partial
    from graftcli.api.scoring import Evaluation as Evaluation
    from graftcli.api.scoring import Look as Look
    from graftcli.export.form import Exported as Exported
    from graftcli.export.form import Form as Form
    from graftcli.nets.network import Network as Network
    from graftcli.nets.pair import Choice as Choice
    from graftcli.nets.plan import Plan as Plan
    from graftcli.nets.spec import build as build
    from graftcli.report.compared import Comparison as Comparison

_OFFERED = {
    "graftcli.api.asked": ("Asked", "How", "Networks"),
    "graftcli.api.benching": ("Bench", "bench"),
    "graftcli.api.cells": ("Grid",),
    "graftcli.api.checking": ("Check", "check"),
    "graftcli.api.comparing": ("compare",),
    "graftcli.api.exporting": ("Seen", "export"),
    "graftcli.api.loading": ("load",),
    "graftcli.api.pacing": ("Budget",),
    "graftcli.api.planning": ("Inspection", "inspect", "plan"),
    "graftcli.api.result": ("Result",),
    "graftcli.api.running": ("distill", "partial"),
    "graftcli.api.evaluating": ("evaluate",),
    "graftcli.api.scoring": ("Evaluation", "Look"),
    "graftcli.export.form": ("Exported", "Form"),
    "graftcli.nets.network": ("Network",),
    "graftcli.nets.pair": ("Choice",),
    "graftcli.nets.plan": ("Plan",),
    "graftcli.nets.spec": ("build",),
    "graftcli.report.compared": ("Comparison",),
}
_HOMES = {name: module for module, names in _OFFERED.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graftcli.api' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
