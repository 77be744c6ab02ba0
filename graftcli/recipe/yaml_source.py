"""Read YAML text into plain data and record the line of every value.

Scalars follow YAML 1.2: `1e-3` is a number; `yes` and `on` are strings. Anchors, tags and repeated keys are faults.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import JsonValue

Loc = tuple[str | int, ...]

_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}


@dataclass(frozen=True)
class YamlFault:
    """One thing to fix: its file and line, its key, and a message with what was found and what is allowed."""

    where: str
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.subject} {self.message}"


@dataclass
class YamlSource:
    """Plain data, the place where each value is written, and the faults found while reading."""

    data: Any = None  # JSON-like, changed in place by `put`
    where: dict[Loc, str] = field(default_factory=dict)
    faults: list[YamlFault] = field(default_factory=list)

    def place(self, loc: Loc) -> str:
        """The place where `loc` is written; for an absent key, that of its nearest existing parent."""
        return next(self.where[loc[:end]] for end in range(len(loc), -1, -1) if loc[:end] in self.where)

    def put(self, loc: Loc, part: "YamlSource") -> None:
        """Set the value at `loc` and its place; absent maps on the way are created."""
        parent = self.data
        for key in loc[:-1]:
            if isinstance(parent, dict) and parent.get(key) is None:
                parent[key] = {}
            parent = parent[key]
        parent[loc[-1]] = part.data
        self.where = {key: place for key, place in self.where.items() if key[: len(loc)] != loc}
        self.where |= {loc + key: place for key, place in part.where.items()}
        for end in range(1, len(loc)):
            self.where.setdefault(loc[:end], part.where[()])


def dotted(loc: Loc) -> str:
    """Format a location for a message: `stages.0.lr`."""
    return "`" + ".".join(map(str, loc)) + "`" if loc else "the recipe"


def scalar(text: str) -> bool | int | float | str | None:
    """The value of an unquoted scalar: null, true, false, an integer, a float, or else the text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


def read(text: str, place: Callable[[int], str]) -> YamlSource:
    """Read one YAML document; `place` formats a line number, counted from 1."""
    source = YamlSource(where={(): place(1)})
    try:
        source.data = _Reader(source, place).plain(yaml.compose(text, Loader=yaml.BaseLoader), ())
    except yaml.MarkedYAMLError as error:
        source.faults.append(_syntax(error, place))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        source.faults.append(
            YamlFault(place(line), dotted(()), f"has the character {chr(error.character)!r}: remove it")
        )
    except RecursionError:
        source.faults.append(YamlFault(place(1), dotted(()), "is nested too deeply for a recipe"))
    return source


def _syntax(error: yaml.MarkedYAMLError, place: Callable[[int], str]) -> YamlFault:
    """The parser's message, with the line where the faulty construct starts (an unclosed bracket is detected later)."""
    mark = error.problem_mark or error.context_mark
    start = f" that starts at {place(error.context_mark.line + 1)}" if error.context and error.context_mark else ""
    message = ", ".join(part for part in (error.context and f"{error.context}{start}", error.problem) if part)
    return YamlFault(place(mark.line + 1 if mark else 1), dotted(()), f"cannot be read: {message}")


class _Reader:
    """Visits each YAML node once and records places and faults in its source."""

    def __init__(self, source: YamlSource, place: Callable[[int], str]) -> None:
        self.source = source
        self.place = place
        self.visited: set[int] = set()

    def plain(self, node: yaml.Node | None, loc: Loc) -> JsonValue:
        if node is None:
            return None
        self.source.where.setdefault(loc, self._line(node))
        if id(node) in self.visited:
            self._fault(node, dotted(loc), "is an alias (&, *), which recipes do not support: write the value out")
            return None
        self.visited.add(id(node))
        if node.tag not in _PLAIN_TAGS:
            self._fault(node, dotted(loc), f"has the tag {node.tag}: remove it")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(child, (*loc, index)) for index, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)  # the only remaining kind of node
        return scalar(node.value) if node.style is None else str(node.value)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, JsonValue]:
        data: dict[str, JsonValue] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._fault(key, dotted(loc), "has a key that is not a word")
            elif key.value in data:
                first = self.source.where[*loc, key.value]
                self._fault(key, dotted((*loc, key.value)), f"is given twice, first at {first}")
            else:
                self.source.where[*loc, key.value] = self._line(key)
                data[key.value] = self.plain(child, (*loc, key.value))
        return data

    def _line(self, node: yaml.Node) -> str:
        return self.place(node.start_mark.line + 1)

    def _fault(self, node: yaml.Node, subject: str, message: str) -> None:
        self.source.faults.append(YamlFault(self._line(node), subject, message))
