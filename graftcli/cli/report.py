"""`graftcli report`: write the HTML report of a run, or of several runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import progress, render

Runs = Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of runs; several are compared.")]
Out = Annotated[
    Path | None,
    o.option(
        "--out",
        metavar="FILE",
        rich_help_panel=o.OUTPUT,
        help="HTML file. Default: report.html in the folder of the run, or in the working directory for several runs.",
    ),
]
Overwrite = Annotated[
    bool, o.option("--overwrite", metavar="", rich_help_panel=o.OUTPUT, help="Replace a file that is not a report.")
]


def report(
    runs: Runs,
    out: Out = None,
    overwrite: Overwrite = False,
    trust_code: o.TrustCode = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Rewrite the report of a run, or compare several runs on one page: a self-contained HTML file.

    Every run writes its report when it finishes. The data of networks and images is stored in the run as report.json;
    if that is missing, networks and images are loaded again from their original paths.

    Examples:
      graftcli report runs/resnet34-resnet18
      graftcli report runs/graft runs/kd runs/fitnet --out compared.html
    """
    from dataclasses import asdict

    from graftcli.api.reporting import report as write

    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        result = write(runs, out=out, overwrite=overwrite, trust_code=trust_code, listen=listen)
    if as_json:
        render.document(asdict(result))
    else:
        render.line(f"written: {result.file}")
