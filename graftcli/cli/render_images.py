"""Print the check of a folder of images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from graftcli.cli.render import line, table

if TYPE_CHECKING:
    from graftcli.api.selecting import Selection
    from graftcli.images.coverage import Coverage
    from graftcli.images.statistics import DatasetStatistics, Size
    from graftcli.runs.image_check import ImagesReport

_MAX_GROUPS = 10  # groups of duplicates
_MAX_NAMES = 4  # names per group
_MAX_BROKEN = 20  # unreadable files


def check(report: "ImagesReport") -> None:
    """Print statistics of the images, the classes that the teacher predicts, and advice."""
    statistics = report.statistics
    unreadable = f", {_unreadable(len(statistics.broken))}" if statistics.broken else ""
    line(f"{statistics.images} images in {report.source}{unreadable}")
    for broken in statistics.broken[:_MAX_BROKEN]:
        line(f"  {broken.name}: {broken.reason}")
    _more(len(statistics.broken) - _MAX_BROKEN)
    line()
    for name, value in _statistics(report):
        line(f"{name:<12}{value}")
    _groups("exact duplicates:", statistics.exact, " = ")
    _groups("near duplicates:", statistics.near, " ~ ")
    if report.coverage is not None:
        line()
        _coverage(report.coverage)
    line()
    _advice(report.advice)


def selection(selection: "Selection") -> None:
    """Print how many images were selected, and the classes that the teacher predicts for all and for the selected."""
    from graftcli.images.advice import advise_on_classes

    broken = f", {_unreadable(len(selection.broken))}" if selection.broken else ""
    line(f"{len(selection.names)} of {selection.images} images in {selection.source}, {selection.by}{broken}")
    if selection.before is not None and selection.after is not None:
        line()
        rows = [
            (
                name,
                f"{one.covered} of {one.classes}",
                one.images,
                f"{one.dominant[0].share:.1%}",
                f"{one.confidence:.0%}",
            )
            for name, one in (("all", selection.before), ("selected", selection.after))
        ]
        table("", ("images", "classes", "count", "largest class", "confidence"), rows, right=("classes", "count"))
        for text in advise_on_classes(selection.after):
            line(f"  - {text}")
    if selection.out is not None:
        line(f"written: {selection.out}")
    else:
        for name in selection.names:
            line(f"  {name}")


def _statistics(report: "ImagesReport") -> list[tuple[str, str]]:
    statistics, enlarged = report.statistics, ""
    if statistics.enlarged and report.preprocess is not None:
        height, width = report.preprocess.size
        enlarged = f"; {statistics.enlarged} are smaller than the input size {width}x{height}"
    return [
        ("sizes", f"{_sizes(statistics)}{enlarged}"),
        ("formats", _counted(statistics.formats)),
        ("modes", _counted(statistics.modes)),
        ("duplicates", f"{statistics.copies} exact, {statistics.near_copies} near"),
        *([("one colour", _few(statistics.plain, ", "))] if statistics.plain else []),
    ]


def _sizes(statistics: "DatasetStatistics") -> str:
    sizes = statistics.sizes
    if sizes.different == 1:
        return f"all {_size(sizes.median)}"
    size, count = sizes.common[0]
    most_common = f"; most common {_size(size)} ({count})" if count > 1 else ""
    return f"{_size(sizes.smallest)} to {_size(sizes.largest)}, median {_size(sizes.median)}{most_common}"


def _size(size: "Size") -> str:
    return f"{size[0]}x{size[1]}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _groups(title: str, groups: Sequence[Sequence[str]], separator: str) -> None:
    if groups:
        line()
        line(title)
        for group in groups[:_MAX_GROUPS]:
            line(f"  {_few(group, separator)}")
        _more(len(groups) - _MAX_GROUPS)


def _few(names: Sequence[str], separator: str) -> str:
    more = f"{separator}{len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return separator.join(names[:_MAX_NAMES]) + more


def _more(count: int) -> None:
    if count > 0:
        line(f"  and {count} more")


def _coverage(coverage: "Coverage") -> None:
    line(f"{coverage.teacher} predicts {coverage.covered} of its {coverage.classes} classes")
    line(
        f"confidence: median {coverage.confidence:.0%}, 10th percentile {coverage.confidence_low:.0%};"
        f" {coverage.unsure} image{'s' * (coverage.unsure != 1)} below 50%"
    )
    named = any(share.name != str(share.index) for share in coverage.dominant)
    rows = [
        (share.index, *([share.name] if named else []), share.images, f"{share.share:.1%}")
        for share in coverage.dominant
    ]
    table("", ("class", *(["name"] if named else []), "images", "share"), rows, right=("class", "images", "share"))
    if coverage.covered > len(coverage.dominant):
        remaining = coverage.images - coverage.non_finite - sum(share.images for share in coverage.dominant)
        line(f"the other {coverage.covered - len(coverage.dominant)} classes: {remaining} images")


def _advice(advice: Sequence[str]) -> None:
    if not advice:
        line("No problems found.")
        return
    line("advice:")
    for text in advice:
        line(f"  - {text}")


def _unreadable(count: int) -> str:
    return f"{count} unreadable file{'s' * (count > 1)}"
