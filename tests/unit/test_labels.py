"""A folder's name becomes a class index by one rule, or is refused with the fix."""

import json
from pathlib import Path

import pytest
import torch

from graftcli.errors import ImagesError, UsageError
from graftcli.images import labels
from tests.image_files import real_data

HERE = Path("images")


def indices(names: list[str], num_classes: int = 10, classes: Path | None = None) -> list[int]:
    found = labels.read(HERE, names, num_classes, classes)
    assert found is not None and found.indices.dtype == torch.int64
    listed: list[int] = found.indices.tolist()
    return listed


def listed(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_flat_folder_has_no_labels() -> None:
    assert labels.read(HERE, ["3_cat.png", "1.png"], 10) is None


def test_the_number_in_front_is_the_index() -> None:
    found = labels.read(HERE, ["3_cat/a.png", "003-cat/b.png", "0/x/c.png", "9 truck/d.png", "3_cat/e.png"], 10)
    assert found is not None
    assert found.indices.tolist() == [3, 3, 0, 9, 3]
    assert found.classes == ("0", "003-cat", "3_cat", "9 truck")
    assert found.rule == "the leading number of the folder name"


def test_a_number_grown_into_a_word_is_no_index() -> None:
    with pytest.raises(
        ImagesError, match=r"1 of 2 folders under `images` name no class by the leading number .*: 3cat\."
    ):
        indices(["3cat/a.png", "4_dog/a.png"])


def test_wordnet_ids_are_in_imagenets_order() -> None:
    found = labels.read(HERE, ["n15075141/a.jpg", "n01440764/b.jpg", "n01443537_goldfish/c.jpg"], 1000)
    assert found is not None
    assert found.indices.tolist() == [999, 0, 1] and found.rule == "the WordNet id in the order of imagenet-1k"
    assert indices(["n01440764/a.jpg"], num_classes=21843) != [0]


def test_one_rule_must_explain_every_folder() -> None:
    with pytest.raises(ImagesError) as caught:
        indices(["0_cat/a.png", "1_dog/a.png", "n01440764/a.png", "fish/a.png"])
    assert "2 of 4 folders under `images` name no class by the leading number" in caught.value.message
    assert "fish, n01440764" in caught.value.message
    with pytest.raises(ImagesError, match=r"2 of 2 folders under `images` name no class by any rule: cat, dog\."):
        indices(["dog/a.png", "cat/a.png"])


def test_an_index_beyond_the_network_names_both_sides() -> None:
    names = [f"{i}/a.png" for i in range(1, 13)]
    with pytest.raises(ImagesError) as caught:
        indices(names)
    message = str(caught.value)
    assert "10 classes, 0 to 9" in message and "10 (10), 11 (11), 12 (12)." in message and "from 0" in message
    with pytest.raises(ImagesError, match=r"10 classes, 0 to 9.*n15075141 \(999\)"):
        indices(["n15075141/a.png"])


def test_images_beside_the_class_folders_are_named() -> None:
    with pytest.raises(
        ImagesError, match=r"2 of 3 images under `images` are outside the class folders: a\.png, b\.png\."
    ):
        indices(["a.png", "0_cat/x.png", "b.png"])


def test_a_folder_around_everything_is_stepped_over() -> None:
    assert indices(["data/test/3_cat/a.png", "data/test/1_dog/b.png"]) == [3, 1]
    assert indices(["3_cat/black/a.png", "3_cat/white/b.png"]) == [3, 3]
    assert indices(["batch/n01440764/a.png", "batch/n01440764/b.png"], num_classes=1000) == [0, 0]


def test_a_file_of_names_decides_alone(tmp_path: Path) -> None:
    path = listed(tmp_path / "classes.txt", "\ufefftruck\npolar bear\n\n0_cat\nn01440764 tench, Tinca tinca\n\n")
    assert indices(["0_cat/a.png", "Polar_Bear/b.png", "truck/c.png"], 5, path) == [3, 1, 0]
    assert indices(["n01440764/a.png"], 5, path) == [4]
    with pytest.raises(ImagesError, match=r"name no class by the names in `.*classes\.txt`: 1_dog\."):
        indices(["0_cat/a.png", "1_dog/b.png"], 5, path)


@pytest.mark.parametrize(("name", "content"), [("classes.txt", "cat\ndog\nbird"), ("classes.json", ["a", "b", "c"])])
def test_a_file_of_names_lists_as_many_classes_as_the_network_has(tmp_path: Path, name: str, content: object) -> None:
    path = listed(tmp_path / name, content)
    for count in (2, 4, 1000):
        for refused in (lambda n: indices(["cat/a.png"], n, path), lambda n: labels.class_names(n, path)):
            with pytest.raises(UsageError, match=f"`.*{name}` lists 3 classes, and the network has {count:,}"):
                refused(count)


def test_a_json_object_may_name_some_classes_only(tmp_path: Path) -> None:
    path = listed(tmp_path / "classes.json", {"0_cat": 3})
    assert indices(["0_cat/a.png"], classes=path) == [3]
    with pytest.raises(ImagesError, match=r"3 classes, 0 to 2, .*0_cat \(3\)"):
        indices(["0_cat/a.png"], num_classes=3, classes=path)


@pytest.mark.parametrize(
    "content",
    [
        {"0": ["n02121808", "cat"], "1": ["n02084071", "dog"]},
        {"0": "cat", "1": "dog"},
        {"dog": 1, "cat": 0},
        ["cat", "dog"],
        [["n02121808", "cat"], ["n02084071", "dog"]],
    ],
    ids=["index-ids", "index-name", "name-index", "list", "list-ids"],
)
def test_a_json_file_of_names(tmp_path: Path, content: object) -> None:
    path = listed(tmp_path / "classes.json", content)
    assert indices(["dog/a.png", "cat/b.png"], 2, path) == [1, 0]
    if "n02121808" in json.dumps(content):
        assert indices(["n02084071/a.png"], 2, path) == [1]


def test_a_name_of_two_classes_is_refused_only_where_it_is_used(tmp_path: Path) -> None:
    path = listed(tmp_path / "classes.txt", "crane\ndog\ncrane\n")
    assert indices(["dog/a.png"], 3, path) == [1]
    with pytest.raises(ImagesError, match=r"`crane` names 2 classes by the names in `.*`: 0, 2\."):
        indices(["crane/a.png", "dog/a.png"], 3, path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[1, 2", "is not valid JSON"),
        ({"cat": "dog"}, r'the entry \{"cat": "dog"\}'),
        ({"cat": -1}, r'the entry \{"cat": -1\}'),
        ({"0": [1, 2]}, r'the entry \{"0": \[1, 2\]\}'),
        ({"cat": True}, "which is not a class"),
    ],
)
def test_a_file_that_lists_no_classes_is_a_wrong_setting(tmp_path: Path, content: object, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        indices(["cat/a.png"], classes=listed(tmp_path / "classes.json", content))


def test_a_file_that_is_not_there_or_not_text_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\xd8")
    for name in ("absent.txt", "binary"):
        with pytest.raises(UsageError, match=f"--classes `.*{name}` cannot be read"):
            indices(["cat/a.png"], classes=tmp_path / name)


def names_below(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def test_real_cifar10_folders() -> None:
    names = names_below(real_data("cifar10/test"))
    found = labels.read(HERE, names, 10)
    assert found is not None and len(found.indices) == 4991
    assert found.classes[3] == "3_cat" and len(found.classes) == 10
    assert all(name.startswith(f"{index}_") for name, index in zip(names, found.indices.tolist(), strict=True))


def test_real_imagenet_folders() -> None:
    names = names_below(real_data("imagenet/test"))
    found = labels.read(HERE, names, 1000)
    assert found is not None and len(found.indices) == 650
    assert [int(name.split("/")[0]) for name in names] == found.indices.tolist()
    with pytest.raises(ImagesError, match="10 classes, 0 to 9"):
        labels.read(HERE, names, 10)


def test_class_names_are_those_of_the_file_and_an_index_where_it_has_none(tmp_path: Path) -> None:
    lines = tmp_path / "names.txt"
    lines.write_text("cat\n\ndog\n")
    assert labels.class_names(3, lines) == ("cat", "1", "dog")
    ids = tmp_path / "names.json"
    ids.write_text('{"0": ["n02121808", "cat"], "1": ["n02084071", "dog"]}')
    assert labels.class_names(3, ids) == ("cat", "dog", "2")


def test_class_names_of_imagenet_are_known_and_others_are_not() -> None:
    named = labels.class_names(1000, imagenet=True)
    assert named is not None and (named[0], named[207], len(named)) == ("tench", "golden retriever", 1000)
    assert labels.class_names(1000) is None
    assert labels.class_names(10, imagenet=True) is None
