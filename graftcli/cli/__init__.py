"""The command line: one module per command, with one function that reads flags, calls the library and renders.

Modules of commands import torch inside functions, never at the top, so that `--help` stays fast.
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
    ranks,
    recipes,
    render,
    render_streams,
    report,
    select,
    trust,
)
from graftcli.cli import check as checking
from graftcli.cli import eval as evaluating
from graftcli.cli.exits import NO_READER, failure
from graftcli.cli.limits import check_strings, unknown_variables
from graftcli.cli.other_names import other_name
from graftcli.errors import UsageError

_AS_JSON = "graftcli.as_json"
_TWO_WORDS = {"select": "images select"}
_EXAMPLES = "\n\nExamples:\n"


class Commands(TyperGroup):
    """The group of all commands; turns exceptions into messages and exit codes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Record whether errors are printed as JSON before parsing, because parsing itself can fail."""
        as_json = ctx.meta[_AS_JSON] = _wants_json(args)
        is_bare = not args  # Typer shows the help
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as problem:
            if as_json and not is_bare:
                raise typer.Exit(_print_failure(problem, as_json)) from problem
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command whose name has one or two words, such as `images select`."""
        two = " ".join(args[:2])
        return super().resolve_command(ctx, [two, *args[2:]] if two in self.commands else args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command, or print why it failed on stderr."""
        try:
            for text in unknown_variables(os.environ, _variables(self)):
                if ranks.rank() == 0:
                    progress.warn(text, as_json=ctx.meta[_AS_JSON])
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except typer.Exit:
            raise
        except BrokenPipeError:
            render_streams.discard_result()
            raise typer.Exit(NO_READER) from None
        except (Exception, KeyboardInterrupt) as problem:
            as_json: bool = ctx.meta[_AS_JSON]
            if isinstance(problem, typer.TyperException) and not as_json:
                raise  # Typer adds the usage line
            raise typer.Exit(_print_failure(problem, as_json)) from problem


class CheckedCommand(TyperCommand):
    """A command that checks the values of all its parameters together, from flags and from variables."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; for an option known from other tools, name the corresponding flag of this command."""
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as problem:
            option = str(getattr(problem, "option_name", ""))
            if fix := other_name(option, {flag for param in self.params for flag in param.opts}):
                raise UsageError(f"`{ctx.command_path}` has no option {option}.", fix) from problem
            raise

    def invoke(self, ctx: Any) -> Any:
        """Check every string, then run the command, if this process of the job takes part in it."""
        if not ranks.takes_part(self.name):
            raise typer.Exit
        ranks.leave_job(self.name)
        check_strings({_flag(param): ctx.params.get(param.name) for param in self.params})
        return super().invoke(ctx)


def _flag(param: Any) -> str:
    """Return the flag of an option, or the name of an argument in the help."""
    return str(param.opts[0] if param.param_type_name == "option" else param.metavar or param.name)


def _variables(group: Any) -> set[str]:
    """Return the environment variables of all options of all commands."""
    nested = [_variables(command) for command in group.commands.values() if hasattr(command, "commands")]
    params = (param for command in group.commands.values() for param in command.params)
    return {param.envvar for param in params if isinstance(getattr(param, "envvar", None), str)}.union(*nested)


def _wants_json(words: Sequence[str]) -> bool:
    """Return whether --json or GRAFTCLI_JSON is given, before parsing."""
    return "--json" in words or os.environ.get("GRAFTCLI_JSON", "").lower() in ("1", "true", "t", "yes", "y", "on")


def _print_failure(problem: BaseException, as_json: bool) -> int:
    """Print an exception on stderr and return its exit code."""
    show = render.error_document if as_json else render.error
    if (elsewhere := ranks.of_other_process(problem)) is not None:
        ranks.print_once(elsewhere, show)
        return elsewhere.code
    failed = ranks.named(failure(problem))
    show(failed)
    return failed.code


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
    """Compress a trained image network into a smaller one, with a few unlabelled images, by network grafting.

    Every option has an environment variable, such as GRAFTCLI_IMG_SIZE for --img-size; the flag overrides it.
    """


def _register(group: str, *commands: Callable[..., None]) -> None:
    """Add commands, named after their modules, to a help group; `Examples:` of the docstring become the epilog."""
    for command in commands:
        text, _, examples = cleandoc(command.__doc__ or "").partition(_EXAMPLES)
        module = command.__module__.rpartition(".")[2]
        name = _TWO_WORDS.get(module, module)
        app.command(name, cls=CheckedCommand, rich_help_panel=group, help=_plain(text), epilog=_epilog(examples))(
            command
        )


def _epilog(examples: str) -> str:
    return "\n".join(["Examples:", *(f"[cyan]  {_plain(line.strip())}[/cyan]" for line in examples.splitlines())])


def _plain(text: str) -> str:
    """Escape brackets, which rich would parse as markup."""
    return text.replace("[", r"\[")


_register("Train", distill.distill, partial.partial, compare.compare, demo.demo)
_register("Inspect", plan.plan, inspect.inspect, images.images, select.select)
_register("Evaluate & export", evaluating.evaluate, export.export, bench.bench, report.report)
_register("Utilities", checking.check, env.env)
app.add_typer(recipes.app, rich_help_panel="Utilities")
app.add_typer(trust.app, rich_help_panel="Utilities")


def main() -> None:
    """Run the `graftcli` command."""
    words = sys.argv[1:]
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch then asks for huge pages for large tensors on CPUs
    if ranks.rank():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the first process prints the result
    with render_streams.standard(), render_streams.json_only(_wants_json(words) and not {"--help", "-h"} & {*words}):
        app(prog_name="graftcli")
