"""All commands: help, exit codes, messages and shared options."""

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from graftcli import __version__
from graftcli.cli import Commands, app
from graftcli.cli.exits import failure
from graftcli.cli.options import Json
from graftcli.errors import CheckpointError, GateError, ImagesError, MachineError, PairError, UsageError

HEAVY = {"torch", "torchvision", "timm", "numpy", "PIL", "onnx", "onnxruntime", "onnxscript", "yaml"}
run = CliRunner().invoke


def commands(group: object = None, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its full name, those of nested groups too."""
    group = typer.main.get_command(app) if group is None else group
    for short, command in getattr(group, "commands", {}).items():
        yield from commands(command, f"{name}{short} ")
        if not hasattr(command, "commands"):
            yield f"{name}{short}", command


def failing(problem: BaseException) -> typer.Typer:
    """graftcli with one command, `go`, that meets `problem`."""
    broken = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

    @broken.callback()
    def nothing() -> None:
        pass

    @broken.command()
    def go(as_json: Json = False) -> None:
        raise problem

    return broken


# ---- help ----


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["env", "--help"]])
def test_help_and_version_import_nothing_heavy(words: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "graftcli", *words], capture_output=True, text=True, check=True
    )
    imported = {entry.rpartition("|")[2].strip().partition(".")[0] for entry in ran.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & HEAVY


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_take_little_cpu_time(word: str) -> None:
    resource = pytest.importorskip("resource", reason="Windows does not tell a child's CPU time")

    def seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return float(used.ru_utime + used.ru_stime)

    def cost() -> float:
        before = seconds()
        subprocess.run([sys.executable, "-m", "graftcli", word], capture_output=True, check=True)
        return seconds() - before

    assert min(cost() for _ in range(3)) < 0.4


def test_version_is_the_packages() -> None:
    ran = run(app, ["--version"])
    assert (ran.exit_code, ran.stdout) == (0, f"graftcli {__version__}\n")


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_help_of_every_command_ends_with_examples_that_parse(name: str) -> None:
    ran = run(app, [*name.split(), "--help"], env={"COLUMNS": "200"})
    assert ran.exit_code == 0, ran.output
    _, _, shown = ran.stdout.rpartition("Examples:")
    examples = [example.strip() for example in shown.strip().splitlines()]
    assert examples
    command = dict(commands())[name]
    flags = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    for example in examples:
        words = shlex.split(example.partition(" > ")[0].partition(" | ")[0])
        assert words[: 1 + len(name.split())] == ["graftcli", *name.split()], example
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= flags, example


def test_help_groups_the_commands_by_purpose() -> None:
    shown = run(app, ["--help"]).stdout
    panels = re.findall(r"─ ([A-Z][a-z]+[ &a-z]*) ─", shown)
    assert panels[0] == "Options"
    known = ["Train", "Inspect", "Evaluate & export", "Utilities"]
    assert panels[1:] == [panel for panel in known if panel in panels]
    assert re.search(r"Utilities.*\n.*\bcheck\b.*\n(.*\n)*?.*\benv\b", shown)


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    ran = run(app, ["evn"])
    assert ran.exit_code == 2
    assert "'env'" in ran.stderr


@pytest.mark.parametrize(
    ("words", "at", "expected"), [("graftcli en", "1", "env"), ("graftcli env --j", "2", "--json")]
)
def test_the_shell_completes_commands_and_flags(words: str, at: str, expected: str) -> None:
    completion = {"_GRAFTCLI_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": at}
    ran = subprocess.run(
        [sys.executable, "-m", "graftcli"], env=os.environ | completion, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == [expected]


# ---- exit codes and messages ----


@pytest.mark.parametrize(
    ("kind", "code"),
    [(UsageError, 2), (PairError, 3), (GateError, 4), (ImagesError, 5), (CheckpointError, 6), (MachineError, 7)],
)
def test_an_error_prints_message_then_fix_with_its_exit_code(kind: type[Exception], code: int) -> None:
    ran = run(failing(kind("cut 3 differs: [14x14] and 12x12.", "Choose the cuts.")), ["go"])
    assert ran.exit_code == code
    assert ran.stderr == "cut 3 differs: [14x14] and 12x12.\nChoose the cuts.\n"
    assert ran.stdout == ""


def test_with_json_an_error_is_one_document_on_stderr() -> None:
    ran = run(failing(CheckpointError("one\ntwo", "three")), ["go", "--json"])
    assert ran.exit_code == 6
    assert json.loads(ran.stderr) == {"error": {"code": 6, "message": "one\ntwo", "fix": "three"}}
    assert ran.stdout == ""


def test_with_json_a_wrong_flag_is_a_document_too() -> None:
    for words, setting in ((["env", "--jsno", "--json"], {}), (["env", "--jsno"], {"GRAFTCLI_JSON": "1"})):
        ran = run(app, words, env=setting)
        error = json.loads(ran.stderr)["error"]
        assert ran.exit_code == error["code"] == 2
        assert "--jsno" in error["message"]
        assert error["fix"] == "See `graftcli env --help`."


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), typer.Abort()])
def test_an_interrupted_command_says_in_one_line_how_to_resume(ending: BaseException) -> None:
    ran = run(failing(ending), ["go"])
    assert ran.exit_code == 130
    assert ran.stderr == "interrupted: run the same command again to resume\n"


@pytest.mark.parametrize(
    ("problem", "word"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/run/block2.safetensors"), "block2.safetensors"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk"),
        (OSError(errno.EROFS, "Read-only file system", "/mnt/out"), "/mnt/out"),
        (PermissionError(errno.EACCES, "Permission denied", "/closed/out"), "/closed/out"),
        (OSError(errno.EIO, "Input/output error", "/mnt/nas/a.png"), "/mnt/nas/a.png"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (MemoryError("Unable to allocate 9 TiB"), "9 TiB"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (RuntimeError("operator torchvision::nms does not exist"), "force-reinstall torch torchvision"),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), "pip install timm"),
    ],
)
def test_what_the_machine_lacks_is_no_bug(problem: Exception, word: str) -> None:
    ran = run(failing(problem), ["go"])
    assert ran.exit_code == 7
    assert word in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "bug" not in ran.stderr


def test_torch_out_of_memory_is_the_machines() -> None:
    torch = pytest.importorskip("torch")
    found = failure(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."))
    assert found.code == 7
    assert "20.00 GiB" in found.message


def test_anything_else_is_a_bug_with_its_traceback_last() -> None:
    ran = run(failing(ZeroDivisionError("division by zero")), ["go"])
    assert ran.exit_code == 1
    first, *_, last = ran.stderr.splitlines()
    assert first == "bug in graftcli: ZeroDivisionError: division by zero"
    assert "Traceback (most recent call last):" in ran.stderr
    assert last == "ZeroDivisionError: division by zero"
    as_json = json.loads(run(failing(ZeroDivisionError("division by zero")), ["go", "--json"]).stderr)["error"]
    assert "test_cli.py" in as_json["trace"]


def test_a_closed_pipe_ends_the_command_silently() -> None:
    endless = """
import typer
from graftcli.cli import Commands, render
app = typer.Typer(cls=Commands)
@app.callback()
def nothing() -> None: ...
@app.command()
def go() -> None:
    while True: render.line("x" * 99)
app(["go"])
"""
    with subprocess.Popen([sys.executable, "-c", endless], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ran:
        assert ran.stdout is not None and ran.stderr is not None
        ran.stdout.readline()
        ran.stdout.close()
        assert ran.stderr.read() == b""
    assert ran.returncode == 141
