"""spec + teacher -> student: what `nets.spec.build` is handed as its maker of derived students."""

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
from graftcli.students.drop_units import dropped, least_missed, units
from graftcli.students.factorize import decoupled, low_rank
from graftcli.students.narrowing import kept_beside, narrower, pruned
from graftcli.students.spec import (
    Decoupled,
    Dropped,
    LowRank,
    Narrower,
    Pruned,
    Wanted,
    is_wanted,
    looks_at_images,
    suffix,
    wanted,
)

Pictured = Callable[[], Tensor]  # a few images, ready for the teacher
_RANKED_ON = 32  # images, on which the network is run once for each unit that could go


def maker(images: Pictured | None = None) -> Callable[[str, Network], Network | None]:
    """A maker of students out of teachers; without images it makes those that need none."""
    return partial(_derived, images)


def _derived(images: Pictured | None, spec: str, teacher: Network) -> Network | None:
    """The student of a spec, with the teacher's weights; None for another kind of spec. The teacher stays as it is."""
    if not is_wanted(spec):
        return None
    asked = wanted(spec)
    with _one_thread():
        changed = _changed(trace(teacher.module, example(teacher)), asked, images)
    return replace(
        teacher,
        module=replace_modules(narrow(teacher.module, changed.kept), changed.replaced).eval().requires_grad_(True),
        name=f"{teacher.name}-{suffix(asked)}",
        source="teacher",
        weights=f"the teacher's{changed.note}",
        origin=origin_of(teacher.origin, spec, changed.kept, changed.replaced, changed.whole),
    )


@dataclass(frozen=True)
class _Changed:
    """What makes the teacher the student."""

    kept: tuple[ChannelSelection, ...]
    replaced: Mapping[str, nn.Sequential] = field(default_factory=dict)
    whole: Sequence[str] = ()  # what was to be narrowed and could not be
    note: str = ""


def _changed(traced: Traced, asked: Wanted, images: Pictured | None) -> _Changed:
    match asked:
        case Narrower():
            kept, whole = narrower(traced, asked)
            return _Changed(kept, whole=whole)
        case Pruned():
            kept, whole = pruned(traced, asked, images() if images and looks_at_images(asked) else None)
            return _Changed(kept, whole=whole)
        case LowRank():
            rows = low_rank(traced.module, asked.share)
        case Decoupled():
            rows = decoupled(traced.module, asked.pairs)
        case Dropped():
            names = dropped(traced, asked.units) if asked.units else _ranked(traced, asked.count, images)
            rows = {name: nn.Sequential() for name in names}
            return _Changed(kept_beside(traced.module, rows), rows, note=f", without {', '.join(names)}")
    return _Changed(
        kept_beside(traced.module, rows), rows, note=f", taken apart in {len(rows)} convolution{'s' * (len(rows) > 1)}"
    )


def _ranked(traced: Traced, count: int, images: Pictured | None) -> list[str]:
    if images is None:
        found = f"drop:auto={count} looks at images, and there are none here."
        raise UsageError(found, f"Name the units, as {', '.join(f'drop:{name}' for name in list(units(traced))[:1])}.")
    return least_missed(traced, count, images()[:_RANKED_ON])


def made_from_teacher(spec: str) -> bool:
    """Whether a spec stands for a student with weights out of a teacher: one to be made, or one that was written."""
    if is_wanted(spec):
        return True
    path = output_of(spec)
    return path is not None and read_output(path)[0]["kind"] == KIND


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, whatever else the machine does: the student is part of what a run is resumed by."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
