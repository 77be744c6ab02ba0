"""YAML text -> plain data, and where each piece of it was written.

Scalars are YAML 1.2's, as people write them: `1e-3` is a number, `yes` and `on` are text. Anchors, tags and repeated
keys are faults: a recipe says what it means in the place where it says it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

Loc = tuple[str | int, ...]

_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


@dataclass(frozen=True)
class YamlFault:
    """One thing to mend: where it was written, what is spoken of, what there is and what is allowed."""

    where: str
    subject: str
    said: str

    def __str__(self) -> str:
        return f"{self.where}: {self.subject} {self.said}"


@dataclass
class YamlSource:
    """Plain data, where each of its places was written, and what could not be read of it."""

    data: Any = None
    where: dict[Loc, str] = field(default_factory=dict)
    faults: list[YamlFault] = field(default_factory=list)

    def place(self, loc: Loc) -> str:
        """Where `loc` was written; what is absent belongs to the nearest thing that it is absent from."""
        return next(self.where[loc[:end]] for end in range(len(loc), -1, -1) if loc[:end] in self.where)

    def put(self, loc: Loc, part: "YamlSource") -> None:
        """Set what is at `loc`, and where it was written; maps on the way there that are absent are made."""
        here = self.data
        for key in loc[:-1]:
            if isinstance(here, dict) and here.get(key) is None:
                here[key] = {}
            here = here[key]
        here[loc[-1]] = part.data
        self.where = {key: place for key, place in self.where.items() if key[: len(loc)] != loc}
        self.where |= {loc + key: place for key, place in part.where.items()}
        for end in range(1, len(loc)):
            self.where.setdefault(loc[:end], part.where[()])


def dotted(loc: Loc) -> str:
    return "`" + ".".join(map(str, loc)) + "`" if loc else "the recipe"


def scalar(text: str) -> Any:
    """What an unquoted scalar means: null, true, false, a whole number, a number, else the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


def read(text: str, place: Callable[[int], str]) -> YamlSource:
    """The data of one YAML document; `place` names the place of a line, counted from 1."""
    source = YamlSource(where={(): place(1)})
    try:
        source.data = _Reader(source, place).plain(yaml.compose(text, Loader=yaml.BaseLoader), ())
    except yaml.MarkedYAMLError as error:
        source.faults.append(_syntax(error, place))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        source.faults.append(YamlFault(place(line), dotted(()), f"cannot hold the character {chr(error.character)!r}"))
    except RecursionError:
        source.faults.append(YamlFault(place(1), dotted(()), "is nested too deeply to be a recipe"))
    return source


def _syntax(error: yaml.MarkedYAMLError, place: Callable[[int], str]) -> YamlFault:
    """YAML's own words, with the line where what it was reading began: an unclosed bracket is found much later."""
    mark = error.problem_mark or error.context_mark
    begun = f" that began at {place(error.context_mark.line + 1)}" if error.context and error.context_mark else ""
    said = ", ".join(part for part in (error.context and f"{error.context}{begun}", error.problem) if part)
    return YamlFault(place(mark.line + 1 if mark else 1), dotted(()), f"cannot be read: {said}")


class _Reader:
    """Walks the nodes once and writes down places and faults in its source."""

    def __init__(self, source: YamlSource, place: Callable[[int], str]) -> None:
        self.source = source
        self.place = place
        self.seen: set[int] = set()

    def plain(self, node: yaml.Node | None, loc: Loc) -> Any:
        if node is None:
            return None
        self.source.where.setdefault(loc, self._line(node))
        if id(node) in self.seen:
            return self._fault(node, dotted(loc), "repeats what an anchor (&, *) names: write it out")
        self.seen.add(id(node))
        if node.tag not in _PLAIN_TAGS:
            return self._fault(node, dotted(loc), f"has the tag {node.tag}: leave it out")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(child, (*loc, index)) for index, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)  # the third and last kind
        return scalar(node.value) if node.style is None else node.value

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._fault(key, dotted(loc), "has a key that is no word")
            elif key.value in data:
                first = self.source.where[*loc, key.value]
                self._fault(key, dotted((*loc, key.value)), f"is given twice, first at {first}")
            else:
                self.source.where[*loc, key.value] = self._line(key)
                data[key.value] = self.plain(child, (*loc, key.value))
        return data

    def _line(self, node: yaml.Node) -> str:
        return self.place(node.start_mark.line + 1)

    def _fault(self, node: yaml.Node, subject: str, said: str) -> None:
        self.source.faults.append(YamlFault(self._line(node), subject, said))
