"""What a run stores, its size and its place: the table that `distill` and `plan --memory` print."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch

from graftcli.events import StoredPart
from graftcli.graft.data.teacher_cache import Place, choose_places, size_of
from graftcli.graft.schedule import Schedule
from graftcli.graft.settings import EngineSettings
from graftcli.graft.training.pieces import Pieces
from graftcli.graft.training.tasks import teacher_values


def feature_parts(
    places: Mapping[int, Place], shapes: Sequence[tuple[int, ...]], views: int, dtype: torch.dtype
) -> Iterator[StoredPart]:
    """Yield the cached values of the teacher, in the order of its blocks."""
    logits = len(shapes)
    for value, place in sorted(places.items()):
        size = size_of(value, shapes, views, dtype)
        yield StoredPart("logits" if value == logits else "features", None if value == logits else value, size, place)


def values_of(schedule: Schedule, pieces: Pieces) -> Collection[int]:
    """Return the values of the teacher that the tasks of a run read."""
    return {value for task in schedule.tasks for value in teacher_values(task, pieces)}


def memory_table(schedule: Schedule, pieces: Pieces, settings: EngineSettings) -> tuple[StoredPart, ...]:
    """Return the features that a run would cache, if all stages have the same augmentation."""
    views, dtype = schedule.total_views, settings.precision.dtype
    places = choose_places(values_of(schedule, pieces), pieces.shapes, views, dtype, settings.cache_budgets())
    return tuple(feature_parts(places, pieces.shapes, views, dtype))
