"""Derive a student from a spec and a teacher; `loading.build.build` takes the function as `derive`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from graftcli.models.channel_selection import narrow
from graftcli.models.cuts.plan import example
from graftcli.models.derivation import KIND, origin_of, replace_modules, with_random_weights
from graftcli.models.loading.model_spec import output_of
from graftcli.models.loading.saved import read_output
from graftcli.models.network import Network
from graftcli.models.tracing.trace import trace
from graftcli.models.weights import Weights, WeightsOrigin
from graftcli.students.spec import is_derived_spec, parse_spec
from graftcli.students.student_kind import ImageLoader


def student_maker(images: ImageLoader | None = None) -> Callable[[str, Network], Network | None]:
    """Return a function that derives students; without images it supports only specs that need none."""
    return partial(_derive, images)


def _derive(images: ImageLoader | None, spec: str, teacher: Network) -> Network | None:
    """Derive the student of a spec; None for other kinds of spec. The teacher is not changed."""
    if not is_derived_spec(spec):
        return None
    student = parse_spec(spec)
    with _one_thread():
        changes = student.changes(trace(teacher.module, example(teacher)), images if student.needs_images else None)
    module = replace_modules(narrow(teacher.module, changes.selections), changes.replaced)
    return replace(
        teacher,
        module=(with_random_weights(module) if changes.is_random else module).eval().requires_grad_(True),
        name=f"{teacher.name}-{student.suffix}",
        source="teacher",
        weights=Weights(WeightsOrigin.RANDOM if changes.is_random else WeightsOrigin.TEACHER, notes=changes.notes),
        origin=origin_of(teacher.origin, spec, changes.selections, changes.replaced, changes.whole),
    )


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
