"""Folder names -> class indices, for scoring alone: nothing that trains imports this.

One rule must explain every class folder. In this order:

    a file of class names   `--classes FILE`: a name a line, its index the line's number from 0; or JSON
    the number in front     3, 3_cat, 003-cat -> 3
    the WordNet id          n01440764 -> 0, in the order of the ImageNet set with as many classes as the network
    the class's name        cat -> 3, where the network's file names its classes
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor

from graftcli.errors import ImagesError, UsageError

NUMBER = re.compile(r"(\d+)(?:$|[_\-. ])", re.ASCII)
WORDNET = re.compile(r"n\d{8}(?!\d)", re.ASCII)
JSON_FORMS = '["cat", "dog"], {"0": "cat"}, {"0": ["n02121808", "cat"]} or {"cat": 0}'


@dataclass(frozen=True)
class Labels:
    indices: Tensor  # int64, one for each name
    classes: tuple[str, ...]  # the class folders, in the order of their indices
    rule: str  # what made an index out of a folder's name, for a person to read


@dataclass(frozen=True)
class _Rule:
    said: str
    index: Callable[[str], int | None]


def read(
    source: Path,
    names: Sequence[str],
    num_classes: int,
    classes_file: Path | None = None,
    known: Sequence[str] = (),
) -> Labels | None:
    """The class of each image, by the first folder in its name; None where no image lies in a folder.

    `known` is what the network calls its classes, where it says so.

    One folder around everything, as archives often have, is no class folder and is stepped over.
    """
    if not any("/" in name for name in names):
        return None
    rules = [_from_file(classes_file)] if classes_file else [_number(), _wordnet(num_classes), _named(known)]
    names = _unwrapped(names, rules)
    beside = [name for name in names if "/" not in name]
    if beside:
        found = f"{len(beside)} of {len(names)} images under `{source}` lie beside the class folders: {_all(beside)}."
        raise ImagesError(found, "Move them into the folders of their classes, or away.")
    folders = sorted({name.split("/")[0] for name in names})
    index, rule = _mapped(source, folders, rules)
    _within(source, index, num_classes, rule)
    indices = torch.tensor([index[name.split("/")[0]] for name in names], dtype=torch.int64)
    return Labels(indices, tuple(sorted(index, key=lambda folder: (index[folder], folder))), rule.said)


def class_names(num_classes: int, listed: Path | None = None, *, imagenet: bool = False) -> tuple[str, ...] | None:
    """What a network's classes are called, by a file of class names or, for a network of ImageNet's, by timm's lists;
    None where nobody says. A class that the file leaves out is called by its index."""
    if listed is not None:
        named: dict[int, str] = {}
        for name, index in _listed(listed):
            if not WORDNET.fullmatch(name):
                named.setdefault(index, name)
        return tuple(named.get(index, str(index)) for index in range(num_classes))
    subset = infer_imagenet_subset({"num_classes": num_classes}) if imagenet else None
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index).partition(",")[0] for index in range(num_classes))


def _unwrapped(names: Sequence[str], rules: Sequence[_Rule]) -> Sequence[str]:
    """The names without the folders that are around all of them and name no class."""
    first = names[0].split("/")[0]
    around = all(name.startswith(first + "/") and name.count("/") > 1 for name in names)
    if not around or any(rule.index(first) is not None for rule in rules):
        return names
    return _unwrapped([name.removeprefix(first + "/") for name in names], rules)


def _mapped(source: Path, folders: Sequence[str], rules: Sequence[_Rule]) -> tuple[dict[str, int], _Rule]:
    """Each folder's index, by the first of the rules that explain the most folders."""
    explained = [{folder: i for folder in folders if (i := rule.index(folder)) is not None} for rule in rules]
    index, rule = max(zip(explained, rules, strict=True), key=lambda pair: len(pair[0]))
    unknown = [folder for folder in folders if folder not in index]
    if unknown:
        found = f"{len(unknown)} of {len(folders)} folders under `{source}` name no class"
        by = f"by {rule.said}" if index or len(rules) == 1 else "by any rule"
        raise ImagesError(
            f"{found} {by}: {_all(unknown)}.",
            "Begin each with its class index (3_cat) or name it by its ImageNet WordNet id (n01440764), list the names "
            "with --classes FILE, or give a folder without folders to score without labels.",
        )
    return index, rule


def _within(source: Path, index: dict[str, int], num_classes: int, rule: _Rule) -> None:
    beyond = [f"{folder} ({i})" for folder, i in index.items() if i >= num_classes]
    if beyond:
        found = f"the network has {num_classes} classes, 0 to {num_classes - 1}, but by {rule.said}"
        raise ImagesError(
            f"{found} {len(beyond)} of {len(index)} folders under `{source}` are beyond: {_all(beyond)}.",
            "Count classes from 0 as the network does, or list its class names with --classes FILE.",
        )


def _all(names: Sequence[str]) -> str:
    return ", ".join(names)


def _number() -> _Rule:
    def index(folder: str) -> int | None:
        match = NUMBER.match(folder)
        return int(match[1]) if match else None

    return _Rule("the number in front of the folder's name", index)


def _wordnet(num_classes: int) -> _Rule:
    subset = infer_imagenet_subset({"num_classes": num_classes}) or "imagenet-1k"
    order = {wnid: index for index, wnid in enumerate(ImageNetInfo(subset).label_names())}

    def index(folder: str) -> int | None:
        match = WORDNET.match(folder)
        return order.get(match[0]) if match else None

    return _Rule(f"the WordNet id in the order of {subset}", index)


def _from_file(path: Path) -> _Rule:
    return _by_name(_listed(path), f"the names in `{path}`")


def _named(known: Sequence[str]) -> _Rule:
    return _by_name(((name, index) for index, name in enumerate(known)), "the names that the file has for its classes")


def _by_name(listed: Iterable[tuple[str, int]], said: str) -> _Rule:
    """Names match without regard to case, and a space is as good as "_" or "-"."""
    table: dict[str, set[int]] = {}
    for name, number in listed:
        table.setdefault(_key(name), set()).add(number)

    def index(folder: str) -> int | None:
        numbers = sorted(table.get(_key(folder), ()))
        if len(numbers) > 1:
            found = f"`{folder}` names {len(numbers)} classes by {said}: {_all([str(i) for i in numbers])}."
            raise ImagesError(found, "Name that folder, and its class, by something of its own.")
        return numbers[0] if numbers else None

    return _Rule(said, index)


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()


def _listed(path: Path) -> list[tuple[str, int]]:
    """Every name in the file with its index; a class may have several names."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return list(_from_json(json.loads(text), path) if text.lstrip()[:1] in ("[", "{") else _from_lines(text))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--classes `{path}` cannot be read: {error}", "Give a text file of class names.") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"--classes `{path}` is not JSON: {error}", f"Write it as {JSON_FORMS}.") from error


def _from_lines(text: str) -> Iterator[tuple[str, int]]:
    """ "n01440764 tench" is known by its id, too."""
    for index, line in enumerate(text.splitlines()):
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
            found = f"--classes `{path}` has the entry {json.dumps({str(key): value})}, which is no class."
            raise UsageError(found, f"Write it as {JSON_FORMS}.")
