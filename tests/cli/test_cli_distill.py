"""`distill` and `partial` as a user meets them: folders of images, real processes, files that are whole."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import onnxruntime
import pytest
import torch

import graftcli
from graftcli.runs.config import recorded_config
from graftcli.store.atomic import read_tensors
from graftcli.store.locks import LOCK_FILE
from tests.commands import call
from tests.image_files import photos
from tests.nets import NETS, randomise, resnet
from tests.records import write_document

pytestmark = pytest.mark.usefixtures("inside")

WEIGHTS = "teacher.safetensors"
QUICK = ("--steps-scale", "0.01", "--batch", "8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a teacher's weights, in which commands run."""
    folder = tmp_path_factory.mktemp("place")
    photos(folder, [f"photos/{i % 3}_kind/{i}.png" for i in range(12)])
    torch.manual_seed(0)
    torch.save(randomise(resnet(depth=14)).state_dict(), folder / "teacher.pth")
    return folder


def arguments(*more: str, images: str = "photos", out: str | None = None) -> list[str]:
    """The words of a quick `distill`."""
    networks = ("--teacher", f"{NETS}:resnet(depth=14)", "--teacher-checkpoint", "teacher.pth")
    student = ("--student", f"{NETS}:resnet(depth=8)", "--images", images)
    return ["distill", *networks, *student, *QUICK, *(("--out", out) if out else ()), *more]


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """A run that went through without a break."""
    here = Path.cwd()
    os.chdir(place)
    try:
        result = call(*arguments("--quiet"))
    finally:
        os.chdir(here)
    assert result.exit_code == 0, result.output + result.stderr
    return place / "runs" / "resnet-resnet"


def written(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in (folder / "model.safetensors", *sorted((folder / "blocks").iterdir()))
    }


