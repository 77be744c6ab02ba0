"""Recipes as files: the shipped ones, the faults of one's own, and overriding."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import graftcli
from graftcli.errors import UsageError
from graftcli.recipe.file import find, load, read_text, shipped

GOOD = """\
name: mine
about: a test
init: inherit
stages:
  - name: graft
    train: blocks
    targets: [{at: logits, loss: norm-l2}]
    steps: 10
    lr: 1e-3
  - name: finish
    train: student
    targets:
      - {at: features, loss: mse}
    epochs: 5
    lr: 2e-3
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return written(tmp_path, GOOD)


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(path: Path, *overrides: str) -> list[str]:
    """The lines of faults, without the folder."""
    with pytest.raises(UsageError) as raised:
        load(str(path), overrides)
    first, *lines = raised.value.message.splitlines()
    of_settings = sum(line.lstrip().startswith("--set ") for line in lines)
    places = "--set has" if of_settings == len(lines) else f"{path} and --set have" if of_settings else f"{path} has"
    assert first == f"{places} {len(lines)} fault{'s' * (len(lines) > 1)}."
    assert raised.value.exit_code == 2
    assert "graftcli recipes" in raised.value.fix
    return [line.strip().replace(f"{path}:", "") for line in lines]


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_reads_and_says_what_it_is_in_forty_lines(name: str) -> None:
    text = read_text(shipped()[name])
    lines = text.splitlines()
    header = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    assert load(name).name == name
    assert len(lines) <= 40
    assert header[0].startswith(f"# {name}: ")
    assert any(re.match(r"# (Paper|From): .*(19|20)\d\d", line) for line in header)
    assert any(re.match(r"# Run: graftcli distill .*--images ", line) for line in header)
    assert any(line.startswith("# measured: ") for line in header)


def test_the_default_and_the_baselines_are_shipped() -> None:
    assert {"graft", "netgraft", "kd", "fitnet"} <= set(shipped())


def test_netgraft_is_the_papers_algorithm() -> None:
    recipe = load("netgraft")
    graft, connect = recipe.stages
    assert (recipe.init, recipe.adapters.where) == ("random", "auto")
    assert (graft.train, graft.input, graft.epochs, graft.lr) == ("blocks", "teacher", (100, 60), (2.5e-4,))
    assert (connect.train, connect.epochs, connect.lr) == ("growing", (100,), (1e-4,))
    for stage in recipe.stages:
        assert [(target.at, target.loss) for target in stage.targets] == [("logits", "norm-l2")]
        assert (stage.optimizer, stage.weight_decay, stage.betas) == ("adam", 0, (0.9, 0.999))
        assert (stage.schedule, stage.batch, stage.lr_scale_with_batch, stage.batchnorm) == (
            "constant",
            64,
            64,
            "train",
        )


def test_the_default_solves_what_it_can_and_keeps_batchnorm_frozen() -> None:
    recipe = load("graft")
    assert recipe.init == "least-squares"
    assert {stage.batchnorm for stage in recipe.stages} == {"frozen"}
    assert [stage.train for stage in recipe.stages] == ["blocks", "student"]


