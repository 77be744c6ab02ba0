"""Turn dataset statistics and class coverage into advice for a distillation."""

from collections.abc import Iterator

from graftcli.errors import few
from graftcli.images.coverage import Coverage
from graftcli.images.statistics import DatasetStatistics

USUAL_SHOTS = 10  # images per class: the paper's ten-shot setting
_LISTED = 8
_ABOVE_CHANCE = 0.1  # the factor by which the median confidence should exceed chance, at least


def advise(statistics: DatasetStatistics, coverage: Coverage | None) -> tuple[str, ...]:
    """Advice, most important first; empty if there is none."""
    return (*(_on_classes(coverage) if coverage else ()), *_on_files(statistics))


def advise_on_classes(coverage: Coverage) -> tuple[str, ...]:
    """Advice that follows from the teacher's predictions."""
    return tuple(_on_classes(coverage))


def _on_classes(coverage: Coverage) -> Iterator[str]:
    if coverage.non_finite:
        share = f"{coverage.non_finite} of {coverage.images} images"
        yield f"the teacher returns NaN or infinite logits for {share}: check its checkpoint, and --mean and --std"
    if not coverage.trained:
        yield "the teacher has random weights, so its predictions mean nothing: give its checkpoint"
        return
    if coverage.non_finite == coverage.images:
        return
    yield from _on_coverage(coverage)
    top = coverage.dominant[0]
    if coverage.covered > 1 and top.share > max(0.5, 1.6 / coverage.classes):
        yield f"the teacher predicts `{top.name}` for {top.share:.0%} of the images: add images of other classes"
    if coverage.confidence < 1 / coverage.classes + _ABOVE_CHANCE:
        yield (
            f"the teacher is unsure (median confidence {coverage.confidence:.0%}): check that --img-size, --mean,"
            " --std and --crop-pct match its training, and that the images resemble its training images"
        )


def _on_coverage(coverage: Coverage) -> Iterator[str]:
    summary = f"the teacher predicts {coverage.covered} of its {coverage.classes} classes on {_images(coverage.images)}"
    if coverage.covered == coverage.classes:
        if coverage.images < USUAL_SHOTS * coverage.classes:
            average = f"{coverage.images / coverage.classes:.1f} images per class on average"
            yield f"the teacher predicts all {coverage.classes} classes, with {average}; {USUAL_SHOTS} are typical"
    elif coverage.covered == 1 and coverage.images >= USUAL_SHOTS:
        yield (
            f"{summary}, always `{coverage.dominant[0].name}`: add images of other classes, or, if they show several,"
            " check --mean, --std and --img-size"
        )
    elif coverage.images < coverage.classes:
        yield (
            f"{summary}: there are fewer images than classes; add images, preferably of the classes you need"
            f" ({USUAL_SHOTS} images per class are typical)"
        )
    else:
        yield f"{summary}: add images of {few(coverage.missing, _LISTED)}"


def _on_files(statistics: DatasetStatistics) -> Iterator[str]:
    broken, plain = len(statistics.broken), len(statistics.plain)
    copies, near_copies = statistics.copies, statistics.near_copies
    if broken:
        yield f"{_files(broken)} cannot be read and {_are(broken)} skipped: fix or remove {_them(broken)}"
    if copies:
        yield f"{_images(copies)} {_are(copies)} an exact copy of another: different images would teach more"
    if near_copies:
        yield f"{_images(near_copies)} {_are(near_copies)} a near copy of another: different images would teach more"
    if plain:
        yield f"{_images(plain)} {_are(plain)} of a single colour: remove {_them(plain)}"
    if statistics.enlarged is not None and statistics.enlarged > statistics.images // 10:
        yield (
            f"{statistics.enlarged} of {statistics.images} images are smaller than the network's input and are"
            " enlarged: give larger images if the student will be used on larger ones"
        )
    if statistics.images < 2 * USUAL_SHOTS:
        yield (
            f"{_images(statistics.images)} {_are(statistics.images)} few: {USUAL_SHOTS} per class, or 100 in all,"
            " are usual"
        )


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _them(count: int) -> str:
    return "it" if count == 1 else "them"
