"""Text from outside in a terminal, in Markdown: names, commands and paths that nobody here has chosen."""

import re

# what moves a cursor, hides or reorders text, ends a line unseen, or is half of a character
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
# an underscore within a word is one, and a mark of a list is none behind other text
_MARKUP = re.compile(r"[\\`*\[\]<>#|~$&]|(?<![^\W_])_|_(?![^\W_])|^[-+]")


def visible(text: str) -> str:
    r"""The text with its control characters as escapes, such as \x1b: shown, not obeyed. Lines and tabs stay."""
    return _UNSEEN.sub(lambda found: _escaped(found[0]), text)


def one_line(text: str) -> str:
    r"""The text in one line: `visible`, with its line ends and tabs as escapes too."""
    return visible(re.sub(r"[\n\t]", lambda found: _escaped(found[0]), text))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def markdown(text: str) -> str:
    """The text as a part of a line of Markdown, also within a table: nothing in it is markup or HTML."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def code(text: str) -> str:
    """The text as a code span of Markdown, also within a table."""
    shown = one_line(text).replace("|", "\\|")
    ticks = "`" * (_longest_run(shown) + 1)
    space = " " if shown.startswith("`") or shown.endswith("`") or len(ticks) > 1 else ""
    return f"{ticks}{space}{shown}{space}{ticks}"


def fenced(text: str, language: str = "") -> str:
    """The text as a block of code of Markdown, whatever stands in its lines."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def _longest_run(text: str) -> int:
    """How many backticks stand beside each other at most."""
    return max(map(len, re.findall("`+", text)), default=0)
