"""`graftcli report`: what a run did as one HTML file, or several runs compared in one."""

from pathlib import Path
from typing import Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import progress, render

Runs = Annotated[list[Path], typer.Argument(metavar="RUN…", help="The folders of runs; several are compared.")]
Out = Annotated[
    Path | None,
    o.option(
        "--out",
        metavar="FILE",
        rich_help_panel=o.OUTPUT,
        help="The page. Without it: report.html in the run's folder, or here where several are compared.",
    ),
]
Overwrite = Annotated[
    bool, o.option("--overwrite", metavar="", rich_help_panel=o.OUTPUT, help="Replace a file that is no report.")
]


def report(
    runs: Runs,
    out: Out = None,
    overwrite: Overwrite = False,
    trust_code: o.TrustCode = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a run's report anew, or one page that compares several runs: a single file that opens without a network.

    Every run ends with its report. What networks and images have to tell is kept in the run's folder as report.json;
    where that is missing, they are loaded again from where the run had them.

    Examples:
      graftcli report runs/resnet34-resnet18
      graftcli report runs/graft runs/kd runs/fitnet --out compared.html
    """
    from dataclasses import asdict

    from graftcli.api.reporting import report as write

    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        written = write(runs, out=out, overwrite=overwrite, trust_code=trust_code, listen=listen)
    if as_json:
        render.document(asdict(written))
    else:
        render.line(f"written: {written.file}")
