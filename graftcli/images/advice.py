"""What the images' census and coverage mean for a distillation, in sentences that say what to do."""

from collections.abc import Iterator

from graftcli.errors import few
from graftcli.images.coverage import Coverage
from graftcli.images.statistics import DatasetStatistics

USUAL = 10  # images a class: the paper's ten-shot setting
_NAMED = 8
_ABOVE_CHANCE = 0.1  # what a median confidence should have over mere chance, at the very least


def advise(census: DatasetStatistics, coverage: Coverage | None) -> tuple[str, ...]:
    """What to do, the most important first; nothing where nothing is to be done."""
    return (*(_on_classes(coverage) if coverage else ()), *_on_files(census))


def on_classes(coverage: Coverage) -> tuple[str, ...]:
    """What the teacher's answers mean."""
    return tuple(_on_classes(coverage))


def _on_classes(found: Coverage) -> Iterator[str]:
    if found.broken_answers:
        share = f"{found.broken_answers} of {found.images} images"
        yield f"the teacher answers {share} with NaN or infinity: check its checkpoint, and --mean and --std"
    if not found.trained:
        yield "the teacher has random weights, so its answers mean nothing: give its checkpoint"
        return
    if found.broken_answers == found.images:
        return
    yield from _on_coverage(found)
    top = found.dominant[0]
    if found.covered > 1 and top.share > max(0.5, 1.6 / found.classes):
        yield f"{top.share:.0%} of the images are `{top.name}` to the teacher: add images of other classes"
    if found.confidence < 1 / found.classes + _ABOVE_CHANCE:
        yield (
            f"the teacher is unsure (median confidence {found.confidence:.0%}): check that --img-size, --mean, --std"
            " and --crop-pct are those it was trained with, and that the images are of its kind"
        )


def _on_coverage(found: Coverage) -> Iterator[str]:
    said = f"your {found.images} image{'s' * (found.images > 1)} cover {found.covered} of {found.classes} classes"
    if found.covered == found.classes:
        if found.images < USUAL * found.classes:
            each = f"{found.images / found.classes:.1f} images a class"
            yield f"all {found.classes} classes are covered, with {each} on average: {USUAL} are usual, and help"
    elif found.covered == 1 and found.images >= USUAL:
        yield (
            f"{said}, all are `{found.dominant[0].name}` to the teacher: either they show one thing, then add others,"
            " or the teacher sees them wrong: check --mean, --std and --img-size"
        )
    elif found.images < found.classes:
        yield (
            f"{said}: with fewer images than classes most go unseen; add images, best of the classes you need"
            f" ({USUAL} a class are usual)"
        )
    else:
        yield f"{said}: add images of {few(found.missing, _NAMED)}"


def _on_files(found: DatasetStatistics) -> Iterator[str]:
    broken, plain = len(found.broken), len(found.plain)
    if broken:
        yield f"{_files(broken)} cannot be read and {_are(broken)} left out: fix or remove {_them(broken)}"
    if found.copies:
        yield f"{_images(found.copies)} {_are(found.copies)} a copy of another, byte for byte: others would teach more"
    if found.lookalikes:
        yield f"{_images(found.lookalikes)} {_are(found.lookalikes)} nearly another one: others would teach more"
    if plain:
        yield f"{_images(plain)} {_are(plain)} of one shade all over: remove {_them(plain)}"
    if found.enlarged is not None and found.enlarged > found.images // 10:
        yield (
            f"{found.enlarged} of {found.images} images are smaller than what the network sees, and are enlarged:"
            " give larger ones, if those that the student will see are larger"
        )
    if found.images < 2 * USUAL:
        yield f"{_images(found.images)} {_are(found.images)} few: {USUAL} a class, or a hundred in all, are usual"


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _them(count: int) -> str:
    return "it" if count == 1 else "them"
