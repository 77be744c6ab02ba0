"""`graftcli check`: verify the files of a run against their digests."""

from pathlib import Path
from typing import Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import render
from graftcli.errors import CheckpointError

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]


def check(run: Run, as_json: o.Json = False) -> None:
    """Verify every file of a run: record, blocks, training states, caches and network.

    Every file has a digest, in the file itself or in the run record. Exits with 6 if a file is damaged or missing;
    repeat the command of the run to restore it.

    Examples:
      graftcli check runs/resnet34-resnet18
    """
    from dataclasses import asdict

    from graftcli.api.verifying import check_run

    checked = check_run(run)
    if as_json:
        render.document({**asdict(checked), "intact": checked.is_intact})
    else:
        rows = [(file.name, file.state, file.detail) for file in checked.files]
        render.table("", ("file", "state", "detail"), rows)
    if not checked.is_intact:
        bad = [file.name for file in checked.files if file.state != "intact"]
        fix = f"Repeat the command of the run: {checked.command}" if checked.command else "Repeat the run."
        raise CheckpointError(f"{len(bad)} of {len(checked.files)} files in `{run}` are damaged or missing.", fix)
