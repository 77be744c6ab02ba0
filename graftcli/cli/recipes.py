"""graftcli recipes: the recipes that come with graftcli, and the check of one's own."""

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
    help="The recipes: list them, read one, copy it as a start of your own, check that.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Named = Annotated[str, typer.Argument(metavar="NAME", help="A recipe that graftcli brings, or a YAML file.")]


def examples(*commands: str) -> str:
    """The end of the help of a command in a group."""
    return "\n".join(["Examples:", *(f"[cyan]  graftcli {command}[/cyan]" for command in commands)])


@app.command("ls", epilog=examples("recipes ls", "recipes ls --json"))
def list_recipes(as_json: Json = False) -> None:
    """List the recipes that graftcli brings."""
    from graftcli.recipe.file import load, shipped

    recipes = [load(name) for name in shipped()]
    if as_json:
        render.document([{"name": each.name, "about": each.about, "stages": _stages(each)} for each in recipes])
    else:
        rows = [(recipe.name, recipe.about, ", ".join(_stages(recipe))) for recipe in recipes]
        render.table("", ("recipe", "about", "stages"), rows)


@app.command(epilog=examples("recipes show netgraft"))
def show(name: Named) -> None:
    """Print a recipe's YAML."""
    from graftcli.recipe.file import find, text_of

    typer.echo(text_of(find(name)), nl=False)


@app.command("cp", epilog=examples("recipes cp graft mine.yaml"))
def copy(
    name: Named,
    file: Annotated[Path | None, typer.Argument(help="The file to write. Without it: NAME.yaml, here.")] = None,
    overwrite: Annotated[
        bool, option("--overwrite", metavar="", rich_help_panel=OUTPUT, help="Replace a file that is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy a recipe to a file, as a start of your own."""
    from graftcli.recipe.file import find, text_of

    source = find(name)
    target = file or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists() and not overwrite:
        raise UsageError(f"{target} is there already.", "Name another file, or replace it with --overwrite.")
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder `{target.parent}` to put {target.name} in.", "Make it, or name another.")
    _write(target, text_of(source))
    if as_json:
        render.document({"recipe": name, "file": str(target)})
    else:
        render.line(str(target))


@app.command(epilog=examples("recipes validate mine.yaml", "recipes validate graft --set stages.finish.lr=1e-4"))
def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="YAML files, or names of recipes.")],
    overrides: Annotated[
        list[str] | None, option("--set", metavar="PATH=VALUE", help="As stages.0.lr=1e-3; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check recipes. Every fault of every file is reported, with its line."""
    from graftcli.recipe.file import load

    sound, faulty = [], []
    for name in files:
        try:
            recipe = load(name, overrides or ())
            sound.append({"file": name, "recipe": recipe.name, "stages": _stages(recipe)})
        except UsageError as error:
            faulty.append(error)
    if not as_json:
        for one in sound:
            render.line(f"{one['file']}: recipe {one['recipe']}, stages {', '.join(one['stages'])}")
    elif not faulty:
        render.document(sound)
    if faulty:
        mends = dict.fromkeys(error.mend for error in faulty)
        raise UsageError("\n".join(error.found for error in faulty), "\n".join(mends))


def _stages(recipe: "Recipe") -> list[str]:
    return [stage.name for stage in recipe.stages]


def _write(target: Path, text: str) -> None:
    """The file appears whole or not at all."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise MachineError(
            f"{target} cannot be written: {error.strerror}.", "Name a file in a folder of yours."
        ) from error
