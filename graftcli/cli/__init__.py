"""The commands: one file each, as one function that reads flags, calls the library and renders.

A command's module imports nothing heavy at its top; torch is imported inside the function. So `--help` stays fast.
"""

import os
import sys
from collections.abc import Callable, Sequence
from inspect import cleandoc
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from graftcli import __version__
from graftcli.cli import (
    bench,
    compare,
    demo,
    distill,
    env,
    export,
    images,
    inspect,
    partial,
    plan,
    progress,
    recipes,
    render,
    render_streams,
    report,
    trust,
)
from graftcli.cli import check as checking
from graftcli.cli import eval as evaluating
from graftcli.cli.exits import NO_READER, failure
from graftcli.cli.limits import check_names, mistyped

_AS_JSON = "graftcli.as_json"
_EXAMPLES = "\n\nExamples:\n"


class Commands(TyperGroup):
    """The group of all commands: what goes wrong in one of them becomes its message and its exit code here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remember whether errors are to be JSON before anything is parsed: a flag may be what is wrong."""
        as_json = ctx.meta[_AS_JSON] = _wants_json(args)
        is_bare = not args  # which shows the help
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as problem:
            if as_json and not is_bare:
                raise typer.Exit(_tell(problem, as_json)) from problem
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command and deliver what it printed, or say on stderr why not."""
        try:
            for text in mistyped(os.environ, _variables(self)):
                progress.warn(text, as_json=ctx.meta[_AS_JSON])
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except typer.Exit:
            raise
        except BrokenPipeError:
            render_streams.forget_result()
            raise typer.Exit(NO_READER) from None
        except (Exception, KeyboardInterrupt) as problem:
            as_json: bool = ctx.meta[_AS_JSON]
            if isinstance(problem, typer.TyperException) and not as_json:
                raise  # Typer shows the usage beside it
            raise typer.Exit(_tell(problem, as_json)) from problem


class CheckedCommand(TyperCommand):
    """A command whose names and numbers are checked together, wherever each of them was given."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command with values that can be written down and used."""
        check_names({_flag(param): ctx.params.get(param.name) for param in self.params})
        return super().invoke(ctx)


def _flag(param: Any) -> str:
    """`--out`, or what the help calls an argument."""
    return str(param.opts[0] if param.param_type_name == "option" else param.metavar or param.name)


def _variables(group: Any) -> set[str]:
    """Every variable that stands for an option of a command."""
    nested = [_variables(command) for command in group.commands.values() if hasattr(command, "commands")]
    own = (param for command in group.commands.values() for param in command.params)
    return {param.envvar for param in own if isinstance(getattr(param, "envvar", None), str)}.union(*nested)


def _wants_json(words: Sequence[str]) -> bool:
    """Whether the command is to speak JSON, by a flag or by a variable, before anything is parsed."""
    return "--json" in words or os.environ.get("GRAFTCLI_JSON", "").lower() in ("1", "true", "t", "yes", "y", "on")


def _tell(problem: BaseException, as_json: bool) -> int:
    """Say on stderr what ended the command, and return its exit code."""
    told = failure(problem)
    tell = render.error_document if as_json else render.error
    tell(told)
    return told.code


app = typer.Typer(
    name="graftcli",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graftcli {__version__}")
        raise typer.Exit


@app.callback()
def graftcli(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A trained image network, a smaller one and a few unlabelled images: grafts the one into the other.

    A variable can stand for an option, as GRAFTCLI_IMG_SIZE for --img-size; the option goes before it.
    """


def _register(panel: str, *commands: Callable[..., None]) -> None:
    """Add commands, named as their modules, to a panel of the help; the `Examples:` of a docstring end its help."""
    for command in commands:
        text, _, examples = cleandoc(command.__doc__ or "").partition(_EXAMPLES)
        name = command.__module__.rpartition(".")[2]
        app.command(name, cls=CheckedCommand, rich_help_panel=panel, help=_plain(text), epilog=_epilog(examples))(
            command
        )


def _epilog(examples: str) -> str:
    return "\n".join(["Examples:", *(f"[cyan]  {_plain(line.strip())}[/cyan]" for line in examples.splitlines())])


def _plain(text: str) -> str:
    """The text with brackets that are no markup."""
    return text.replace("[", r"\[")


_register("Distil", distill.distill, partial.partial, compare.compare, demo.demo)
_register("Look before", plan.plan, inspect.inspect, images.images)
_register("Afterwards", evaluating.evaluate, export.export, bench.bench, report.report)
_register("Help yourself", checking.check, env.env)
app.add_typer(recipes.app, rich_help_panel="Help yourself")
app.add_typer(trust.app, rich_help_panel="Help yourself")


def main() -> None:
    """The `graftcli` command."""
    words = sys.argv[1:]
    with render_streams.standard(), render_streams.json_only(_wants_json(words) and not {"--help", "-h"} & {*words}):
        app(prog_name="graftcli")
