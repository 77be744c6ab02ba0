"""Run commands of graftcli in this process, as a user would type them."""

from typer.testing import CliRunner, Result

from graftcli.cli import app


def call(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))
