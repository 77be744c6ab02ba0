"""`graftcli trust`: list and remove trusted Python files and pickles."""

from typing import Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import render
from graftcli.cli.recipes import examples

app = typer.Typer(
    name="trust",
    no_args_is_help=True,
    help="List or remove trusted files: Python files and pickles that checkpoints and runs may execute.",
)
Digest = Annotated[str, typer.Argument(metavar="SHA256", help="SHA-256 of a trusted file, or a prefix of it.")]


@app.command("ls", epilog=examples("trust ls", "trust ls --json"))
def ls(as_json: o.Json = False) -> None:
    """List the trusted files with their SHA-256 and the function that is called."""
    from dataclasses import asdict

    from graftcli.models.loading.trust import trust_file, trusted

    entries = trusted()
    if as_json:
        render.document([asdict(entry) for entry in entries])
        return
    if not entries:
        render.line("no trusted files: checkpoints and runs cannot execute code")
        return
    rows = [(entry.sha256[:16], entry.call, entry.path, entry.since) for entry in entries]
    render.table("", ("sha256", "call", "file", "since"), rows)
    render.line(f"stored in {trust_file()}")


@app.command("rm", epilog=examples("trust rm 3fa4c1"))
def rm(sha256: Digest) -> None:
    """Stop trusting a file; checkpoints and runs can no longer execute it."""
    from graftcli.models.loading.trust import remove

    for entry in remove(sha256):
        render.line(f"no longer trusted: {entry.call} of {entry.path}")