def test_recipes_are_found_inside_an_installed_package(tmp_path: Path) -> None:
    """The layout of a wheel, in a fresh process that sees no checkout."""
    package = Path(graftcli.__file__).parent
    table = tomllib.loads((package.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert table["targets"]["wheel"]["force-include"] == {"recipes": "graftcli/recipes"}
    shutil.copytree(package, tmp_path / "graftcli")
    shutil.copytree(package.parent / "recipes", tmp_path / "graftcli" / "recipes")
    code = "from graftcli.recipe.file import load, shipped; print(shipped()['graft'], load('graft').name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "graftcli" / "recipes" / "graft.yaml"), "graft"]


def test_a_name_is_a_shipped_recipe_and_a_path_is_a_file(good: Path) -> None:
    assert find("kd") == shipped()["kd"]
    assert find(str(good)) == good
    with pytest.raises(UsageError, match=r"no recipe `netgrft`.*graft.*\n.*nearest name is netgraft"):
        find("netgrft")
    with pytest.raises(UsageError, match="Give one of these names, or the path of a YAML file"):
        find("some/where/else.yaml")


def test_a_binary_file_is_refused_with_one_message(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(UsageError, match=r"mine.yaml is not a text file: byte 6 is not UTF-8"):
        load(str(path))


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert load(str(written(tmp_path, "\ufeff" + GOOD))).name == "mine"


def test_all_faults_are_reported_at_once_in_order_with_their_lines(tmp_path: Path) -> None:
    text = """\
name: mine
init: randm
adaptors: {where: auto}
views: {count: 0, augment: {flip: yes, colour: {strength: strong}}}
stages:
  - name: graft
    train: blocks
    input: mix
    targets:
      - {at: logits, loss: norm-l2, temperature: 3}
      - {at: output, loss: kl}
    steps: [100, -1]
    lr: fast
    lr: 1e-3
  - name: graft
    train: student
    mu: 0.5
    targets: [{at: output, loss: mse}]
    lr: [1e-3, 2e-3]
    momentun: 0.9
  - 7
"""
    assert faults(written(tmp_path, text)) == [
        "1: `about` is missing; allowed: 1 to 1000 characters that describe the recipe",
        '2: `init` found "randm"; allowed: one of random, inherit, least-squares, pretrained, checkpoint',
        "3: `adaptors` is an unknown key; did you mean adapters?",
        "4: `views.count` found 0; allowed: a whole number from 1 to 1e9: views per image; "
        "null: a new view at each step",
        '4: `views.augment.flip` found "yes"; allowed: true or false',
        '4: `views.augment.colour.strength` found "strong"; '
        "allowed: a number from 0 to 1: the largest change of brightness, contrast and saturation",
        "6: `stages.0.mu` is missing: `input: mix` needs the weight of the teacher's features, a number from 0 to 1",
        "10: `stages.0.targets.0.temperature` found 3.0, "
        "but the loss is norm-l2 and only kl has a temperature: remove it",
        "11: `stages.0.targets.1.loss` found kl, which needs logits: "
        "use it with `at: logits` or head; with output use mse",
        "12: `stages.0.steps.1` found -1; allowed: a whole number from 1 to 1e9, or a list of them, one per block",
        "14: `stages.0.lr` is given twice, first at 13",
        "15: `stages.1.name` found graft again: give each stage its own name",
        "15: `stages.1.epochs` is missing, and so is steps: give one of them",
        "17: `stages.1.mu` found 0.5, but `input` is teacher: remove mu, or use `input: mix`",
        "18: `stages.1.targets.0.at` found output, which needs a single block: with `train: student` use outputs,"
        " features or logits",
        "19: `stages.1.lr` found 2 values, but `train: student` trains one unit: give one value",
        "20: `stages.1.momentun` is an unknown key; did you mean momentum?",
        "21: `stages.2` found 7; allowed: a list of at least one stage, each a map",
    ]


@pytest.mark.parametrize(("value", "found"), [("first", '"first"'), ("[same, 0]", "0")])
def test_a_wrong_block_to_freeze_is_answered_with_what_is_allowed(good: Path, value: str, found: str) -> None:
    with pytest.raises(UsageError) as refused:
        load(str(good), [f"freeze={value}"])
    allowed = "`same` or `same-shape` or `none`, or block numbers from 1, such as `[1]` or `[same, 1]`"
    assert f"found {found}; allowed: {allowed}" in refused.value.message
    assert load(str(good), ["freeze=[same, 1]"]).freeze == ("same", 1)


def test_an_unknown_key_without_similar_ones_lists_the_known_keys(tmp_path: Path) -> None:
    assert faults(written(tmp_path, GOOD + "views: {xyz: 1}\n")) == [
        "16: `views.xyz` is an unknown key; known: count, total, augment, synthetic, extra_share"
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "just words\n", "- a\n- b\n"])
def test_a_recipe_is_a_map(tmp_path: Path, text: str) -> None:
    (fault,) = faults(written(tmp_path, text), "name=other")
    assert re.fullmatch(r"1: the recipe found .*; allowed: a map with name, about, init and stages", fault)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name: mine\nstages:\n\t- a\n", "3: the recipe cannot be read: while scanning for the next token, found"),
        ("name: mine\nstages: [\n", "3: the recipe cannot be read: while parsing a flow node that starts at 3"),
    ],
)
def test_text_that_is_no_yaml_is_one_fault(tmp_path: Path, text: str, fault: str) -> None:
    (found,) = faults(written(tmp_path, text), "stages.0.lr=1")
    assert found.startswith(fault)


