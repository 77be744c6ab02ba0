"""`graftcli check`: whether every file of a run is what was written."""

from pathlib import Path
from typing import Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import render
from graftcli.errors import CheckpointError

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]


def check(run: Run, as_json: o.Json = False) -> None:
    """Verify every file of a run: its record, blocks, training states, caches and network.

    Each file carries a digest, or the record holds it. Exits with 6 where a file is damaged or missing; the command of
    the run, given again, makes it again.

    Examples:
      graftcli check runs/resnet34-resnet18
    """
    from dataclasses import asdict

    from graftcli.api.verifying import check_run

    found = check_run(run)
    if as_json:
        render.document({**asdict(found), "whole": found.is_whole})
    else:
        rows = [(file.name, file.state, file.detail) for file in found.files]
        render.table("", ("file", "state", "detail"), rows)
    if not found.is_whole:
        bad = [file.name for file in found.files if file.state != "whole"]
        fix = f"Run the command of the run again: {found.command}" if found.command else "Make the run again."
        raise CheckpointError(f"{len(bad)} of {len(found.files)} files in `{run}` are damaged or missing.", fix)
