"""Few-shot model compression by progressive network grafting.

    import graftcli
    graftcli.plan("resnet34", "resnet18")
    model = graftcli.load("runs/resnet34-resnet18")

What `graftcli.api` has is offered here too, all but `export`, which is a package's name here; torch is imported when
the first of it is asked for.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from graftcli.api import (
        Bench,
        Budget,
        CheckImages,
        Comparison,
        CutOptions,
        Evaluation,
        Exported,
        ExportOptions,
        Grid,
        ImagesReport,
        ModelPair,
        Network,
        Plan,
        PreprocessOptions,
        Result,
        RunConfig,
        TrainOptions,
        bench,
        build,
        check,
        compare,
        distill,
        evaluate,
        inspect,
        load,
        partial,
        plan,
    )

__all__ = [
    "Bench",
    "Budget",
    "CheckImages",
    "Comparison",
    "CutOptions",
    "Evaluation",
    "ExportOptions",
    "Exported",
    "Grid",
    "ImagesReport",
    "ModelPair",
    "Network",
    "Plan",
    "PreprocessOptions",
    "Result",
    "RunConfig",
    "TrainOptions",
    "__version__",
    "bench",
    "build",
    "check",
    "compare",
    "distill",
    "evaluate",
    "inspect",
    "load",
    "partial",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'graftcli' has no attribute {name!r}")
    from graftcli import api

    return getattr(api, name)
