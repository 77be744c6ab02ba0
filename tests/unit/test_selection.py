"""Selected images: balanced, diverse or random, the same again, without duplicates, in bounded memory."""

import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import graftcli
from graftcli.errors import ImagesError, UsageError
from graftcli.images import Preprocess
from graftcli.images.duplicates import Fingerprint
from graftcli.images.selection import NAMES, method_named
from graftcli.images.selection.method import CandidateImage
from graftcli.images.sources import open_source
from graftcli.measure.features import FeatureReader
from graftcli.runs.run_images import _SELECTED
from tests.image_files import folder_of, noise, photos, saved
from tests.nets import NETS, randomise, resnet
from tests.prepared_runs import OWN, run_inputs

TEACHER = f"{NETS}:resnet(depth=14)"


def candidate(number: int, label: int = 0, place: tuple[float, float] = (1.0, 0.0)) -> CandidateImage:
    bits = int.from_bytes(hashlib.sha256(b"%d" % number).digest()[:8], "big")
    thumbnail = np.random.default_rng(number).integers(0, 256, 288, dtype=np.uint8).tobytes()
    feature = np.array(place, np.float32) / np.float32(np.hypot(*place))
    digest = hashlib.sha256(b"file %d" % number).digest()
    return CandidateImage(number, f"{number}.png", digest, Fingerprint(bits, thumbnail), label, 0.9, feature)


def pooled(name: str, candidates: list[CandidateImage], count: int, seed: int = 0, batch: int = 50) -> list[int]:
    pool = method_named(name).pool(count, seed)
    for start in range(0, len(candidates), batch):
        pool.add(candidates[start : start + batch])
    return [one.index for one in pool.chosen()]


def spread(count: int) -> list[CandidateImage]:
    """Nine of ten images in one place and of one class, the others of nine classes all around."""
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, count)
    crowd = np.random.default_rng(1).normal(0, 0.01, count)
    found = []
    for number in range(count):
        rare = number % 10 == 0
        angle = angles[number] if rare else crowd[number]
        label, place = 1 + number // 10 % 9 if rare else 0, (float(np.cos(angle)), float(np.sin(angle)))
        found.append(candidate(number, label, place))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_choice_is_the_same_again_in_any_order_and_depends_on_the_seed(name: str) -> None:
    images = spread(300)
    first = pooled(name, images, 20)
    assert len(set(first)) == 20 and first == pooled(name, images, 20)
    assert first == pooled(name, images[::-1], 20, batch=7)
    assert set(first) != set(pooled(name, images, 20, seed=1))


@pytest.mark.parametrize("name", NAMES)
def test_a_long_source_needs_no_more_candidates_than_a_short_one(name: str) -> None:
    pool = method_named(name).pool(10, 0)
    images = spread(6000)
    for start in range(0, len(images), 100):
        pool.add(images[start : start + 100])
    held = {"random": "_kept", "balanced": "_classes", "diverse": "_kept"}[name]
    kept = getattr(pool, held)
    count = sum(map(len, kept.values())) if name == "balanced" else len(kept)
    assert count <= 1200 and len(pool.chosen()) == 10


def test_a_balanced_choice_has_equal_classes_as_far_as_there_are_images() -> None:
    images = [candidate(number, 0 if number < 5000 else 1 + (number >= 5003)) for number in range(6000)]
    labels = Counter(images[index].label for index in pooled("balanced", images, 103))
    assert labels == {0: 50, 1: 3, 2: 50}
    assert Counter(images[index].label for index in pooled("balanced", images, 6)) == {0: 2, 1: 2, 2: 2}


def test_a_random_choice_is_not_balanced() -> None:
    images = spread(2000)
    labels = Counter(images[index].label for index in pooled("random", images, 200))
    assert 160 < labels[0] < 198


@pytest.mark.parametrize("count", [500, 5000])
def test_a_diverse_choice_covers_the_features(count: int) -> None:
    """No image is far from a chosen one; a random choice of as many leaves some alone."""
    images = spread(count)
    places = np.stack([one.feature for one in images if one.feature is not None])

    def farthest(chosen: list[int]) -> float:
        return float(np.sqrt(np.maximum(0, 2 - 2 * places @ places[chosen].T)).min(1).max())

    assert farthest(pooled("diverse", images, 24)) < 0.3 < farthest(pooled("random", images, 24))


@pytest.mark.parametrize("name", NAMES)
def test_duplicates_are_left_out(name: str) -> None:
    images = [candidate(number, number % 3, (1.0, number / 7)) for number in range(40)]
    copies = [dataclasses.replace(one, index=100 + one.index, name=f"copy of {one.name}") for one in images]
    looks = [
        dataclasses.replace(one, index=200 + one.index, digest=hashlib.sha256(one.digest).digest()) for one in images
    ]
    chosen = pooled(name, [*images, *copies, *looks], 40)
    assert len({index % 100 for index in chosen}) == 40
    assert len(pooled(name, [*images, *copies, *looks], 70)) == 70  # near copies where there is nothing else


def test_images_without_an_answer_are_not_chosen() -> None:
    images = [dataclasses.replace(candidate(number), label=None, feature=None) for number in range(9)]
    assert pooled("balanced", images, 5) == [] and pooled("diverse", images, 5) == []


def test_features_are_what_the_head_reads() -> None:
    network, preprocess = randomise(resnet(8)), Preprocess((32, 32), 3, (0.5,) * 3, (0.25,) * 3, 1.0, "bilinear")
    pixels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    logits, features = FeatureReader(network, preprocess, torch.device("cpu")).read(pixels)
    assert logits.shape == (6, 10) and features.shape == (6, 64)
    assert torch.allclose(features.norm(dim=1), torch.ones(6))
    head = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1]
    restored = logits - head.bias
    direction = features @ head.weight.detach().T  # the length of a feature is lost
    assert torch.allclose(torch.nn.functional.normalize(restored), torch.nn.functional.normalize(direction), atol=1e-5)


