"""Commands of graftcli, run in this process as a user types them."""

from typer.testing import CliRunner, Result

from graftcli.cli import app


def call(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))
