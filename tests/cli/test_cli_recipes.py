"""graftcli recipes: what is printed, what is written, and what is refused."""

import errno
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from graftcli.cli.recipes import app
from graftcli.errors import GraftError, MachineError, UsageError
from graftcli.recipe import Recipe, Stage
from graftcli.recipe.file import load, read_text, shipped


def graftcli_recipes(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def refused(*words: str) -> GraftError:
    result = graftcli_recipes(*words)
    assert isinstance(result.exception, GraftError)
    return result.exception


def test_ls_names_every_recipe_with_its_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    result = graftcli_recipes("ls")
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    for name in shipped():
        assert load(name).about in rows[name]
        assert rows[name].rstrip().endswith(", ".join(stage.name for stage in load(name).stages))


def test_ls_json_is_one_document() -> None:
    listed = json.loads(graftcli_recipes("ls", "--json").stdout)
    assert [each["name"] for each in listed] == list(shipped())
    assert {"name": "netgraft", "about": load("netgraft").about, "stages": ["graft", "connect"]} in listed


def test_show_prints_the_file_as_it_is() -> None:
    assert graftcli_recipes("show", "netgraft").stdout == read_text(shipped()["netgraft"])
    assert "nearest name is netgraft" in refused("show", "netgraf").fix


def test_cp_makes_a_copy_that_validates(tmp_path: Path) -> None:
    copy = tmp_path / "mine.yaml"
    result = graftcli_recipes("cp", "graft", str(copy))
    assert result.stdout == f"{copy}\n"
    assert copy.read_bytes() == shipped()["graft"].read_bytes()
    assert load(str(copy)) == load("graft")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_cp_names_the_copy_itself_in_a_folder_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert graftcli_recipes("cp", "kd", str(tmp_path)).stdout == f"{tmp_path / 'kd.yaml'}\n"
    monkeypatch.chdir(tmp_path)
    assert graftcli_recipes("cp", "fitnet").stdout == "fitnet.yaml\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fitnet.yaml", "kd.yaml"]


def test_cp_replaces_a_file_only_with_overwrite(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("precious")
    error = refused("cp", "graft", str(mine))
    assert isinstance(error, UsageError)
    assert str(mine) in error.message
    assert "--overwrite" in error.fix
    assert mine.read_text() == "precious"
    assert graftcli_recipes("cp", "graft", str(mine), "--overwrite").exit_code == 0
    assert load(str(mine)) == load("graft")


def test_cp_into_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for parent in (tmp_path / "absent", tmp_path / "file"):
        error = refused("cp", "graft", str(parent / "mine.yaml"))
        assert isinstance(error, UsageError)
        assert f"There is no folder `{parent}`" in error.message


def test_cp_to_where_nothing_can_be_written_is_the_machines_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    error = refused("cp", "graft", str(tmp_path / "mine.yaml"))
    assert isinstance(error, MachineError)
    assert str(tmp_path / "mine.yaml") in error.message and "No space left" in error.message
    assert not list(tmp_path.iterdir())


def test_validate_says_what_it_read() -> None:
    result = graftcli_recipes("validate", "graft", "kd")
    assert result.exit_code == 0
    assert result.stdout == "graft: recipe graft, stages graft, finish\nkd: recipe kd, stages finish\n"


def test_results_are_json_too(tmp_path: Path) -> None:
    sound = graftcli_recipes("validate", "kd", "--json").stdout
    assert json.loads(sound) == [{"file": "kd", "recipe": "kd", "stages": ["finish"]}]
    target = str(tmp_path / "mine.yaml")
    assert json.loads(graftcli_recipes("cp", "kd", target, "--json").stdout) == {"recipe": "kd", "file": target}


def test_validate_reports_the_faults_of_every_file(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(read_text(shipped()["kd"]).replace("lr: 1e-3", "lr: fast").replace("init: random", "init: x"))
    second.write_text("stages: [\n")
    result = graftcli_recipes("validate", str(first), str(second), "absent", "graft")
    error = result.exception
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert f"{first} has 2 faults." in error.message
    line = first.read_text().splitlines().index("init: x") + 1
    assert f'{first}:{line}: `init` found "x"' in error.message
    assert f"{second}:2: the recipe cannot be read" in error.message
    assert "no recipe `absent`" in error.message
    assert result.stdout == "graft: recipe graft, stages graft, finish\n"


def test_validate_checks_settings_too() -> None:
    assert graftcli_recipes("validate", "graft", "--set", "stages.graft.lr=1e-4").exit_code == 0
    assert (
        "--set stages.graft.lr=0: `stages.0.lr` found 0"
        in refused("validate", "graft", "--set", "stages.graft.lr=0").message
    )


@pytest.mark.parametrize("command", ["ls", "show", "cp", "validate"])
def test_help_ends_with_an_example(command: str) -> None:
    assert f"graftcli recipes {command}" in graftcli_recipes(command, "--help").stdout


def test_the_reference_of_recipes_is_up_to_date() -> None:
    page = next(iter(shipped().values())).with_name("README.md")
    assert graftcli_recipes("schema", "--markdown").stdout == page.read_text(encoding="utf-8")


def test_the_schema_has_every_field() -> None:
    schema = json.loads(graftcli_recipes("schema").stdout)
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert set(schema["$defs"]["Stage"]["properties"]) == set(Stage.model_fields)
