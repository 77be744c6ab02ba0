"""Numbers and names that are out of range are refused before anything is loaded, with the range in the message."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from graftcli.cli import app
from graftcli.cli.limits import check_strings, unknown_variables
from graftcli.errors import ImagesError, UsageError
from graftcli.recipe.file import load

BASE = ["distill", "--teacher", "resnet34", "--student", "resnet18", "--images", "nowhere"]
HUGE = "9" * 400


@pytest.mark.parametrize(
    ("flags", "limit"),
    [
        (["--cache-gb", "1e300"], "1,000,000"),
        (["--cache-gb", "-1"], "from 0 to 1,000,000"),
        (["--cache-gb", "nan"], "1,000,000"),
        (["--cache-gb", "inf"], "1,000,000"),
        (["-b", "999999999"], "65,536"),
        (["-b", "0"], "1 to 65,536"),
        (["-b", HUGE], "(400 digits)"),
        (["--steps-scale", "1e300"], "10,000"),
        (["--steps-scale", "nan"], "10,000"),
        (["--steps-scale", "-1"], "0.0001"),
        (["--seed", "-1"], "0"),
        (["--seed", HUGE], f"{2**62:,}"),
        (["--jobs", "1000000000"], "1,024"),
        (["--num-classes", "1000000000000"], "10,000,000"),
        (["--in-chans", "1000000"], "4,096"),
        (["--img-size", "1000000"], "16,384"),
        (["--img-size", HUGE], "224x160"),
        (["--img-size", "0x9"], "16,384"),
        (["--crop-pct", "1e-9"], "0.01"),
        (["--crop-pct", "1e9"], "from 0.01 to 10"),
        (["--blocks-count", "1000000000"], "1,000"),
        (["--mean", "nan,0,0"], "1,000"),
        (["--mean", "1e30,0,0"], "1,000"),
        (["--std", "0,1,1"], "1e-06"),
        (["--std", "inf,1,1"], "1,000"),
        (["--out", "x" * 300], "200"),
        (["--out", "/".join(["y" * 150] * 30)], "3,000"),
        (["--set", "stages.graft.lr=1e38"], "100"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(flags: list[str], limit: str) -> None:
    ran = CliRunner().invoke(app, [*BASE, *flags, "--json"], env={"COLUMNS": "300"})
    error = json.loads(ran.stderr)["error"]
    assert (ran.exit_code, error["code"]) == (2, 2), error
    assert limit in f"{error['message']} {error['fix']}", error
    assert ran.stdout == ""


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        (["bench", "resnet18", "--seconds", "nan"], "31,536,000"),
        (["bench", "resnet18", "--threads", "1000000"], "4,096"),
        (["export", "resnet18", "--min-agreement", "nan"], "from 0 to 1"),
        (["compare", *BASE[1:], "--shots", "1,1000000000"], "100,000,000"),
        (["compare", *BASE[1:], "--draws", "1000000"], "10,000"),
        (["compare", *BASE[1:], "--seconds", "nan"], "31,536,000"),
    ],
)
def test_every_command_has_the_ranges(words: list[str], limit: str) -> None:
    ran = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
    assert ran.exit_code == 2, ran.stderr
    assert limit in ran.stderr, ran.stderr


def test_a_variable_has_the_range_of_its_option() -> None:
    ran = CliRunner().invoke(app, BASE, env={"GRAFTCLI_CACHE_GB": "nan", "COLUMNS": "300"})
    assert (ran.exit_code, ran.stderr) == (2, "--cache-gb is nan.\nGive a number from 0 to 1,000,000.\n")


def test_what_is_within_the_ranges_passes() -> None:
    check_strings({"--out": Path("x" * 200), "--images": "größe", "--seed": 2**62, "--jobs": None, "--amp": True})


# -- recipes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "range_"),
    [
        *((f"stages.graft.lr={value}", "from 1e-12 to 100") for value in ("1e38", "0", "-1", "nan", ".inf", "1e999")),
        ("stages.graft.lr=[1e-3, 1e38]", "from 1e-12 to 100"),
        ("stages.graft.adapter_lr=1e38", "from 1e-12 to 100"),
        ("stages.graft.steps=1000000000000", "from 1 to 1e9"),
        ("stages.graft.steps=1e12", "from 1 to 1e9"),
        (f"stages.graft.steps={HUGE}", "from 1 to 1e9"),
        ("stages.graft.batch=65537", "from 1 to 65536"),
        ("stages.graft.weight_decay=1e9", "from 0 to 100"),
        ("stages.graft.clip=1e300", "from 1e-6 to 1e6"),
        ("stages.graft.ema=1e-300", "from 1e-6 to 0.999999999"),
        ("stages.graft.warmup=1.1", "from 0 to 1"),
        ("stages.graft.targets.0.weight=1e300", "from 1e-6 to 1e6"),
        ("views.total=1e18", "from 1 to 1e9"),
        ("views.count=1000000000000", "from 1 to 1e9"),
        ("views.augment.resized_crop.scale=[1e-300, 1]", "from 0.0001 to 1"),
        ("views.augment.mixup={share: 1, alpha: 1e-300}", "from 1e-6 to 1e6"),
        ("views.synthetic.images=1000000000", "from 1 to 65536"),
        (f"name={'a' * 300}", "at most 64 lower-case letters"),
        (f"stages.graft.name={'a' * 300}", "at most 64 lower-case letters"),
        (f"about={'a' * 3000}", "1000 characters"),
    ],
)  # fmt: skip
def test_a_recipe_out_of_range_is_refused_with_the_range(setting: str, range_: str) -> None:
    with pytest.raises(UsageError) as refused:
        load("graft", [setting])
    assert range_ in refused.value.message


@pytest.mark.parametrize("nest", ["a." * 5000 + "b=1", "about=" + "[" * 20_000, "views=" + "[" * 900 + "]" * 900])
def test_a_setting_that_is_nested_deeply_is_a_short_fault(nest: str) -> None:
    with pytest.raises(UsageError) as refused:
        load("graft", [nest])
    assert len(refused.value.message) < 20_000


def test_steps_that_a_scale_takes_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="at most 1,000,000,000"):
        load("graft", ["stages.graft.steps=1000000"], steps_scale=10_000)
    for scale in (float("nan"), float("inf"), 0.0, -1.0, 1e300):
        with pytest.raises(UsageError, match="1e-06 to 10,000"):
            load("graft", steps_scale=scale)


def test_a_file_far_larger_than_a_recipe_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_text("#" * 1_000_001)
    with pytest.raises(UsageError, match="1,000,001 bytes"):
        load(str(tmp_path / "big.yaml"))


# -- names that are not UTF-8 -------------------------------------------------------------------------------------

STRANGE = "caf\udce9"  # what Python makes of the bytes of Latin-1


@pytest.mark.parametrize(
    ("flag", "kind"),
    [
        *((flag, UsageError) for flag in ("--out", "--teacher", "--teacher-checkpoint", "--recipe", "--run")),
        *((flag, ImagesError) for flag in ("--images", "--val-images", "--test", "--calib")),
    ],
)  # fmt: skip
def test_a_name_that_is_not_utf8_is_refused_by_its_flag(flag: str, kind: type[UsageError]) -> None:
    for value in (STRANGE, Path("runs", STRANGE), ["fine", STRANGE]):
        with pytest.raises(kind) as refused:
            check_strings({flag: value})
        assert refused.value.message.startswith(f"{flag} ") and r"caf\xe9" in refused.value.message


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["distill", "--teacher", "resnet34", "--student", "resnet18", "--images", "p", "--out", b"caf\xe9"], 2),
        (["distill", "--teacher", b"caf\xe9.py:f", "--student", "resnet18", "--images", "p"], 2),
        (["distill", "--teacher", "resnet34", "--student", "resnet18", "--images", b"caf\xe9"], 5),
        (["images", b"caf\xe9"], 5),
        (["eval", b"caf\xe9", "--images", "p"], 2),
        (["report", b"caf\xe9"], 2),
        (["recipes", "show", b"caf\xe9"], 2),
    ],
)
def test_the_program_refuses_it_in_words_and_in_json(words: list[str | bytes], code: int, tmp_path: Path) -> None:
    for more in ((), ("--json",)) if words[0] != "recipes" else ((),):
        ran = subprocess.run([sys.executable, "-m", "graftcli", *words, *more], capture_output=True, cwd=tmp_path)
        assert ran.returncode == code, ran.stderr
        text = ran.stderr.decode("utf-8")
        assert "Traceback" not in text and "\\" in text and "e9" in text
        assert not more or json.loads(text)["error"]["code"] == code


# -- variables ----------------------------------------------------------------------------------------------------


def test_a_mistyped_variable_is_one_warning_with_the_nearest() -> None:
    known = ["GRAFTCLI_IMG_SIZE", "GRAFTCLI_SEED"]
    assert list(unknown_variables({"GRAFTCLI_IMGSIZE": "1", "GRAFTCLI_SEED": "2", "HOME": "/"}, known)) == [
        "unknown environment variable GRAFTCLI_IMGSIZE is ignored; did you mean GRAFTCLI_IMG_SIZE?"
    ]
    assert list(unknown_variables(["graftcli_seed", "GRAFTCLI_"], known))[1].endswith("GRAFTCLI_SEED?")


def test_the_program_warns_of_it_and_continues() -> None:
    ran = CliRunner().invoke(app, ["recipes", "ls"], env={"GRAFTCLI_IMGSIZE": "64", "GRAFTCLI_SEED": "3"})
    assert ran.exit_code == 0
    assert ran.stderr.count("warning: ") == 1 and "GRAFTCLI_IMG_SIZE" in ran.stderr
    ran = CliRunner().invoke(app, ["recipes", "ls", "--json"], env={"GRAFTCLI_IMGSIZE": "64"})
    assert json.loads(ran.stdout) and json.loads(ran.stderr)["event"] == "warned"