# -- the public function ------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return run_inputs(tmp_path, 60)


@pytest.mark.parametrize("by", NAMES)
def test_a_selection_is_written_as_a_folder_or_a_list(place: Path, by: str) -> None:
    source, weights = place / "photos", place / "teacher.pth"
    teacher = {} if by == "random" else {"teacher": TEACHER, "teacher_checkpoint": weights}
    listed = graftcli.select_images(source, 12, by=by, out=place / "sub" / "x.list", device="cpu", **teacher)  # type: ignore[arg-type]
    copied = graftcli.select_images(source, 12, by=by, out=place / "chosen", device="cpu", **teacher)  # type: ignore[arg-type]
    assert listed.names == copied.names and len(set(listed.names)) == 12 and listed.images == 60
    expected = {hashlib.sha256((source / name).read_bytes()).digest() for name in listed.names}
    for made in (place / "sub" / "x.list", place / "chosen"):
        with open_source(made) as opened:
            assert {hashlib.sha256(entry.read()).digest() for entry in opened.entries} == expected
    assert json.loads((place / "sub" / "x.list").read_text())["images of"] == "../photos"
    assert not {path.name for path in (place / "chosen").iterdir()} & set(listed.names)
    if by == "random":
        assert listed.before is None
    else:
        assert listed.before is not None and listed.after is not None
        assert (listed.before.images, listed.after.images) == (60, 12)
        assert listed.after.covered <= listed.before.covered
    with pytest.raises(UsageError, match=r"x\.list` exists"):
        graftcli.select_images(source, 12, by="random", out=place / "sub" / "x.list")
    with pytest.raises(UsageError, match="is not empty"):
        graftcli.select_images(source, 12, by="random", out=place / "chosen")


def test_unreadable_images_are_named_and_not_selected(tmp_path: Path) -> None:
    folder_of(tmp_path, {"broken.png": b"x"} | {f"{i}.png": saved(noise(20, 20, i)) for i in range(5)})
    found = graftcli.select_images(tmp_path, 9, by="random")
    assert len(found.names) == 5 and [text.split(":")[0] for text in found.broken] == ["broken.png"]
    with pytest.raises(ImagesError, match="only 0 of 0 images"):
        graftcli.select_images(folder_of(tmp_path / "none", {"a.png": b"x"}), 9, by="random")


def test_what_cannot_be_selected_is_refused(tmp_path: Path) -> None:
    photos(tmp_path, ["a.png", "b.png"])
    with pytest.raises(UsageError, match="needs a teacher") as caught:
        graftcli.select_images(tmp_path, 2)
    assert "--by random" in caught.value.fix
    with pytest.raises(UsageError, match="selection method `best` is unknown"):
        graftcli.select_images(tmp_path, 2, by="best")
    with pytest.raises(UsageError, match="--max is 1"):
        graftcli.select_images(tmp_path, 1, by="random")


def test_a_list_that_does_not_fit_its_source_is_refused(tmp_path: Path) -> None:
    photos(tmp_path / "photos", ["a.png", "b.png"])
    for text, found in {
        '{"images of": "photos", "names": ["a.png", "gone.png"]}': r"1 of its 2 images are not in .*gone\.png",
        '{"images of": "x.list", "names": []}': "of another list",
        "[]": "was not written by",
        "{": "cannot be read",
    }.items():
        (tmp_path / "x.list").write_text(text)
        with pytest.raises(ImagesError, match=found), open_source(tmp_path / "x.list"):
            pass


@pytest.mark.parametrize("room", [None, 0.0])
def test_a_run_trains_on_the_selection_and_remembers_it(
    place: Path, room: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"teacher_checkpoint": place / "teacher.pth", "steps_scale": 0.002, "batch": 4, "device": "cpu"}
    seen: list[str] = []

    def listen(event: object) -> None:
        seen.append(type(event).__name__)
        if type(event).__name__ == "TaskStarted":
            raise KeyboardInterrupt

    call = {**settings, "max_images": 16, "select": "balanced", "images_gb": room, "out": place / "run"}
    with pytest.raises(KeyboardInterrupt):
        graftcli.distill(TEACHER, OWN, place / "photos", listen=listen, **call)  # type: ignore[arg-type]
    assert (place / "run" / "cache" / _SELECTED).is_file()
    monkeypatch.setattr("graftcli.runs.run_images.select", None)  # a resumed run does not select again
    assert graftcli.distill(TEACHER, OWN, place / "photos", **call).images == 16  # type: ignore[arg-type]
    assert not (place / "run" / "cache").exists()


def test_a_run_on_a_selection_equals_one_on_its_folder(place: Path) -> None:
    settings = {"teacher_checkpoint": place / "teacher.pth", "device": "cpu"}
    chosen = graftcli.select_images(place / "photos", 16, teacher=TEACHER, out=place / "chosen", **settings)  # type: ignore[arg-type]
    short = {**settings, "steps_scale": 0.002, "batch": 4}
    one = graftcli.distill(TEACHER, OWN, place / "photos", max_images=16, out=place / "one", **short)  # type: ignore[arg-type]
    other = graftcli.distill(TEACHER, OWN, place / "chosen", out=place / "other", **short)  # type: ignore[arg-type]
    assert len(chosen.names) == one.images == other.images
    assert (place / "one/model.safetensors").read_bytes() == (place / "other/model.safetensors").read_bytes()
