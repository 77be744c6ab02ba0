"""`compare` as a user meets it: cells that are ordinary runs, taken as they are, and one table of them."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import graftcli
from graftcli.comparison import compatibility as eligible
from graftcli.comparison import dealing
from graftcli.comparison import running as comparing
from graftcli.comparison.fingerprint import file_stats
from graftcli.errors import GateError
from graftcli.events import Event, FileSaved, TimeEstimated, Warned
from graftcli.runs.running import distill_in_one_process
from graftcli.store import UnitState, read_record
from graftcli.store.atomic import read_tensors
from tests.commands import call
from tests.image_files import noise, photos, saved
from tests.nets import NETS, randomise, resnet
from tests.records import files

pytestmark = pytest.mark.usefixtures("inside")

TINY = """
name: tiny
about: for tests
init: inherit
views: {count: 2, augment: {flip: true}}
stages:
  - {name: graft, train: blocks, targets: [{at: output, loss: mse}], steps: 3, batch: 4, lr: 1e-3}
  - {name: finish, train: student, targets: [{at: logits, loss: kl}], steps: 5, batch: 4, lr: 1e-3}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labelled images, a recipe and a teacher's weights, in which commands run."""
    folder = tmp_path_factory.mktemp("place")
    photos(folder, [f"photos/{i % 2}_kind/{i}.png" for i in range(10)])
    (folder / "tiny.yaml").write_text(TINY)
    torch.manual_seed(0)
    torch.save(randomise(resnet(depth=14)).state_dict(), folder / "teacher.pth")
    return folder


def arguments(*more: str, out: str) -> list[str]:
    networks = ("--teacher", f"{NETS}:resnet(depth=14)", "--teacher-checkpoint", "teacher.pth")
    student = ("--student", f"{NETS}:resnet(depth=8)", "--recipe", "tiny.yaml")
    return ["compare", *networks, *student, "--images", "photos", "--out", out, "--quiet", *more]


def document(*more: str, out: str) -> dict[str, Any]:
    result = call(*arguments("--json", *more, out=out))
    assert result.exit_code == 0, result.output + result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


DRAWN = ("--shots", "1,2", "--draws", "2", "--test", "photos")


@pytest.fixture(scope="module")
def finished(place: Path) -> dict[str, Any]:
    """Two numbers of shots, two draws, scored."""
    here = Path.cwd()
    os.chdir(place)
    try:
        return document(*DRAWN, out="whole")
    finally:
        os.chdir(here)


def test_each_cell_is_a_run_of_its_own_and_the_table_is_their_sum(finished: dict[str, Any], place: Path) -> None:
    names = [trial["name"] for trial in finished["trials"]]
    assert names == [f"tiny-resnet-depth-8-{shots}shot-draw{draw}" for draw in (0, 1) for shots in (1, 2)]
    for trial in finished["trials"]:
        student = graftcli.load(place / trial["folder"])
        assert sum(p.numel() for p in student.parameters()) == trial["params"]
        assert (trial["images"], trial["steps"]) == (2 * trial["shots"], 3 * 3 + 5)
        assert (place / trial["folder"] / "report.html").exists()
    assert [(line["shots"], line["draws"]) for line in finished["lines"]] == [(1, 2), (2, 2)]
    each = [trial["accuracy"] for trial in finished["trials"] if trial["shots"] == 1]
    assert finished["lines"][0]["accuracy"]["each"] == each
    assert finished["teacher"]["accuracy"] is not None and finished["teacher"]["name"] == "resnet(depth=14)"
    assert "images per class" in finished["shots"] and "10 images of photos" in finished["scored"]
    assert json.loads((place / "whole/compare.json").read_text()) == finished
    assert "| tiny | 2 |" in (place / "whole/compare.md").read_text()
    assert "Accuracy over shots" in (place / "whole/report.html").read_text()


