"""`graftcli trust`: the Python files and pickles that documents may run."""

from typing import Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import render
from graftcli.cli.recipes import examples

app = typer.Typer(
    name="trust", no_args_is_help=True, help="List or remove the files of your own that documents may run."
)
Digest = Annotated[str, typer.Argument(metavar="SHA256", help="The sha256 of a trusted file, or its first characters.")]


@app.command("ls", epilog=examples("trust ls", "trust ls --json"))
def ls(as_json: o.Json = False) -> None:
    """List the files that you trust, with the sha256 of their bytes and what is called in them."""
    from dataclasses import asdict

    from graftcli.models.loading.trust import trust_file, trusted

    entries = trusted()
    if as_json:
        render.document([asdict(one) for one in entries])
        return
    if not entries:
        render.line("nothing is trusted: documents run no code")
        return
    rows = [(one.sha256[:16], one.call, one.path, one.since) for one in entries]
    render.table("", ("sha256", "call", "file", "since"), rows)
    render.line(f"kept in {trust_file()}")


@app.command("rm", epilog=examples("trust rm 3fa4c1"))
def rm(sha256: Digest) -> None:
    """Stop trusting a file: documents that name it are refused again."""
    from graftcli.models.loading.trust import remove

    for one in remove(sha256):
        render.line(f"no longer trusted: {one.call} of {one.path}")
