"""Sampled images: a few per class, the same again for the same seed, and without the names of their classes."""

from pathlib import Path

import pytest

from graftcli.errors import ImagesError
from graftcli.images.sampling import draw_images
from tests.image_files import folder_of, noise, saved


def photos(root: Path, count: int = 4) -> Path:
    """Three class folders, around which there is one more."""
    names = [f"all/{kind}/{i}.png" for kind in ("ant", "bee", "cat") for i in range(count)]
    return folder_of(root, {name: saved(noise(8, 8, seed)) for seed, name in enumerate(names)})


def test_shots_are_images_of_each_class_folder(tmp_path: Path) -> None:
    source = photos(tmp_path)
    by_bytes = {path.read_bytes(): path.parent.name for path in source.rglob("*.png")}
    found = draw_images(source, 2, 0)
    assert sorted(by_bytes[one.data] for one in found) == ["ant", "ant", "bee", "bee", "cat", "cat"]
    assert not any(kind in one.name for one in found for kind in ("ant", "bee", "cat"))


def test_without_class_folders_shots_are_images_in_all(tmp_path: Path) -> None:
    source = folder_of(tmp_path, {f"{i}.png": saved(noise(8, 8, i)) for i in range(5)})
    assert len(draw_images(source, 3, 0)) == 3


def test_a_draw_is_the_same_again_another_is_not_and_fewer_shots_are_among_more(tmp_path: Path) -> None:
    source = photos(tmp_path, 6)
    assert draw_images(source, 2, 0) == draw_images(source, 2, 0)
    assert set(draw_images(source, 2, 0)) != set(draw_images(source, 2, 1))
    assert set(draw_images(source, 1, 0)) < set(draw_images(source, 3, 0))


def test_what_cannot_be_read_or_is_there_twice_is_passed_over(tmp_path: Path) -> None:
    good = saved(noise(8, 8, 1))
    files = {"a.png": good, "b.png": good, "c.png": b"no image", "d.png": saved(noise(8, 8, 2))}
    source = folder_of(tmp_path, files)
    assert {one.data for one in draw_images(source, 2, 0)} == {files["a.png"], files["d.png"]}


def test_folders_with_too_few_images_are_all_named(tmp_path: Path) -> None:
    source = photos(tmp_path, 2)
    (tmp_path / "all/ant/0.png").unlink()
    with pytest.raises(ImagesError, match=r"for 2 shots: `ant` has 1\.") as caught:
        draw_images(source, 2, 0)
    assert "--shots" in caught.value.fix
    with pytest.raises(ImagesError, match=r"`ant` has 1, `bee` has 2, `cat` has 2"):
        draw_images(source, 3, 0)


def test_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    source = photos(tmp_path)
    (tmp_path / "all/lost.png").write_bytes(saved(noise(8, 8, 99)))
    with pytest.raises(ImagesError, match=r"1 of 13 images .* are outside the class folders: all/lost.png"):
        draw_images(source, 1, 0)
