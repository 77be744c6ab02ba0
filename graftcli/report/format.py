"""Format the numbers and sentences of a report."""

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graftcli.report.run_view import RunView
    from graftcli.store.run_record import RunResult

_PREFIXES = ("", "k", "M", "G", "T", "P")


def human(amount: float, unit: str = "") -> str:
    """Format with an SI prefix: 21797672 -> "21.8 M", or "21.8 MB" with the unit "B"."""
    for power, prefix in enumerate(_PREFIXES):
        scaled = amount / 1000**power
        if abs(round(scaled, 1)) < 1000 or prefix == _PREFIXES[-1]:
            break
    number = f"{scaled:.1f}" if power or scaled % 1 else f"{scaled:.0f}"
    return f"{number} {prefix}{unit}".rstrip()


def change(before: float, after: float) -> str:
    """The relative change in percent, with a sign; a dash if `before` is 0."""
    if not before:
        return "—"
    return f"{100 * (after - before) / before:+.0f}%".replace("-", "\N{MINUS SIGN}")


def typeset(text: str) -> str:
    """The text with no-break spaces between numbers and units."""
    return re.sub(r"(\d) (?=(?:[kMGTP]B?|B|s|min|h)\b)", "\\1\N{NO-BREAK SPACE}", text)


def folded(command: str) -> str:
    """The same shell command, one option per line."""
    try:
        words = [shlex.quote(word) for word in shlex.split(command)]
    except ValueError:  # not a shell command
        return command
    return " ".join(f"\\\n  {word}" if word.startswith("--") else word for word in words)


def share(value: float | None) -> str:
    """Format as a percentage; a dash for None."""
    return "—" if value is None else f"{value:.1%}"


def agreement(value: float, images: int) -> str:
    """Format with its interval: "50.0% (23.7%-76.3%) on views of 10 held-out images"."""
    noun = f"held-out image{'s' * (images != 1)}"
    return f"{value:.1%} ({interval(value, images)}) on views of {images:,} {noun}"


def interval(value: float, images: int) -> str:
    """The 95% interval of a share of views, "23.7%-76.3%"; the views of an image count as one."""
    from graftcli.measure import wilson_interval

    found = wilson_interval(value * images, images)
    return f"{found.low:.1%}-{found.high:.1%}"


def duration(seconds: float) -> str:
    """Format as "59 s", "12 min" or "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def builder(kind: object, *, stock: bool) -> str | None:
    """What provides the architecture of a student, by the kind of its origin; None if only graftcli does.

    A student that is derived from the teacher, or keeps adapters, is not a stock architecture.
    """
    own = "your own code"
    builders = {"timm": "timm", "torchvision": "torchvision", "code": own, "in-memory": own}
    return builders.get(str(kind)) if stock else None


def loading(kind: object, *, stock: bool) -> str:
    """How the weights of a student are loaded, by the kind of its origin."""
    place = builder(kind, stock=stock)
    return "loads with graftcli.load only" if place is None else f"loads as the stock architecture in {place}"


def speed_heading(formats: Iterable[str]) -> str:
    """The heading of a benchmark; it names the runtimes if they differ, because that affects the comparison."""
    known = set(formats)
    mixed = {"onnx", "pytorch"} <= known
    return "Size and speed: onnxruntime against eager PyTorch" if mixed else "Size and speed"


def numbers(blocks: Sequence[int]) -> str:
    """Format as "block 2", "blocks 1 and 3" or "blocks 1, 2 and 3"."""
    if len(blocks) == 1:
        return f"block {blocks[0]}"
    return f"blocks {', '.join(map(str, blocks[:-1]))} and {blocks[-1]}"


def sentences(run: "RunView") -> tuple[str, ...]:
    """Three sentences: the training, the size of the result, and its agreement and cost."""
    settings, result = run.settings, run.result
    blocks, count = settings.blocks, settings.block_count
    teacher, student = run.name("teacher"), run.name("student")
    what = f"{student}, cut into {count} blocks," if len(blocks) == count else f"{numbers(blocks)} of {student}"
    recipe = settings.recipe.name
    if result is None:
        first = f"The recipe {recipe} is to train {what} to match the outputs of {teacher}."
        return first, "The run is not finished.", "The results so far are shown below."
    images = f"{result.images:,} unlabelled images"
    first = f"The recipe {recipe} trained {what} on {images} to match the outputs of {teacher}."
    return first, _sizes(result, settings.student.origin.get("kind")), _agreement_and_cost(result)


def _sizes(result: "RunResult", kind: object) -> str:
    (params, new_params), (macs, new_macs) = result.params, result.macs
    return (
        f"The result has {human(new_params)} parameters instead of {human(params)} ({change(params, new_params)})"
        f" and {human(new_macs)} MACs per image instead of {human(macs)} ({change(macs, new_macs)}),"
        f" and {loading(kind, stock=result.stock)}."
    )


def _agreement_and_cost(result: "RunResult") -> str:
    cost = f"the run took {duration(result.seconds)} and at most {human(result.peak_memory, 'B')} of memory"
    if result.agreement is None:
        return f"No image was held out, so agreement with the teacher was not measured; {cost}."
    views = f"shifted and flipped views of {result.held_out:,} held-out images"
    return f"On {views}, {share(result.agreement)} of its top-1 predictions match the teacher's; {cost}."
