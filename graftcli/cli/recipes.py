"""`graftcli recipes`: list, show, copy and validate recipes."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graftcli.cli import render
from graftcli.cli.options import OUTPUT, Json, option
from graftcli.errors import MachineError, UsageError

if TYPE_CHECKING:
    from graftcli.recipe import Recipe

app = typer.Typer(
    name="recipes",
    help="List, show, copy and validate recipes.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Named = Annotated[str, typer.Argument(metavar="NAME", help="A built-in recipe, or a YAML file.")]


def examples(*commands: str) -> str:
    """Format the epilog of a subcommand's help."""
    return "\n".join(["Examples:", *(f"[cyan]  graftcli {command}[/cyan]" for command in commands)])


@app.command("ls", epilog=examples("recipes ls", "recipes ls --json"))
def list_recipes(as_json: Json = False) -> None:
    """List the built-in recipes."""
    from graftcli.recipe.file import load, shipped

    recipes = [load(name) for name in shipped()]
    if as_json:
        render.document([{"name": recipe.name, "about": recipe.about, "stages": _stages(recipe)} for recipe in recipes])
    else:
        rows = [(recipe.name, recipe.about, ", ".join(_stages(recipe))) for recipe in recipes]
        render.table("", ("recipe", "about", "stages"), rows)


@app.command(epilog=examples("recipes show netgraft"))
def show(name: Named) -> None:
    """Print the YAML of a recipe."""
    from graftcli.recipe.file import find, read_text

    typer.echo(read_text(find(name)), nl=False)


@app.command("cp", epilog=examples("recipes cp graft mine.yaml"))
def copy(
    name: Named,
    file: Annotated[
        Path | None, typer.Argument(help="Output file. Default: NAME.yaml in the working directory.")
    ] = None,
    overwrite: Annotated[
        bool, option("--overwrite", metavar="", rich_help_panel=OUTPUT, help="Replace an existing file.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy a recipe to a file, as a starting point for a new one."""
    from graftcli.recipe.file import find, read_text

    source = find(name)
    target = file or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists.", "Choose another file, or replace it with --overwrite.")
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder `{target.parent}` for {target.name}.", "Create it, or choose another.")
    _write(target, read_text(source))
    if as_json:
        render.document({"recipe": name, "file": str(target)})
    else:
        render.line(str(target))


@app.command(epilog=examples("recipes validate mine.yaml", "recipes validate graft --set stages.finish.lr=1e-4"))
def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="YAML files or names of recipes.")],
    overrides: Annotated[
        list[str] | None,
        option("--set", metavar="PATH=VALUE", help="Override a value, such as stages.0.lr=1e-3; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Validate recipes. Reports every error of every file, with its line."""
    from graftcli.recipe.file import load

    valid, errors = [], []
    for name in files:
        try:
            recipe = load(name, overrides or ())
            valid.append({"file": name, "recipe": recipe.name, "stages": _stages(recipe)})
        except UsageError as error:
            errors.append(error)
    if not as_json:
        for entry in valid:
            render.line(f"{entry['file']}: recipe {entry['recipe']}, stages {', '.join(entry['stages'])}")
    elif not errors:
        render.document(valid)
    if errors:
        fixes = dict.fromkeys(error.fix for error in errors)
        raise UsageError("\n".join(error.message for error in errors), "\n".join(fixes))


@app.command(epilog=examples("recipes schema > recipe.schema.json", "recipes schema --markdown"))
def schema(
    as_markdown: Annotated[
        bool, option("--markdown", metavar="", help="Print a reference of all fields instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of recipes, for editors."""
    from graftcli.recipe.reference import json_schema, markdown

    typer.echo(markdown() if as_markdown else f"{json_schema()}\n", nl=False)


def _stages(recipe: "Recipe") -> list[str]:
    return [stage.name for stage in recipe.stages]


def _write(target: Path, text: str) -> None:
    """Write the file atomically."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise MachineError(
            f"{target} cannot be written: {error.strerror}.", "Choose a file in a writable folder."
        ) from error