def test_a_teacher_that_names_no_input_size_gets_that_of_the_images_in_every_cell(place: Path) -> None:
    (place / "nameless.py").write_text(
        "from tests.nets import resnet\n\ndef net(depth=14):\n    made = resnet(depth)\n"
        "    made.__class__ = type('Nameless', (type(made),), {'input_size': None})\n    return made\n"
    )
    networks = ("--teacher", "nameless.py:net", "--teacher-checkpoint", "teacher.pth")
    student = ("--student", "nameless.py:net(depth=8)", "--recipe", "tiny.yaml")
    words = (*networks, *student, "--images", "photos", "--out", "sized")
    for _ in range(2):  # the second time from the cache
        result = call("compare", *words, "--test", "photos", "--quiet")
        assert result.exit_code == 0, result.output + result.stderr
    (cell,) = (place / "sized/cells").iterdir()
    assert graftcli.load(cell, trust_code=True)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert json.loads((cell / "graft.json").read_text())["preprocess"]["size"] == [32, 32]


def test_a_score_is_what_eval_says(finished: dict[str, Any]) -> None:
    trial = finished["trials"][-1]
    teacher = ("--teacher", f"{NETS}:resnet(depth=14)", "--teacher-checkpoint", "teacher.pth")
    result = call("eval", trial["folder"], "--images", "photos", *teacher, "--json")
    (model,) = json.loads(result.stdout)["models"]
    assert model["accuracy"]["top1"]["share"] == trial["accuracy"]
    assert model["likeness"]["agreement"]["share"] == trial["agreement"]


def test_the_same_command_builds_no_network_and_more_of_it_keeps_what_is_there(
    finished: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealing, "distill_in_one_process", None)
    monkeypatch.setattr(eligible, "plan_of", None)
    assert document(*DRAWN, out="whole") == finished
    monkeypatch.undo()
    monkeypatch.chdir(place)
    shutil.copytree(place / "whole", place / "more")  # where the drawn images lie elsewhere, and are the same
    before = files(place / "more/cells")
    more = document("--shots", "1,2", "--draws", "3", "--test", "photos", out="more")
    assert [line["draws"] for line in more["lines"]] == [3, 3]
    after = files(place / "more/cells")
    assert {name: after[name] for name in before} == before


def test_a_cell_made_with_other_settings_is_refused_and_made_again_with_overwrite(
    finished: dict[str, Any], place: Path
) -> None:
    shutil.copytree(place / "whole", place / "other")
    few = ("--shots", "1", "--set", "stages.finish.lr=2e-3")
    result = call(*arguments(*few, out="other"))
    assert result.exit_code == 2 and "recipe.stages.1.lr" in result.stderr and "--overwrite" in result.stderr
    weights = place / "other/cells/tiny-resnet-depth-8-1shot-draw0/model.safetensors"
    before = weights.read_bytes()
    document(*few, "--overwrite", out="other")
    assert weights.read_bytes() != before


