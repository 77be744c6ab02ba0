"""Options that commands share: their values and their precedence."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from graftcli.cli import Commands, app
from graftcli.cli.options import (
    Device,
    Ema,
    ImageSize,
    InChans,
    Json,
    NumClasses,
    Quiet,
    Seed,
    Student,
    StudentCheckpoint,
    Teacher,
    TeacherCheckpoint,
    UnsafeLoad,
)
from graftcli.cli.other_names import SET_LENGTH, SET_LR
from graftcli.cli.parsing import parse_img_size
from graftcli.errors import UsageError
from graftcli.recipe.file import load

run = CliRunner().invoke


@pytest.mark.parametrize(
    ("text", "size"), [("224", (224, 224)), ("224x160", (224, 160)), ("192,256", (192, 256)), (" 8X9 ", (8, 9))]
)
def test_an_image_size_is_a_square_or_height_and_width(text: str, size: tuple[int, int]) -> None:
    assert parse_img_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "224x", "224x160x3", "-5", "0", "12x0", "22.4"])
def test_anything_else_is_no_image_size(text: str) -> None:
    with pytest.raises(UsageError, match="--img-size"):
        parse_img_size(text)


@pytest.mark.parametrize(
    ("option", "fix"),
    [
        ("--batch-size", "Use -b or --batch."),
        ("--workers", "Use -j or --jobs."),
        ("--lr", "--set stages.graft.lr=1e-3"),
        ("--epochs", "--set stages.graft.steps=500"),
    ],
)
def test_an_option_of_other_tools_is_answered_with_the_flag_of_this_one(option: str, fix: str) -> None:
    refused = run(app, ["distill", option, "4", "--json"])
    error = json.loads(refused.stderr)["error"]
    assert refused.exit_code == error["code"] == 2
    assert error["message"] == f"`graftcli distill` has no option {option}." and fix in error["fix"]
    elsewhere = run(app, ["trust", "ls", option, "4"])  # which has none of these flags
    assert elsewhere.exit_code == 2 and "No such option" in elsewhere.stderr


@pytest.mark.parametrize("override", re.findall(r"--set (\S+?)[;.]? ", f"{SET_LR} {SET_LENGTH} "))
def test_the_overrides_of_the_answers_are_valid(override: str) -> None:
    assert load("graft", (override,)) != load("graft")


def echoing() -> typer.Typer:
    """graftcli with one command, `go`, that takes all shared options and shows what it was given."""
    echo = typer.Typer(cls=Commands)

    @echo.callback()
    def nothing() -> None:
        pass

    @echo.command()
    def go(
        teacher: Teacher,
        student: Student = "resnet18",
        teacher_checkpoint: TeacherCheckpoint = None,
        student_checkpoint: StudentCheckpoint = None,
        num_classes: NumClasses = None,
        in_chans: InChans = None,
        img_size: ImageSize = None,
        ema: Ema = None,
        unsafe_load: UnsafeLoad = False,
        device: Device = "auto",
        seed: Seed = 0,
        as_json: Json = False,
        quiet: Quiet = False,
    ) -> None:
        typer.echo(json.dumps(locals()))

    return echo


def test_a_flag_goes_before_its_variable_and_that_before_the_default() -> None:
    flags = ["go", "--teacher", "a", "--img-size", "32"]
    given = {"GRAFTCLI_IMG_SIZE": "96x64", "GRAFTCLI_SEED": "7", "GRAFTCLI_TEACHER": "b", "GRAFTCLI_EMA": "0"}
    bare = json.loads(run(echoing(), ["go", "--teacher", "a"]).stdout)
    assert (bare["img_size"], bare["seed"], bare["ema"], bare["device"]) == (None, 0, None, "auto")
    by_variable = json.loads(run(echoing(), ["go"], env=given).stdout)
    assert (by_variable["teacher"], by_variable["img_size"], by_variable["seed"]) == ("b", [96, 64], 7)
    assert by_variable["ema"] is False
    by_flag = json.loads(run(echoing(), flags, env=given).stdout)
    assert (by_flag["teacher"], by_flag["img_size"], by_flag["seed"]) == ("a", [32, 32], 7)


def commands(group: Any, path: str = "graftcli") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


@pytest.mark.parametrize(("path", "command"), list(commands(typer.main.get_command(app))))
def test_every_option_of_every_command_has_the_variable_of_its_name(path: str, command: Any) -> None:
    flags = [param for param in command.params if param.param_type_name == "option" and param.name != "help"]
    for param in flags:
        flag = param.opts[0]
        assert param.envvar == "GRAFTCLI_" + flag.removeprefix("--").replace("-", "_").upper(), f"{path} {flag}"


def test_there_are_commands() -> None:
    assert {"graftcli distill", "graftcli recipes cp"} <= {path for path, _ in commands(typer.main.get_command(app))}


def test_a_size_that_is_none_is_usage() -> None:
    ran = run(echoing(), ["go", "--teacher", "a", "--img-size", "big"])
    assert ran.exit_code == 2
    assert ran.stderr.splitlines()[0] == "--img-size 'big' is not an image size."
