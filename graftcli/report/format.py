"""Numbers and sentences of a report."""

import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftcli.report.run_view import RunView

_PREFIXES = ("", "k", "M", "G", "T", "P")


def human(amount: float, unit: str = "") -> str:
    """21797672 -> "21.8 M", with a unit "21.8 MMACs"; whole amounts below a thousand stay whole."""
    for power, prefix in enumerate(_PREFIXES):
        scaled = amount / 1000**power
        if abs(round(scaled, 1)) < 1000 or prefix == _PREFIXES[-1]:
            break
    number = f"{scaled:.1f}" if power or scaled % 1 else f"{scaled:.0f}"
    return f"{number} {prefix}{unit}".rstrip()


def change(before: float, after: float) -> str:
    """By how much `after` is less, more of it has a plus; a dash where there was nothing."""
    if not before:
        return "—"
    return f"{100 * (after - before) / before:+.0f}%".replace("-", "\N{MINUS SIGN}")


def typeset(text: str) -> str:
    """The text, in which no line ends between a number and its unit."""
    return re.sub(r"(\d) (?=(?:[kMGTP]B?|B|s|min|h)\b)", "\\1\N{NO-BREAK SPACE}", text)


def folded(command: str) -> str:
    """The same command for a shell, with a line for each option."""
    try:
        words = [shlex.quote(word) for word in shlex.split(command)]
    except ValueError:  # no command of a shell
        return command
    return " ".join(f"\\\n  {word}" if word.startswith("--") else word for word in words)


def share(value: float | None) -> str:
    return "—" if value is None else f"{value:.1%}"


def duration(seconds: float) -> str:
    """59 s, 12 min, 3.4 h"""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def numbers(blocks: Sequence[int]) -> str:
    """ "block 2", "blocks 1 and 3", "blocks 1, 2 and 3" """
    if len(blocks) == 1:
        return f"block {blocks[0]}"
    return f"blocks {', '.join(map(str, blocks[:-1]))} and {blocks[-1]}"


def sentences(run: "RunView") -> tuple[str, ...]:
    """What was done, on what, and what came out."""
    settings, result = run.settings, run.result
    blocks, count = settings["blocks"], len(settings["cuts"]["student"]) + 1
    teacher, student = run.name("teacher"), run.name("student")
    what = f"{student}, cut into {count} blocks," if len(blocks) == count else f"{numbers(blocks)} of {student}"
    recipe = settings["recipe"]["name"]
    if result is None:
        first = f"The recipe {recipe} is to train {what} to answer as {teacher} does."
        return first, "The run is not finished.", "What it has done so far is shown below."
    first = f"The recipe {recipe} trained {what} on {result['images']:,} unlabelled images to answer as {teacher} does."
    return first, _sizes(result), _worth(result)


def _sizes(result: dict[str, Any]) -> str:
    (params, new_params), (macs, new_macs) = result["params"], result["macs"]
    form = (
        "loads as the stock architecture"
        if result["stock"]
        else "is a network of its own, which graftcli.load gives back"
    )
    return (
        f"What came out has {human(new_params)} parameters instead of {human(params)} ({change(params, new_params)})"
        f" and {human(new_macs)} MACs an image instead of {human(macs)} ({change(macs, new_macs)}), and {form}."
    )


def _worth(result: dict[str, Any]) -> str:
    cost = f"the run took {duration(result['seconds'])} and at most {human(result['peak_memory'], 'B')} of memory"
    if result["agreement"] is None:
        return f"No image was held out, so its agreement with the teacher was not measured; {cost}."
    held = f"On {result['held_out']:,} held-out images, slightly shifted and mirrored,"
    return f"{held} it answers as its teacher {share(result['agreement'])} of the time; {cost}."