FEW = ("--shots", "1", "--test", "photos")


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory, place: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of `place` with a comparison that was run twice, and its table."""
    folder = tmp_path_factory.mktemp("repeated") / "place"
    shutil.copytree(place / "photos", folder / "photos")
    for name in ("tiny.yaml", "teacher.pth"):
        shutil.copy(place / name, folder)
    here = Path.cwd()
    os.chdir(folder)
    try:
        before = document(*FEW, out="again")
        assert document(*FEW, out="again") == before
    finally:
        os.chdir(here)
    return folder, before


@pytest.mark.parametrize("changed", ["tiny.yaml", "teacher.pth", "photos"])
def test_a_cell_is_not_taken_as_it_is_when_a_file_behind_it_changed(
    repeated: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """The same command, by the same names, with other steps, weights or images."""
    folder, before = repeated
    shutil.copytree(folder, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    if changed == "tiny.yaml":
        Path(changed).write_text(TINY.replace("steps: 5", "steps: 7"))
    elif changed == "teacher.pth":
        torch.save(randomise(resnet(depth=14), seed=7).state_dict(), changed)
    else:
        for seed, file in enumerate(sorted(Path("photos").rglob("*.png"))):
            file.write_bytes(saved(noise(32, 32, 100 + seed)))
    weights = Path(before["trials"][0]["folder"]) / "model.safetensors"
    old = weights.read_bytes()
    result = call(*arguments(*FEW, out="again"))
    assert result.exit_code == 2 and "--overwrite" in result.stderr, result.output + result.stderr
    after = document(*FEW, "--overwrite", out="again")
    assert after["trials"][0]["steps"] == (16 if changed == "tiny.yaml" else 14)
    assert weights.read_bytes() != old


def test_overwrite_keeps_cells_that_would_come_out_the_same(finished: dict[str, Any], place: Path) -> None:
    shutil.copytree(place / "whole", place / "touched")
    cells = sorted((place / "touched/cells").glob("*/run.json"))
    before = [read_record(cell.parent).ended for cell in cells]
    (place / "teacher.pth").touch()
    file_stats.cache_clear()
    document(*DRAWN, "--overwrite", "-j", "1", out="touched")
    assert [read_record(cell.parent).ended for cell in cells] == before


def test_a_folder_that_is_no_comparison_is_not_touched(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "mine/report.html").write_text("my own")
    result = call(*arguments("--shots", "1", out="mine"))
    assert result.exit_code == 2 and "`report.html`" in result.stderr and "--out" in result.stderr
    assert [path.name for path in (place / "mine").iterdir()] == ["report.html"]
    assert (place / "mine/report.html").read_text() == "my own"


def test_a_table_is_not_lost_to_a_command_that_is_refused(finished: dict[str, Any], place: Path) -> None:
    shutil.copytree(place / "whole", place / "kept")
    table = (place / "kept/compare.md").read_bytes()
    result = call(*arguments(*DRAWN, "--set", "stages.finish.lr=2e-3", out="kept"))
    assert result.exit_code == 2 and (place / "kept/compare.md").read_bytes() == table


def test_an_interrupted_cell_resumes_to_the_same_bytes_and_counts_all_its_seconds(
    finished: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    finish = UnitState.finish

    def stopping(self: UnitState, tensors: Any, facts: Any) -> None:
        finish(self, tensors, facts)
        raise Stop

    monkeypatch.setattr(UnitState, "finish", stopping)
    assert call(*arguments(*DRAWN, out="broken")).exit_code == 1
    monkeypatch.undo()
    monkeypatch.chdir(place)
    folder = place / "broken/cells/tiny-resnet-depth-8-1shot-draw0"
    first = json.loads((folder / "run.json").read_text())["sessions"][0]
    assert first["seconds"] > 0 and first["peak_memory"] > 10**7
    found = document(*DRAWN, out="broken")
    run = json.loads((folder / "run.json").read_text())
    assert len(run["sessions"]) == 2
    spent = sum(session["seconds"] for session in run["sessions"])
    assert run["result"]["seconds"] == pytest.approx(spent, abs=0.5)
    assert run["result"]["seconds"] > first["seconds"]
    tensors, _ = read_tensors(folder / "model.safetensors")
    whole, _ = read_tensors(place / finished["trials"][0]["folder"] / "model.safetensors")
    assert all(torch.equal(tensors[name], whole[name]) for name in whole)
    assert [trial["accuracy"] for trial in found["trials"]] == [trial["accuracy"] for trial in finished["trials"]]


def test_each_block_alone_has_a_line_and_is_a_hybrid() -> None:
    found = document("--blocks", "each", "--shots", "1", "--steps", "6", out="blocks")
    assert [(line["blocks"], line["steps"]) for line in found["lines"]] == [("1", 6), ("2", 6), ("3", 6)]
    assert found["lines"][0]["accuracy"] is None and "no accuracy without --test images" in found["scored"]
    keys = graftcli.load(found["trials"][2]["folder"]).state_dict().keys()
    assert any(key.startswith("student.layer3") for key in keys)
    assert any(key.startswith("teacher.layer1") for key in keys)


def test_a_whole_recipe_trains_a_block_alone_too() -> None:
    """`kd` has no stage for blocks: one alone is trained in the teacher, towards the logits."""
    found = document("--recipe", "kd", "--blocks", "2", "--shots", "1", "--steps", "6", out="alone")
    assert [(line["method"], line["blocks"], line["steps"]) for line in found["lines"]] == [
        ("tiny", "2", 6),
        ("kd", "2", 6),
    ]


def test_blocks_are_counted_by_any_recipe_that_goes_with_the_student() -> None:
    recipes = ("--recipe", "fskd", "--recipe", "tiny.yaml")
    words = [word for word in arguments("--blocks", "each", "--shots", "1", "--steps", "6", "--json", out="any")]
    first = words.index("--recipe")
    result = call(*words[:first], *recipes, *words[first + 2 :])
    found = json.loads(result.stdout)
    assert [(line["method"], line["blocks"]) for line in found["lines"]] == [
        ("tiny", "1"),
        ("tiny", "2"),
        ("tiny", "3"),
    ]
    assert len(found["notes"]) == 3 and all(note.startswith("left out: fskd") for note in found["notes"])


def test_a_budget_of_steps_is_the_same_for_all_recipes() -> None:
    found = document("--recipe", "kd", "--shots", "1", "--steps", "9", out="steps")
    assert [(line["method"], line["steps"]) for line in found["lines"]] == [("tiny", 9), ("kd", 9)]
    assert "9 steps per cell" in found["budget"]


def test_a_budgets_batch_size_takes_precedence(place: Path) -> None:
    """A recipe of epochs has no larger batch than one look at each image, in a budget as without."""
    document("--recipe", "kd", "--shots", "1", "--steps", "4", "-b", "32", out="batches")
    cells = [place / f"batches/cells/{name}-resnet-depth-8-1shot-draw0/run.json" for name in ("tiny", "kd")]
    recipes = [json.loads(cell.read_text())["settings"]["recipe"] for cell in cells]
    assert [stage["batch"] for recipe in recipes for stage in recipe["stages"]] == [32, 32, 2]


def test_of_many_cells_a_warning_is_shown_once_and_no_cells_length() -> None:
    events: list[Event] = []
    tell = comparing._without_repeats(events.append)
    for event in (Warned("a"), TimeEstimated(9, 1e4), Warned("b"), Warned("a"), FileSaved("x"), FileSaved("x")):
        tell(event)
    assert events == [Warned("a"), Warned("b"), FileSaved("x"), FileSaved("x")]


def test_a_budget_of_seconds_fixes_the_steps_once(place: Path) -> None:
    found = document("--shots", "1", "--draws", "2", "--seconds", "3", out="seconds")
    paces = json.loads((place / "seconds/cells.json").read_text())["facts"]["paces"]
    (pace,) = (fact["value"] for fact in paces.values())
    assert pace["expected"] < 3.0 or pace["steps"] == 4
    assert [trial["steps"] for trial in found["trials"]] == [pace["steps"]] * 2
    assert not list((place / "seconds").glob(".profile-*"))
    assert "3 s per cell" in found["budget"]


def test_a_cell_that_fails_is_reported_and_the_others_are_done(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(config: Any, *settings: Any) -> Any:
        if config.how.seed == 0:
            raise GateError("graft-1: the loss ran away again at step 7.", "Give the stage a lower rate.")
        return distill_in_one_process(config, *settings)

    monkeypatch.setattr(dealing, "distill_in_one_process", failing)
    result = call(*arguments("--shots", "1", "--draws", "2", "--json", out="failing"))
    assert result.exit_code == 4 and "1 of 2 cells failed" in result.stderr
    found = json.loads(result.stdout)
    assert [trial["fault"] is None for trial in found["trials"]] == [False, True]
    assert "the loss ran away again" in (place / "failing/compare.md").read_text()
    assert found["lines"][0]["draws"] == 1


def test_a_recipe_that_does_not_go_with_a_student_is_left_out_and_named(place: Path) -> None:
    (place / "own.yaml").write_text(TINY.replace("inherit", "checkpoint"))
    found = document("--recipe", "own.yaml", "--shots", "1", "--steps-scale", "0.2", out="left-out")
    assert [(trial["method"], trial["fault"]) for trial in found["trials"]] == [("tiny", None)]
    (note,) = found["notes"]
    assert note.startswith(
        "left out: own with resnet(depth=8): recipe tiny has `init: checkpoint`, but --student-checkpoint is not given"
    )


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("--steps", "5", "--seconds", "5"), 2, "both given"),
        (("--steps", "5", "--steps-scale", "0.1"), 2, "--steps-scale"),
        (("--shots", "0"), 2, "--shots '0'"),
        (("--shots", "one"), 2, "--shots 'one'"),
        (("--shots", "9"), 5, "too few distinct, readable images"),
        (("--recipe", "nosuch"), 2, "nosuch"),
        (("--blocks", "7"), 2, "names block 7"),
        (("--steps", "3"), 2, "3 steps are fewer than the 4 tasks"),
        (("--test", "nowhere"), 5, "nowhere"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(
    words: tuple[str, ...], code: int, expected: str, place: Path
) -> None:
    result = call(*arguments(*words, out="refused"))
    assert (result.exit_code, expected in result.stderr) == (code, True), result.output + result.stderr
    assert not (place / "refused/cells").exists()
