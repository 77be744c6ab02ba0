"""Map folder names to class indices, for scoring only: training code never imports this module.

One rule must map every class folder. The rules, in order:

    class file       `--classes FILE`: one name per line, its index the line number from 0; or JSON
    leading number   3, 3_cat, 003-cat -> 3
    WordNet id       n01440764 -> 0, in the order of the ImageNet subset with the network's number of classes
    class name       cat -> 3, if the network's file names its classes
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from graftcli.errors import ImagesError, UsageError

NUMBER = re.compile(r"(\d+)(?:$|[_\-. ])", re.ASCII)
WORDNET = re.compile(r"n\d{8}(?!\d)", re.ASCII)
JSON_FORMS = '["cat", "dog"], {"0": "cat"}, {"0": ["n02121808", "cat"]} or {"cat": 0}'


@dataclass(frozen=True)
class Labels:
    """The class of each image."""

    indices: Tensor  # int64, one for each name
    classes: tuple[str, ...]  # the class folders, in the order of their indices
    rule: str  # the rule that mapped folder names to indices, for messages


@dataclass(frozen=True)
class _Rule:
    description: str
    index: Callable[[str], int | None]


def read(
    source: Path,
    names: Sequence[str],
    num_classes: int,
    classes_file: Path | None = None,
    network_classes: Sequence[str] = (),
) -> Labels | None:
    """Read the class of each image from the first folder in its name; None if no image is in a folder.

    A single folder that contains everything, as in many archives, is not a class folder. `network_classes` are the
    class names that the network's file holds, if any.
    """
    if not any("/" in name for name in names):
        return None
    rules = (
        [_from_file(classes_file, num_classes)]
        if classes_file
        else [_number(), _wordnet(num_classes), _class_name(network_classes)]
    )
    names = _unwrap(names, rules)
    outside = [name for name in names if "/" not in name]
    if outside:
        message = f"{len(outside)} of {len(names)} images under `{source}` are outside the class folders"
        raise ImagesError(f"{message}: {_join(outside)}.", "Move them into their class folders, or remove them.")
    folders = sorted({name.split("/")[0] for name in names})
    index, rule = _map_folders(source, folders, rules)
    _check_range(source, index, num_classes, rule)
    indices = torch.tensor([index[name.split("/")[0]] for name in names], dtype=torch.int64)
    return Labels(indices, tuple(sorted(index, key=lambda folder: (index[folder], folder))), rule.description)


def class_names(
    num_classes: int, classes_file: Path | None = None, *, imagenet: bool = False
) -> tuple[str, ...] | None:
    """The names of a network's classes, from a class file or, for an ImageNet network, from timm; None if unknown.

    A class that the file does not name gets its index as its name.
    """
    if classes_file is not None:
        names: dict[int, str] = {}
        for name, index in _read_classes(classes_file, num_classes):
            if not WORDNET.fullmatch(name):
                names.setdefault(index, name)
        return tuple(names.get(index, str(index)) for index in range(num_classes))
    if not imagenet:
        return None
    from timm.data import ImageNetInfo, infer_imagenet_subset  # imported here, because importing timm takes a second

    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index).partition(",")[0] for index in range(num_classes))


def _unwrap(names: Sequence[str], rules: Sequence[_Rule]) -> Sequence[str]:
    """Strip folders that contain everything and are not classes."""
    first = names[0].split("/")[0]
    holds_all = all(name.startswith(first + "/") and name.count("/") > 1 for name in names)
    if not holds_all or any(rule.index(first) is not None for rule in rules):
        return names
    return _unwrap([name.removeprefix(first + "/") for name in names], rules)


def _map_folders(source: Path, folders: Sequence[str], rules: Sequence[_Rule]) -> tuple[dict[str, int], _Rule]:
    """The index of each folder, by the rule that maps the most folders; of equal ones the first."""
    explained = [{folder: i for folder in folders if (i := rule.index(folder)) is not None} for rule in rules]
    index, rule = max(zip(explained, rules, strict=True), key=lambda pair: len(pair[0]))
    unknown = [folder for folder in folders if folder not in index]
    if unknown:
        message = f"{len(unknown)} of {len(folders)} folders under `{source}` name no class"
        by = f"by {rule.description}" if index or len(rules) == 1 else "by any rule"
        raise ImagesError(
            f"{message} {by}: {_join(unknown)}.",
            "Prefix each with its class index (3_cat), name it by its ImageNet WordNet id (n01440764), list the names "
            "with --classes FILE, or give a flat folder to score without labels.",
        )
    return index, rule


def _check_range(source: Path, index: dict[str, int], num_classes: int, rule: _Rule) -> None:
    outside = [f"{folder} ({i})" for folder, i in index.items() if i >= num_classes]
    if outside:
        message = f"the network has {num_classes} classes, 0 to {num_classes - 1}, but by {rule.description}"
        raise ImagesError(
            f"{message} {len(outside)} of {len(index)} folders under `{source}` are out of range: {_join(outside)}.",
            "Count classes from 0 as the network does, or list its class names with --classes FILE.",
        )


def _join(names: Sequence[str]) -> str:
    return ", ".join(names)


def _number() -> _Rule:
    def index(folder: str) -> int | None:
        match = NUMBER.match(folder)
        return int(match[1]) if match else None

    return _Rule("the leading number of the folder name", index)


def _wordnet(num_classes: int) -> _Rule:
    from timm.data import ImageNetInfo, infer_imagenet_subset  # imported here, because importing timm takes a second

    subset = infer_imagenet_subset({"num_classes": num_classes}) or "imagenet-1k"
    order = {wnid: index for index, wnid in enumerate(ImageNetInfo(subset).label_names())}

    def index(folder: str) -> int | None:
        match = WORDNET.match(folder)
        return order.get(match[0]) if match else None

    return _Rule(f"the WordNet id in the order of {subset}", index)


def _from_file(path: Path, num_classes: int) -> _Rule:
    return _by_name(_read_classes(path, num_classes), f"the names in `{path}`")


def _class_name(names: Sequence[str]) -> _Rule:
    return _by_name(((name, index) for index, name in enumerate(names)), "the class names in the network's file")


def _by_name(classes: Iterable[tuple[str, int]], description: str) -> _Rule:
    """Match names case-insensitively; space, "_" and "-" are equal."""
    table: dict[str, set[int]] = {}
    for name, number in classes:
        table.setdefault(_key(name), set()).add(number)

    def index(folder: str) -> int | None:
        numbers = sorted(table.get(_key(folder), ()))
        if len(numbers) > 1:
            message = f"`{folder}` names {len(numbers)} classes by {description}: {_join([str(i) for i in numbers])}."
            raise ImagesError(message, "Give that folder and its class a unique name.")
        return numbers[0] if numbers else None

    return _Rule(description, index)


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()


def _read_classes(path: Path, num_classes: int) -> list[tuple[str, int]]:
    """Every name in a class file with its index; a class may have several names."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if text.lstrip()[:1] in ("[", "{") else None
        lines = text.rstrip().splitlines() if content is None else content
        if isinstance(lines, list):  # a JSON object may name some classes only
            _check_count(path, len(lines), num_classes)
        return list(_from_lines(lines) if content is None else _from_json(content, path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--classes `{path}` cannot be read: {error}", "Give a text file of class names.") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"--classes `{path}` is not valid JSON: {error}", f"Write it as {JSON_FORMS}.") from error


def _check_count(path: Path, count: int, num_classes: int) -> None:
    if count != num_classes:
        raise UsageError(
            f"--classes `{path}` lists {count:,} classes, and the network has {num_classes:,}.",
            "List every class of the network, in its order, one per line; an empty line names none.",
        )


def _from_lines(lines: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield each line's name; "n01440764 tench" also yields its WordNet id."""
    for index, line in enumerate(lines):
        if name := line.strip():
            yield name, index
            if (match := WORDNET.match(name)) and match[0] != name:
                yield match[0], index


def _from_json(content: list[object] | dict[str, object], path: Path) -> Iterator[tuple[str, int]]:
    entries: Iterable[tuple[object, object]] = enumerate(content) if isinstance(content, list) else content.items()
    for key, value in entries:
        names = [value] if isinstance(value, str) else value
        if isinstance(key, str) and type(value) is int and value >= 0:
            yield key, value
        elif str(key).isdecimal() and isinstance(names, list) and all(isinstance(name, str) for name in names):
            yield from ((name, int(str(key))) for name in names)
        else:
            message = f"--classes `{path}` has the entry {json.dumps({str(key): value})}, which is not a class."
            raise UsageError(message, f"Write it as {JSON_FORMS}.")