def test_the_folder_holds_everything(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"model.safetensors", "graft.json", "README.md", "run.json", "metrics.jsonl", "blocks"} <= names
    units = {"graft-1", "graft-2", "graft-3", "graft", "finish-1-2-3"}
    assert {path.stem for path in (finished / "blocks").iterdir()} == units
    student = graftcli.load(finished)
    plain, _ = read_tensors(finished / "model.safetensors")
    assert plain.keys() == student.state_dict().keys()
    assert student(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_the_same_command_after_the_end_says_so_and_changes_nothing(finished: Path) -> None:
    before = written(finished)
    result = call(*arguments("--quiet"))
    assert result.exit_code == 0
    assert "already done" in result.output
    assert written(finished) == before


def test_other_settings_in_the_same_folder_are_named_and_refused(finished: Path) -> None:
    result = call(*arguments("--seed", "5", "--quiet"))
    assert result.exit_code == 2
    assert "seed" in result.stderr and "--overwrite" in result.stderr and "--out" in result.stderr


def test_shuffled_folder_names_change_no_byte(finished: Path, place: Path) -> None:
    shuffled = place / "shuffled"
    for i, path in enumerate(sorted((place / "photos").rglob("*.png"))):
        target = shuffled / f"{(i * 5) % 4}_other" / f"renamed-{11 - i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    result = call(*arguments("--quiet", images="shuffled", out="other"))
    assert result.exit_code == 0, result.stderr
    assert written(place / "other") == written(finished)


def test_a_run_that_keeps_its_first_block(finished: Path, place: Path) -> None:
    """The block is part of the student, and is neither trained nor called equal to the teacher's."""
    result = call(*arguments("--quiet", "--set", "freeze=[same, 1]", "--json", out="kept"))
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["frozen"] == []
    assert {path.stem for path in (place / "kept" / "blocks").iterdir()} == {
        "graft-2",
        "graft-3",
        "graft",
        "finish-1-2-3",
    }
    kept, whole = (graftcli.load(folder).state_dict() for folder in (place / "kept", finished))
    assert kept.keys() == whole.keys() and any(not torch.equal(kept[name], whole[name]) for name in kept)
    before = written(place / "kept")
    (place / "kept" / "model.safetensors").write_bytes(b"damaged")
    assert call(*arguments("--quiet", "--set", "freeze=[same, 1]", out="kept")).exit_code == 0
    assert written(place / "kept") == before
    refused = call(*arguments("--quiet", "--set", "freeze=[4]", out="refused"))
    assert refused.exit_code == 2 and "these networks have 1 to 3" in refused.stderr


def test_partial_alone_takes_over_the_newest_run_and_its_block(finished: Path, place: Path) -> None:
    result = call("partial", "--blocks", "3")
    assert result.exit_code == 0, result.output + result.stderr
    assert result.stderr.startswith("from runs/resnet-resnet, the newest run (") and "--run" in result.stderr
    folder = place / "runs" / "resnet-resnet-blocks-3"
    name = "graft-3.safetensors"
    assert (folder / "blocks" / name).read_bytes() == (finished / "blocks" / name).read_bytes()
    assert {path.name for path in (folder / "blocks").iterdir()} == {name, "finish-3.safetensors"}
    assert trained_in(folder) == {"finish-3"}
    hybrid = graftcli.load(folder)
    keys = hybrid.state_dict().keys()
    assert any(key.startswith("teacher.layer1") for key in keys)
    assert any(key.startswith("student.layer3") for key in keys)
    assert not any(key.startswith(("teacher.layer3", "student.layer1")) for key in keys)
    assert hybrid(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_flags_beside_an_earlier_run_take_precedence(finished: Path, place: Path) -> None:
    result = call(
        "partial", "--blocks", "1", "--run", str(finished), "--seed", "7", "--out", "seven", "--json", "--quiet"
    )
    assert result.exit_code == 0, result.output + result.stderr
    config = recorded_config(place / "seven")
    assert (config.how.seed, config.how.batch, config.networks) == (7, 8, recorded_config(finished).networks)
    name = "graft-1.safetensors"
    assert (place / "seven" / "blocks" / name).read_bytes() != (finished / "blocks" / name).read_bytes()


def test_an_earlier_run_is_taken_up_from_any_folder(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("partial", "--blocks", "last", "--run", str(finished), "--quiet")
    assert result.exit_code == 0, result.output + result.stderr
    name = "graft-3.safetensors"
    folder = tmp_path / "runs" / "resnet-resnet-blocks-3"
    assert (folder / "blocks" / name).read_bytes() == (finished / "blocks" / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "taken"), [((), True), (("--set", "views.count=null", "--set", "views.total=null"), False)]
)
def test_blocks_that_saw_the_same_views_are_taken_over_by_a_longer_finish(
    place: Path, more: tuple[str, ...], taken: bool
) -> None:
    """Without a limit there are as many views as the longest stage can see."""
    earlier, longer = f"earlier-{taken}", f"longer-{taken}"
    result = call(*arguments("--quiet", "--set", "views.count=4", *more, out=earlier))
    assert result.exit_code == 0, result.output + result.stderr
    words = ("--set", "views.count=4", *more, "--set", "stages.finish.steps=5000", *QUICK, "--quiet")
    result = call("partial", "--blocks", "1", "--run", earlier, *words, "--out", longer)
    assert result.exit_code == 0, result.output + result.stderr
    assert ("graft-1" not in trained_in(place / longer)) == taken


def trained_in(folder: Path) -> set[str]:
    """The units that a run trained itself."""
    return {json.loads(line)["unit"] for line in (folder / "metrics.jsonl").read_text().splitlines()}


def test_one_file_is_put_where_it_is_wanted(finished: Path, place: Path) -> None:
    before = written(finished)
    for name in ("one.safetensors", "one.onnx"):
        for _ in range(2):  # the second time it is there already
            result = call(*arguments("--quiet", out=name))
            assert result.exit_code == 0, result.output + result.stderr
            assert result.stdout.splitlines()[-1] == f"written: {name}"
    assert written(finished) == before
    assert (place / "one.safetensors").exists()
    student = graftcli.load(place / "one.safetensors")
    images = torch.randn(3, 3, 32, 32)
    session = onnxruntime.InferenceSession(place / "one.onnx", providers=["CPUExecutionProvider"])
    given = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    assert torch.allclose(given, student(images).detach(), rtol=1e-3, atol=1e-4)
    assert str(place).encode() not in (place / "one.onnx").read_bytes()


def test_eval_scores_class_folders_and_agreement(finished: Path) -> None:
    result = call("eval", str(finished), "--images", "photos", "--teacher", str(finished), "--json")
    assert result.exit_code == 0, result.stderr
    assert '"share": 1.0' in result.output.split('"likeness"')[1]
    assert "the leading number of the folder name" in result.output


def likeness_of(*words: str) -> dict[str, object]:
    result = call("eval", *words, "--images", "photos", "--json")
    assert result.exit_code == 0, result.output + result.stderr
    found: dict[str, object] = json.loads(result.stdout)["models"][0]["likeness"]
    return found


def test_eval_takes_the_teacher_and_its_weights_from_the_run(finished: Path) -> None:
    teacher = ("--teacher", f"{NETS}:resnet(depth=14)")
    named = likeness_of(str(finished), *teacher, "--teacher-checkpoint", "teacher.pth")
    assert named["images"] == 12
    assert likeness_of(str(finished), "--trust-code") == named
    assert likeness_of(str(finished), *teacher) == named
    weights = ("--teacher-checkpoint", "teacher.pth")
    assert likeness_of(str(finished), *weights, "--trust-code") == named
    made = ("prune:l1=0.3", "--trust-code", "--num-classes", "10")
    assert likeness_of(str(finished), *made) == named
    lonely = call("eval", f"{NETS}:resnet(depth=8)", "--images", "photos", *weights)
    assert lonely.exit_code == 2 and "no teacher is given" in lonely.stderr


def test_runs_of_different_teachers_are_not_compared_with_one(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "other")
    record = json.loads((tmp_path / "other" / "run.json").read_text())
    record["sessions"][-1]["config"]["networks"]["teacher"] = f"{NETS}:resnet(depth=20)"
    write_document(tmp_path / "other", record)
    both = (str(finished), str(tmp_path / "other"))
    result = call("eval", *both, "--images", "photos", "--trust-code")
    assert result.exit_code == 0 and "have different teachers" in result.stderr and "teacher:" not in result.output
    named = call("eval", *both, "--images", "photos", "--teacher", f"{NETS}:resnet(depth=14)", "--trust-code")
    assert named.exit_code == 0 and "teacher: resnet: teacher.pth" in named.output, named.output


def test_a_teacher_of_the_run_that_cannot_be_loaded_costs_the_agreement_alone(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["sessions"][-1]["config"]["networks"]["teacher_checkpoint"] = str(tmp_path / "gone.pth")
    write_document(tmp_path / "run", record)
    result = call("eval", str(tmp_path / "run"), "--images", "photos", "--trust-code")
    assert result.exit_code == 0 and "agreement is not measured" in result.stderr and "gone.pth" in result.stderr
    photos(tmp_path, ["flat/1.png", "flat/2.png"])
    result = call("eval", str(tmp_path / "run"), "--images", str(tmp_path / "flat"), "--trust-code")
    assert result.exit_code == 6 and "gone.pth" in result.stderr


def test_a_run_warns_of_a_teacher_with_random_weights(finished: Path) -> None:
    words = ("eval", str(finished), "--images", "photos", "--teacher")
    result = call(*words, f"{NETS}:resnet(depth=20)")
    assert result.exit_code == 0 and "has random weights: agreement with it is meaningless" in result.stderr
    assert "random" not in call(*words, str(finished)).stderr


def test_blocks_that_equal_the_teachers_are_named_before_and_after(place: Path) -> None:
    teacher = ("--teacher", f"{NETS}:resnet(depth=14)", "--teacher-checkpoint", "teacher.pth")
    planned = call("plan", *teacher, "--student", "teacher*(1,1,.5)")
    assert planned.exit_code == 0 and "blocks 1, 2: same as the teacher" in planned.output
    words = ("distill", *teacher, "--student", "teacher*(1,1,.5)", "--images", "photos", *QUICK, "--out", "ended")
    result = call(*words)
    assert result.exit_code == 0 and "blocks 1 and 2 equal the teacher: not trained" in result.output, result.output
    assert {path.stem for path in (place / "ended" / "blocks").iterdir()} == {"graft-3", "finish-3"}
    record = json.loads((place / "ended" / "run.json").read_text())
    assert record["settings"]["frozen"] == record["result"]["frozen"] == [1, 2]


def test_what_partial_makes_is_scored(finished: Path, place: Path) -> None:
    result = call("partial", "--blocks", "2", "--run", str(finished), "--out", "second", "--quiet")
    assert result.exit_code == 0, result.output + result.stderr
    scored = call("eval", "second", "--images", "photos", "--teacher", "second", "--json")
    assert scored.exit_code == 0, scored.output + scored.stderr
    assert json.loads(scored.stdout)["models"][0]["likeness"]["agreement"]["share"] == 1.0


def test_networks_that_answer_otherwise_are_not_compared(finished: Path) -> None:
    other = f"{NETS}:resnet(depth=8, num_classes=7)"
    result = call("eval", other, "--checkpoint", "none", "--images", "photos", "--teacher", str(finished))
    assert result.exit_code == 3 and "7 classes" in result.stderr and "10" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (arguments(images="nowhere"), 5, "nowhere"),
        (arguments("--recipe", "grafd"), 2, "graft"),
        (arguments("--set", "stages.graft.lr=-1"), 2, "lr"),
        (arguments("--device", "cuda:7", out="fresh"), 2, "this machine has 0"),
        (arguments("--set", "stages.graft.lr=[1,1,1,1,1]", out="fresh"), 2, "5 values for 3 units"),
        (arguments("--batch", "1", "--recipe", "netgraft", out="fresh"), 2, "no statistics"),
        (arguments("--student-checkpoint", "teacher.pth", out="fresh"), 2, "init=checkpoint"),
        (arguments(out="teacher.pth"), 2, "a run cannot write a .pth file"),
        (arguments(out="photos/0_kind/0.png"), 2, "is a file"),
        (arguments(out="taken.onnx"), 2, "taken.onnx"),
        (["partial", "--blocks", "9"], 2, "1 to 3"),
        (["partial", "--blocks", "x"], 2, "is not a list of blocks"),
        (["partial", "--blocks", "1", "--device", "nonsense"], 2, "nonsense"),
        (["partial", "--blocks", "1", "--run", "nowhere"], 2, "nowhere"),
    ],
)
def test_bad_arguments_are_refused_with_one_message(
    finished: Path, place: Path, words: list[str], code: int, expected: str
) -> None:
    """And a folder that nothing has come of is not taken."""
    (place / "taken.onnx").write_bytes(b"mine")
    result = call(*words)
    assert not (place / "fresh").exists() and (place / "taken.onnx").read_bytes() == b"mine"
    assert result.exit_code == code, result.output + result.stderr
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_started_on_another_machines_gpu_resumes_there(finished: Path, place: Path) -> None:
    shutil.copytree(finished, place / "begun")
    run = json.loads((place / "begun/run.json").read_text())
    del run["result"]
    run |= {"status": "running", "fixed": {**run["fixed"], "device": "cuda:7"}}
    write_document(place / "begun", run)
    result = call(*arguments(out="begun"))
    assert result.exit_code == 7, result.stderr
    assert "was started on cuda:7" in result.stderr and "--overwrite" in result.stderr


@pytest.mark.parametrize("count", [2, pytest.param(12, marks=pytest.mark.nightly)])
def test_a_process_killed_again_and_again_ends_with_the_same_bytes(finished: Path, place: Path, count: int) -> None:
    # every state is kept, so that a run which is killed moments after it began still comes to its end
    always_save = "from graftcli.store import intervals; intervals.SAVE_SECONDS = 0.0"
    program = f"{always_save}; from graftcli.cli import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments("--quiet", out=f"killed-{count}")]
    environment = {**os.environ, "PYTHONPATH": str(NETS.parents[1])}
    folder, chance = place / f"killed-{count}", random.Random(3)

    def killed_after(seconds: float) -> bool:
        """Whether the run was still under way so long after it had its folder."""
        (folder / LOCK_FILE).unlink(missing_ok=True)  # of the one that was killed before
        process = subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (folder / LOCK_FILE).exists():
            time.sleep(0.01)  # the imports are of no interest
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), stderr
        return process.returncode != 0

    kills = [killed_after(seconds) for seconds in (0.05, *(chance.uniform(0.1, 2.0) for _ in range(count - 1)))]
    assert kills[0], "the run ended before it could be killed once"
    done = subprocess.run(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert written(folder) == written(finished)
