"""A folder of images, looked over -> text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from graftcli.cli.render import line, table

if TYPE_CHECKING:
    from graftcli.images.coverage import Coverage
    from graftcli.images.statistics import DatasetStatistics, Size
    from graftcli.runs.image_check import ImagesReport

_GROUPS = 10  # of duplicates
_NAMES = 4  # of each
_BROKEN = 20


def check(found: "ImagesReport") -> None:
    """Print what is in the folder, what the teacher takes it for, and what to do."""
    census = found.census
    left_out = f", and {_files(len(census.broken))} that cannot be read" if census.broken else ""
    line(f"{census.images} images under {found.source}{left_out}")
    for broken in census.broken[:_BROKEN]:
        line(f"  {broken.name}: {broken.reason}")
    _more(len(census.broken) - _BROKEN)
    line()
    for name, told in _facts(found):
        line(f"{name:<12}{told}")
    _groups("the same, byte for byte:", census.exact, " = ")
    _groups("nearly the same:", census.near, " ~ ")
    if found.coverage is not None:
        line()
        _coverage(found.coverage)
    line()
    _advice(found.advice)


def _facts(found: "ImagesReport") -> list[tuple[str, str]]:
    census, enlarged = found.census, ""
    if census.enlarged and found.preprocess is not None:
        height, width = found.preprocess.size
        enlarged = f"; {census.enlarged} are smaller than {width}x{height} needs"
    return [
        ("sizes", f"{_sizes(census)}{enlarged}"),
        ("formats", _counted(census.formats)),
        ("modes", _counted(census.modes)),
        ("duplicates", f"{census.copies} exact, {census.lookalikes} near"),
        *([("one shade", _few(census.plain, ", "))] if census.plain else []),
    ]


def _sizes(census: "DatasetStatistics") -> str:
    sizes = census.sizes
    if sizes.different == 1:
        return f"all {_size(sizes.median)}"
    most, count = sizes.common[0]
    often = f"; most often {_size(most)} ({count})" if count > 1 else ""
    return f"{_size(sizes.smallest)} to {_size(sizes.largest)}, median {_size(sizes.median)}{often}"


def _size(size: "Size") -> str:
    return f"{size[0]}x{size[1]}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _groups(title: str, groups: Sequence[Sequence[str]], sign: str) -> None:
    if groups:
        line()
        line(title)
        for group in groups[:_GROUPS]:
            line(f"  {_few(group, sign)}")
        _more(len(groups) - _GROUPS)


def _few(names: Sequence[str], sign: str) -> str:
    more = f"{sign}{len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return sign.join(names[:_NAMES]) + more


def _more(count: int) -> None:
    if count > 0:
        line(f"  and {count} more")


def _coverage(found: "Coverage") -> None:
    line(f"{found.teacher} takes them for {found.covered} of its {found.classes} classes")
    line(
        f"its confidence: median {found.confidence:.0%}, a tenth below {found.confidence_low:.0%};"
        f" {found.unsure} image{'s' * (found.unsure != 1)} below 50%"
    )
    named = any(share.name != str(share.index) for share in found.dominant)
    rows = [
        (share.index, *([share.name] if named else []), share.images, f"{share.share:.1%}") for share in found.dominant
    ]
    table("", ("class", *(["name"] if named else []), "images", "share"), rows, right=("class", "images", "share"))
    shown = sum(share.images for share in found.dominant)
    if found.covered > len(found.dominant):
        others = found.images - found.broken_answers - shown
        line(f"the other {found.covered - len(found.dominant)} classes: {others} images")


def _advice(advice: Sequence[str]) -> None:
    if not advice:
        line("nothing to mend: these images are fit for a distillation")
        return
    line("what to do:")
    for one in advice:
        line(f"  - {one}")


def _files(count: int) -> str:
    return f"{count} file{'s' * (count > 1)}"
