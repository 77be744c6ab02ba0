"""`graftcli demo`: a complete distillation without downloads."""

from pathlib import Path
from typing import Annotated

from graftcli.cli import options as o
from graftcli.cli import progress, render, render_scores

Out = Annotated[
    Path, o.option("--out", metavar="DIR", rich_help_panel=o.OUTPUT, help="Folder for images, runs and files.")
]


def demo(out: Out = Path("runs/demo"), as_json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Distil a small trained teacher on 100 unlabelled digits, and score the student on a test set.

    Data and teacher are part of the package. Takes about two minutes on two idle cores.

    Examples:
      graftcli demo
      graftcli demo --out ./demo --quiet
    """
    from dataclasses import asdict

    from graftcli.demo.show import show

    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        result = show(out, listen)
    if as_json:
        render.document(asdict(result))
    else:
        render_scores.demo(result)
