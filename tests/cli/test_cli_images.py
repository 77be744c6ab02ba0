"""`graftcli images`, and the short check at the start of a run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import graftcli
from graftcli.cli import app
from graftcli.cli.render_run import describe
from graftcli.events import Event, ImagesDecoded
from graftcli.graft.engine import weights_digest
from graftcli.images import Images
from graftcli.runs.image_check import check_run_images, throttled
from tests import engine
from tests.image_files import folder_of, noise, real_data, saved
from tests.nets import NETS, randomise, resnet


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    shot = saved(noise(40, 40))
    files = {f"{i}.png": saved(noise(40, 40, i)) for i in range(8)}
    return folder_of(tmp_path / "photos", {**files, "copy.png": shot, "torn.png": shot[:99]})


@pytest.fixture
def teacher(tmp_path: Path) -> list[str]:
    torch.manual_seed(0)
    torch.save(randomise(resnet(depth=8)).state_dict(), tmp_path / "teacher.pth")
    return ["--teacher", f"{NETS}:resnet(depth=8)", "--teacher-checkpoint", str(tmp_path / "teacher.pth")]


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["images", *words])


def test_a_folder_is_described_in_words(photos: Path, teacher: list[str]) -> None:
    result = call(str(photos), *teacher, "--quiet")
    assert result.exit_code == 0, result.output + result.stderr
    for words in (
        f"9 images in {photos}, 1 unreadable file",
        "torn.png: it is truncated",
        "0.png = copy.png",
        "of its 10 classes",
        "advice:",
        "  - the teacher predicts ",
    ):
        assert words in result.stdout
    assert result.stderr == ""


def test_the_same_as_json(photos: Path, teacher: list[str]) -> None:
    found = json.loads(call(str(photos), *teacher, "--json").stdout)
    assert found["statistics"]["images"] == 9
    assert found["statistics"]["exact"] == [["0.png", "copy.png"]]
    assert [one["name"] for one in found["statistics"]["broken"]] == ["torn.png"]
    assert found["coverage"]["images"] == 9
    assert sum(share["images"] for share in found["coverage"]["dominant"]) == 9
    assert found["advice"]


def test_without_a_teacher_there_is_no_coverage(photos: Path) -> None:
    result = call(str(photos), "--quiet")
    assert result.exit_code == 0, result.stderr
    assert "classes" not in result.stdout
    assert json.loads(call(str(photos), "--json").stdout)["coverage"] is None


def test_classes_are_called_by_their_names(photos: Path, teacher: list[str], tmp_path: Path) -> None:
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
    (tmp_path / "names.txt").write_text("\n".join(names))
    found = json.loads(call(str(photos), *teacher, "--classes", str(tmp_path / "names.txt"), "--json").stdout)
    shares = found["coverage"]["dominant"]
    assert [share["name"] for share in shares] == [names[share["index"]] for share in shares]


def test_no_image_is_an_error_of_the_images(tmp_path: Path) -> None:
    result = call(str(tmp_path))
    assert result.exit_code == 5
    assert "no readable image" in result.stderr


def test_batches_change_no_number(photos: Path, teacher: list[str]) -> None:
    one, many = (json.loads(call(str(photos), *teacher, "--json", "-b", size).stdout) for size in ("1", "128"))
    assert one["coverage"]["dominant"] == many["coverage"]["dominant"]
    assert one["coverage"]["confidence"] == pytest.approx(many["coverage"]["confidence"], rel=1e-5)


def test_every_image_is_progress(photos: Path) -> None:
    events: list[Event] = []
    graftcli.inspect_images(photos, listen=events.append)
    assert events == [ImagesDecoded(done, 10) for done in range(1, 11)]


def test_progress_on_a_hundred_thousand_images_is_shown_a_thousand_times() -> None:
    events: list[Event] = []
    tell = throttled(events.append)
    for done in range(1, 100_001):
        tell(done, 100_000)
    assert len(events) == 1000 and events[-1] == ImagesDecoded(100_000, 100_000)


def test_real_images_of_all_classes_cover_them() -> None:
    folder = real_data("cifar10")
    found = graftcli.inspect_images(
        folder / "10shot-draw0",
        teacher=f"{NETS}:resnet(depth=56)",
        teacher_checkpoint=folder / "teachers" / "resnet56-4bfd9763.th",
    )
    assert found.coverage is not None and found.coverage.covered == 10
    assert found.statistics.images == 100 and not found.statistics.exact
    assert found.advice == ()


# -- in a run -----------------------------------------------------------------------------------------------------


def test_a_run_checks_at_most_a_few_hundred_images_and_changes_no_weight() -> None:
    network = engine.plan().teacher.network
    before, shown = weights_digest(network.module), 0

    def count(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        nonlocal shown
        shown += len(given[0])

    handle = network.module.register_forward_pre_hook(count)
    found = check_run_images(network, engine.images(1000), engine.PREPROCESS, torch.device("cpu"))
    handle.remove()
    assert shown == found.shown == 200 and found.images == 1000
    assert weights_digest(network.module) == before


def test_the_short_form_is_one_line_and_one_of_advice() -> None:
    network = engine.plan().teacher.network
    pixels = engine.images(4).pixels
    doubled = Images(torch.cat([pixels, pixels[:1]]), tuple("abcde"), (), np.array([], "S32"), "")
    summary = describe(check_run_images(network, doubled, engine.PREPROCESS, torch.device("cpu")))
    assert summary is not None
    first, *more = summary.splitlines()
    assert first.startswith("images: 5 (1 duplicate); teacher predicts ")
    assert len(more) <= 1


def test_images_of_a_single_colour_are_named(tmp_path: Path) -> None:
    files = {"white.png": saved(Image.new("RGB", (9, 9), "white")), "noise.png": saved(noise(9, 9))}
    assert "white.png" in call(str(folder_of(tmp_path, files)), "--quiet").stdout
