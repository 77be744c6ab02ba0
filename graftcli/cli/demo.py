"""`graftcli demo`: a real distillation, with nothing to download."""

from pathlib import Path
from typing import Annotated

from graftcli.cli import options as o
from graftcli.cli import progress, render, render_run

Out = Annotated[
    Path, o.option("--out", metavar="DIR", rich_help_panel=o.OUTPUT, help="Where images, runs and files are put.")
]


def demo(out: Out = Path("runs/demo"), as_json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Distil a small trained teacher on a hundred unlabelled digits, and score the student on others.

    Data and teacher are inside the package; it takes less than two minutes on two cores.

    Examples:
      graftcli demo
      graftcli demo --out ./demo --quiet
    """
    from dataclasses import asdict

    from graftcli.demo.show import show

    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        shown = show(out, listen)
    if as_json:
        render.document(asdict(shown))
    else:
        render_run.demo(shown)
