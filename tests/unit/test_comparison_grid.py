"""The cells of a comparison: which draws, which methods, in which order and under which names."""

from pathlib import Path
from typing import Any

import pytest

from graftcli.comparison.grid import Cell, Draw, Grid, Method, cells_of, draws_of, label_of, methods_of
from graftcli.errors import ImagesError, UsageError
from graftcli.runs.config import ModelPair, RunConfig, TrainOptions
from tests.image_files import folder_of, noise, saved


def photos(root: Path, count: int = 3, kinds: tuple[str, ...] = ("ant/", "bee/")) -> Path:
    names = [f"{kind}{i}.png" for kind in kinds for i in range(count)]
    return folder_of(root, {name: saved(noise(8, 8, seed)) for seed, name in enumerate(names)})


def grid(**changes: Any) -> Grid:
    return Grid(**{"students": ("small",), **changes})


def test_draws_of_a_folder_with_classes_hold_shots_of_each_class_and_are_drawn_once(tmp_path: Path) -> None:
    wanted = grid(images=(str(photos(tmp_path / "photos")),), shots=(1, 3), draws=2)
    found = draws_of(wanted, tmp_path / "out")
    assert [(draw.shots, draw.index, len(list(draw.folder.iterdir()))) for draw in found.every] == [
        *((1, 0, 2), (1, 1, 2)),
        *((3, 0, 6), (3, 1, 6)),
    ]
    assert found.meaning.startswith("images per class") and "2 class folders" in found.meaning
    before = [path.stat().st_mtime_ns for draw in found.every for path in draw.folder.iterdir()]
    assert draws_of(wanted, tmp_path / "out") == found
    assert [path.stat().st_mtime_ns for draw in found.every for path in draw.folder.iterdir()] == before


def test_in_a_flat_folder_shots_are_images_in_total(tmp_path: Path) -> None:
    found = draws_of(grid(images=(str(photos(tmp_path, kinds=("",))),), shots=(2,)), tmp_path / "out")
    assert found.meaning.startswith("images in all") and "no class folders" in found.meaning


def test_folders_that_were_drawn_already_are_found_by_their_names(tmp_path: Path) -> None:
    for shots in (1, 5):
        for draw in (0, 1):
            photos(tmp_path / f"{shots}shot-draw{draw}", shots)
    pattern = str(tmp_path / "{shots}shot-draw{draw}")
    found = draws_of(grid(images=(pattern,), shots=(1, 5), draws=2), tmp_path)
    assert [draw.folder.name for draw in found.every] == ["1shot-draw0", "1shot-draw1", "5shot-draw0", "5shot-draw1"]
    with pytest.raises(ImagesError, match=r"do not exist: `.*1shot-draw2`, `.*5shot-draw2`"):
        draws_of(grid(images=(pattern,), shots=(1, 5), draws=3), tmp_path)
    with pytest.raises(UsageError, match="needs --shots"):
        draws_of(grid(images=(pattern,)), tmp_path)


def test_several_folders_are_a_draw_each_and_belong_together_by_their_size(tmp_path: Path) -> None:
    names = [str(photos(tmp_path / name, count)) for name, count in (("a", 2), ("b", 1), ("c", 2))]
    found = draws_of(grid(images=tuple(names)), tmp_path)
    assert [(draw.shots, draw.index, draw.folder.name) for draw in found.every] == [
        (2, 0, "b"),
        (4, 0, "a"),
        (4, 1, "c"),
    ]
    with pytest.raises(UsageError, match="is given 3 times"):
        draws_of(grid(images=tuple(names), shots=(1,)), tmp_path)


def test_without_shots_all_images_are_taken_and_draws_differ_by_their_seeds(tmp_path: Path) -> None:
    found = draws_of(grid(images=(str(photos(tmp_path)),), draws=2), tmp_path)
    assert [(draw.shots, draw.index) for draw in found.every] == [(6, 0), (6, 1)]
    assert "seeds" in found.meaning


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("resnet34", "resnet34"),
        ("tests/nets.py:resnet(depth=20)", "resnet(depth=20)"),
        ("nets.py:small", "small"),
        ("teacher*(1,1,.5)", "teacher*(1,1,.5)"),
        ("runs/a/", "a"),
        ("timm:resnet18", "timm:resnet18"),
    ],
)
def test_a_network_is_called_what_was_typed_for_it(spec: str, label: str) -> None:
    assert label_of(spec) == label


def test_methods_are_each_recipe_with_each_student_and_each_block() -> None:
    wanted = grid(students=("a", "b"), recipes=("graft", "mine/kd.yaml"), blocks=("each", "2-3"))
    found = methods_of(wanted, lambda student: 2)
    assert [method.name for method in found[:6]] == [
        *("graft-a-blocks-1", "graft-a-blocks-2", "graft-a-blocks-2-3"),
        *("kd-a-blocks-1", "kd-a-blocks-2", "kd-a-blocks-2-3"),
    ]
    assert len(found) == 12


def test_methods_whose_folders_would_be_the_same_are_refused() -> None:
    with pytest.raises(UsageError, match="several methods would have the name kd-a"):
        methods_of(grid(students=("a",), recipes=("kd", "mine/kd.yaml")), lambda _: 2)


def test_cells_come_draw_after_draw_and_each_has_its_seed(tmp_path: Path) -> None:
    methods = methods_of(grid(recipes=("graft", "kd")), lambda _: 2)
    draws = draws_of(grid(images=(str(photos(tmp_path / "p")),), shots=(1, 2), draws=2), tmp_path)
    cells = list(cells_of(methods, draws))
    assert [cell.name for cell in cells][:5] == [
        *("graft-small-1shot-draw0", "kd-small-1shot-draw0", "graft-small-2shot-draw0", "kd-small-2shot-draw0"),
        "graft-small-1shot-draw1",
    ]
    common = RunConfig(ModelPair("big", ""), "", how=TrainOptions(overrides=("a=1",), seed=7))
    config = Cell(Method("kd", "small"), Draw(1, 2, Path("there"))).config(common)
    assert (config.networks.student, config.images, config.how.recipe) == ("small", "there", "kd")
    assert (config.how.seed, config.how.overrides) == (9, ("a=1",))
