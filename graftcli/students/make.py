"""Derive a student from a spec and a teacher; `loading.build.build` takes the function as `derive`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from graftcli.errors import UsageError
from graftcli.models.channel_selection import ChannelSelection, narrow
from graftcli.models.cuts.plan import example
from graftcli.models.derivation import KIND, origin_of, replace_modules
from graftcli.models.loading.model_spec import output_of
from graftcli.models.loading.saved import read_output
from graftcli.models.network import Network
from graftcli.models.tracing.trace import Traced, trace
from graftcli.students.drop_units import check_units, droppable_units, least_important_units
from graftcli.students.factorize import factorize_depthwise, factorize_low_rank
from graftcli.students.narrowing import narrow_blocks, prune, selections_beside
from graftcli.students.spec import (
    Decoupled,
    Dropped,
    LowRank,
    Narrower,
    Pruned,
    StudentSpec,
    is_derived_spec,
    needs_images,
    parse_spec,
    suffix,
)

ImageLoader = Callable[[], Tensor]  # returns a few preprocessed images
_MAX_RANKING_IMAGES = 32  # images for ranking units; the network runs once per candidate unit


def student_maker(images: ImageLoader | None = None) -> Callable[[str, Network], Network | None]:
    """Return a function that derives students; without images it supports only specs that need none."""
    return partial(_derive, images)


def _derive(images: ImageLoader | None, spec: str, teacher: Network) -> Network | None:
    """Derive the student of a spec; None for other kinds of spec. The teacher is not changed."""
    if not is_derived_spec(spec):
        return None
    student_spec = parse_spec(spec)
    with _one_thread():
        changes = _changes(trace(teacher.module, example(teacher)), student_spec, images)
    return replace(
        teacher,
        module=replace_modules(narrow(teacher.module, changes.selections), changes.replaced)
        .eval()
        .requires_grad_(True),
        name=f"{teacher.name}-{suffix(student_spec)}",
        source="teacher",
        weights=f"the teacher's{changes.note}",
        origin=origin_of(teacher.origin, spec, changes.selections, changes.replaced, changes.whole),
    )


@dataclass(frozen=True)
class _Changes:
    """The changes that turn the teacher into the student."""

    selections: tuple[ChannelSelection, ...]
    replaced: Mapping[str, nn.Sequential] = field(default_factory=dict)
    whole: Sequence[str] = ()  # layers that the spec would narrow but that cannot be narrowed
    note: str = ""


def _changes(traced: Traced, student_spec: StudentSpec, images: ImageLoader | None) -> _Changes:
    match student_spec:
        case Narrower():
            selections, whole = narrow_blocks(traced, student_spec)
            return _Changes(selections, whole=whole)
        case Pruned():
            selections, whole = prune(traced, student_spec, images() if images and needs_images(student_spec) else None)
            return _Changes(selections, whole=whole)
        case LowRank():
            replacements = factorize_low_rank(traced.module, student_spec.share)
        case Decoupled():
            replacements = factorize_depthwise(traced.module, student_spec.pairs)
        case Dropped():
            names = (
                check_units(traced, student_spec.units)
                if student_spec.units
                else _ranked(traced, student_spec.count, images)
            )
            replacements = {name: nn.Sequential() for name in names}
            return _Changes(
                selections_beside(traced.module, replacements), replacements, note=f", without {', '.join(names)}"
            )
    return _Changes(
        selections_beside(traced.module, replacements),
        replacements,
        note=f", {len(replacements)} convolution{'s' * (len(replacements) > 1)} factorized",
    )


def _ranked(traced: Traced, count: int, images: ImageLoader | None) -> list[str]:
    if images is None:
        message = f"drop:auto={count} needs images, and none are given."
        raise UsageError(
            message,
            f"Name the units, for example {', '.join(f'drop:{name}' for name in list(droppable_units(traced))[:1])}.",
        )
    return least_important_units(traced, count, images()[:_MAX_RANKING_IMAGES])


def is_derived_from_teacher(spec: str) -> bool:
    """Whether a spec is a derived student: one to be made, or a saved one."""
    if is_derived_spec(spec):
        return True
    path = output_of(spec)
    return path is not None and read_output(path)[0]["kind"] == KIND


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread for reproducible sums, because resuming a run needs the same student."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