def test_what_could_not_be_read_is_no_second_fault(tmp_path: Path) -> None:
    assert faults(written(tmp_path, GOOD.replace("init: inherit", "init: !x inherit"))) == [
        "3: `init` has the tag !x: remove it"
    ]


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("stages.0.lr=1e-2", ("stages", 0, "lr"), (1e-2,)),
        ("stages.graft.lr=[1e-2, 3]", ("stages", 0, "lr"), (1e-2, 3.0)),
        ("stages.finish.batch=8", ("stages", 1, "batch"), 8),
        ("stages.finish.targets.0.weight=.5", ("stages", 1, "targets", 0, "weight"), 0.5),
        ("stages.0.augment.flip=true", ("stages", 0, "augment", "flip"), True),
        ("views.augment.crop.padding=0.25", ("views", "augment", "crop", "padding"), 0.25),
        ("views={count: 3}", ("views", "count"), 3),
        ("about=a=b", ("about",), "a=b"),
        ("about='1'", ("about",), "1"),
        ("stages.0.ema=null", ("stages", 0, "ema"), None),
        (" init =random", ("init",), "random"),
    ],
)
def test_a_setting_overrides_the_file(good: Path, override: str, path: tuple[str | int, ...], value: object) -> None:
    found: Any = load(str(good), [override])
    for key in path:
        found = found[key] if isinstance(key, int) else getattr(found, key)
    assert found == value
    assert type(found) is type(value)


def test_settings_are_applied_in_order_and_change_nothing_else(good: Path) -> None:
    changed = load(str(good), ["stages.0.steps=null", "stages.0.epochs=7", "stages.0.epochs=9"])
    expected = GOOD.replace("steps: 10", "epochs: 9")
    assert changed == load(str(written(good.parent, expected)))


def test_faults_of_settings_and_of_the_file_are_reported_together(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace("init: inherit", "init: magic"))
    settings = [
        "stages.0.lrr=1",
        "stages.7.lr=1",
        "stages.connect.lr=1",
        "name.first=1",
        "lonely",
        "views.count=[1",
        "stage.0.lr=3",
        "stages.finish.lr=fast",
        "stages.0.epochs=3",
    ]
    assert sorted(faults(path, *settings)) == sorted(
        [
            '3: `init` found "magic"; allowed: one of random, inherit, least-squares, pretrained, checkpoint',
            "--set stages.0.lrr=1: `stages.0.lrr` is an unknown key; did you mean lr?",
            "--set stages.7.lr=1: `stages.7.lr` cannot be set: the list has no item `7`; it has 0, 1, graft, finish",
            "--set stages.connect.lr=1: `stages.connect.lr` cannot be set: the list has no item `connect`; "
            "it has 0, 1, graft, finish",
            '--set name.first=1: `name.first` cannot be set: "mine" has no key `first`',
            "--set lonely: the setting has no `=`: write it like stages.0.lr=1e-3",
            "--set views.count=[1: `views.count` cannot be read: while parsing a flow sequence that starts at "
            "--set views.count=[1, expected ',' or ']', but got '<stream end>'",
            "--set stage.0.lr=3: `stage` is an unknown key; did you mean stages?",
            '--set stages.finish.lr=fast: `stages.1.lr` found "fast"; '
            "allowed: a number above 0, from 1e-12 to 100, or a list of them, one per block",
            "--set stages.0.epochs=3: `stages.0.epochs` is given in addition to steps: "
            "give only one of them (null unsets the other)",
        ]
    )


def test_steps_scale_shortens_steps_and_epochs(good: Path) -> None:
    assert [(each.steps, each.epochs) for each in load(str(good), steps_scale=0.3).stages] == [
        ((3,), None),
        (None, (2,)),
    ]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_steps_scale_is_above_zero(good: Path, scale: float) -> None:
    with pytest.raises(UsageError, match="--steps-scale is"):
        load(str(good), steps_scale=scale)
