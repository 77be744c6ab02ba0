"""`graftcli inspect`: one network's cuts, and all the places where it could be cut."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftcli.cli import options as o
from graftcli.cli import render, render_plan
from graftcli.cli.plan import one_thread

if TYPE_CHECKING:
    from graftcli.models.cuts.automatic_cuts import Position

Spec = Annotated[str, typer.Argument(metavar="SPEC", help="The network, named as for --teacher.")]
Checkpoint = Annotated[
    str | None,
    o.option("--checkpoint", metavar="FILE", rich_help_panel=o.NETWORKS, help="Its weights. Without it: random ones."),
]
Everything = Annotated[
    bool, o.option("--all", metavar="", rich_help_panel=o.OUTPUT, help="Every place that qualifies.")
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
    """Show the places at which a network is cut, and what adapters could fold into there.

    Examples:
      graftcli inspect resnet18
      graftcli inspect torchvision:mobilenet_v2 --all
      graftcli inspect my_net.py:build --img-size 32 --json
    """
    from graftcli import api

    with one_thread():
        found = api.inspect(
            spec,
            checkpoint=checkpoint,
            num_classes=num_classes,
            in_chans=in_chans,
            img_size=img_size,
            ema=ema,
            unsafe=unsafe_load,
            trust_code=trust_code,
        )
    places = found.positions if everything else found.cuts
    if as_json:
        network = found.network
        render.document(
            {
                "name": network.name,
                "source": network.source,
                "weights": network.weights,
                "params": found.params,
                "macs": sum(found.traced.macs.values()),
                "img_size": list(network.input_size),
                "by_work": found.by_work,
                "cuts": [_document(place) for place in places],
                "opaque": dict(found.traced.opaque),
            }
        )
    else:
        render_plan.inspection(found, places)


def _document(place: "Position") -> dict[str, Any]:
    return {
        "after": place.name,
        "shape": list(place.shape),
        "layout": place.layout,
        "size": list(place.size),
        "forward": _fold(place.forwards),
        "backward": _fold(place.backwards),
    }


def _fold(fold: Any) -> dict[str, Any]:
    return {"into": [layer.path for layer in fold.layers], "blocker": fold.blocker}
