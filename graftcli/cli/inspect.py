"""`graftcli inspect`: the cuts of a network and all positions where it can be cut."""

from typing import TYPE_CHECKING, Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import render, render_plan
from graftcli.cli.plan import one_thread

if TYPE_CHECKING:
    from graftcli.models.cuts.foldability import Fold
    from graftcli.models.cuts.positions import Position

Spec = Annotated[str, typer.Argument(metavar="SPEC", help="The network; spec as for --teacher.")]
Checkpoint = Annotated[
    str | None,
    o.option("--checkpoint", metavar="FILE", rich_help_panel=o.NETWORKS, help="Weights. Default: random."),
]
Everything = Annotated[
    bool,
    o.option("--all", metavar="", rich_help_panel=o.OUTPUT, help="Show every position that can be a cut."),
]


def inspect(
    spec: Spec,
    checkpoint: Checkpoint = None,
    num_classes: o.NumClasses = None,
    in_chans: o.InChans = None,
    img_size: o.ImageSize = None,
    everything: Everything = False,
    ema: o.Ema = None,
    unsafe_load: o.UnsafeLoad = False,
    trust_code: o.TrustCode = False,
    as_json: o.Json = False,
) -> None:
    """Show where a network is cut, and which layers an adapter could fold into at each cut.

    Examples:
      graftcli inspect resnet18
      graftcli inspect torchvision:mobilenet_v2 --all
      graftcli inspect my_net.py:build --img-size 32 --json
    """
    import graftcli

    with one_thread():
        inspection = graftcli.inspect(
            spec,
            checkpoint=checkpoint,
            num_classes=num_classes,
            in_chans=in_chans,
            img_size=img_size,
            ema=ema,
            unsafe_load=unsafe_load,
            trust_code=trust_code,
        )
    positions = inspection.positions if everything else inspection.cuts
    if as_json:
        network = inspection.network
        render.document(
            {
                "name": network.name,
                "source": network.source,
                "weights": str(network.weights),
                "params": inspection.params,
                "macs": sum(inspection.traced.macs.values()),
                "img_size": list(network.input_size),
                "by_work": inspection.by_work,
                "cuts": [_document(position) for position in positions],
                "opaque": dict(inspection.traced.opaque),
            }
        )
    else:
        render_plan.inspection(inspection, positions)


def _document(position: "Position") -> dict[str, object]:
    return {
        "after": position.name,
        "shape": list(position.shape),
        "layout": position.layout,
        "size": list(position.size),
        "forward": _fold(position.forwards),
        "backward": _fold(position.backwards),
    }


def _fold(fold: "Fold") -> dict[str, object]:
    return {"into": [layer.path for layer in fold.layers], "blocker": fold.blocker}
