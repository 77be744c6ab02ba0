"""Escape untrusted text (names, commands, paths) for the terminal and for Markdown; join names."""

import re
from collections.abc import Iterable

# control characters, bidirectional overrides, invisible line separators and lone surrogates
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
# an underscore inside a word and a list marker after other text are not markup
_MARKUP = re.compile(r"[\\`*\[\]<>#|~$&]|(?<![^\W_])_|_(?![^\W_])|^[-+]")


def visible(text: str) -> str:
    r"""Escape control characters, as in \x1b; keep newlines and tabs."""
    return _CONTROL.sub(lambda match: _escaped(match[0]), text)


def one_line(text: str) -> str:
    r"""Escape control characters, newlines and tabs."""
    return visible(re.sub(r"[\n\t]", lambda match: _escaped(match[0]), text))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def markdown(text: str) -> str:
    """Escape text for a line of Markdown or a table cell, so that nothing in it is markup or HTML."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def code(text: str) -> str:
    """Format text as a Markdown code span, also inside a table."""
    line = one_line(text).replace("|", "\\|")
    ticks = "`" * (_longest_run(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") or len(ticks) > 1 else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def fenced(text: str, language: str = "") -> str:
    """Format text as a fenced Markdown code block, whatever its lines contain."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def one_of(names: Iterable[str]) -> str:
    """Join alternatives: `a`, `a or b`, `a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _longest_run(text: str) -> int:
    """Return the length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)
