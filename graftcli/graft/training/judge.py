"""Whether training made the student better: scores on views that nothing is trained on, before a task and after it.

The views are of held-out images; where there are none, they are unseen views of the training images.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftcli.graft.data.teacher_cache import TeacherCache
from graftcli.graft.training.tasks import Grafted, Pieces, Task

_MOST_MARKS, _LEAST_MARKS = 7, 4
_SCORING = 0.03  # of a task's work, that scoring may take
_FEWEST_VIEWS, _MOST_VIEWS = 128, 512
_FRACTIONS = (0.75, 0.5, 0.25)  # of the way from the weights before a task to those after it, that are tried


@dataclass(frozen=True)
class Score:
    """How near a network's answers are to the teacher's."""

    agreement: float  # the share of views with the same first answer
    kl: float  # KL(teacher || network), averaged over the views, in nats

    @property
    def rank(self) -> tuple[float, float]:
        return self.agreement, -math.inf if math.isnan(self.kl) else -self.kl


@dataclass(frozen=True)
class Verdict:
    """What a task began with, what it ended with, and what is kept of it."""

    before: Score
    after: Score
    kept: Score
    fraction: float  # of the way from the weights before to those after: 1 where training made nothing worse
    stopped: int | None = None  # the step at which a task that only lost ground was ended

    @property
    def is_setback(self) -> bool:
        return self.fraction < 1


def verdict_of(facts: Mapping[str, Any]) -> Verdict:
    """A verdict out of the facts of a finished task."""
    before, after, kept = (Score(**facts[name]) for name in ("before", "after", "kept"))
    return Verdict(before, after, kept, facts["fraction"], facts["stopped"])


class Judge:
    """Scores the teacher with some of its blocks replaced."""

    def __init__(self, pieces: Pieces, teacher_cache: TeacherCache) -> None:
        self.pieces, self.teacher_cache = pieces, teacher_cache

    @torch.no_grad()
    def measured(self, blocks: Sequence[int], views: int) -> Score:
        """Score the teacher with these blocks replaced, on a sample of `views` views."""
        grafted, last = Grafted(self.pieces, blocks), self.pieces.blocks + 1
        same, kl, views = 0, 0.0, min(views, len(self.teacher_cache.views))
        with _in_eval_mode(grafted):
            for index in self._drawn(views).split(self.teacher_cache.chunk):
                given = grafted(self.teacher_cache.at(grafted.first - 1, index), {last})[last].float()
                wanted = self.teacher_cache.at(last, index)
                same += int((given.argmax(1) == wanted.argmax(1)).sum())
                soft = F.log_softmax(given, 1), F.log_softmax(wanted, 1)
                kl += float(F.kl_div(*soft, reduction="sum", log_target=True))
        return Score(same / views, kl / views)

    def _drawn(self, views: int) -> Tensor:
        """The indices of a fixed random sample of views; evenly spaced indices could show few images."""
        order = torch.randperm(len(self.teacher_cache.views), generator=torch.Generator().manual_seed(0))
        return order[:views].sort().values


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Put the module in eval mode, and restore each submodule's own mode on exit."""
    training = [one for one in module.modules() if one.training]
    module.eval()
    try:
        yield
    finally:
        for one in training:
            one.training = True


def judged(
    moving: nn.Module, start: dict[str, Tensor], before: Score, measure: Callable[[], Score], stopped: int | None = None
) -> Verdict:
    """Keep what training made of the weights where it made nothing worse; else the best point on the straight line from
    the weights before (`start`), of equal ones the one that is nearest to the end."""
    after = measure()
    if after.rank >= before.rank:
        return Verdict(before, after, after, 1.0, stopped)
    end = {name: tensor.detach().clone() for name, tensor in moving.state_dict().items()}
    found = [(after, 1.0)]
    for fraction in _FRACTIONS:
        _place(moving, start, end, fraction)
        found.append((measure(), fraction))
    found.append((before, 0.0))
    kept, fraction = max(found, key=lambda one: one[0].rank)
    _place(moving, start, end, fraction)
    return Verdict(before, after, kept, fraction, stopped)


def setback(task: Task, verdict: Verdict, on: str, factor: float) -> str:
    """What the user should know of a task that made the student worse, and what to change."""
    before, after = (f"{score.agreement:.1%} (KL {score.kl:.3g})" for score in (verdict.before, verdict.after))
    kept = f"{verdict.fraction:.0%} of the change is kept" if verdict.fraction else "the weights before it are kept"
    what = f"stage {task.name}, its blocks joined," if task.name == task.stage.name else task.name
    said = f"{what} lowered the agreement on {on}: {before} before, {after} after; {kept}"
    return f"{said}, {verdict.kept.agreement:.1%}. {_advice(task, factor)}"


def _advice(task: Task, factor: float) -> str:
    stage, name = task.stage, task.stage.name
    if stage.lr is None:
        return f"A higher ridge changes less: --set stages.{name}.ridge={10 * (stage.ridge or 1e-3):g}"
    rates = [
        f"{rate * factor / 3 if i == min(task.unit, len(stage.lr) - 1) else rate:g}" for i, rate in enumerate(stage.lr)
    ]
    lower = f"--set stages.{name}.lr={rates[0] if len(rates) == 1 else '[' + ','.join(rates) + ']'}"
    tried = f" --set stages.{name}.lr_factors=null" if stage.lr_factors else ""
    return f"A lower rate changes less: {lower}{tried}"


@torch.no_grad()
def _place(moving: nn.Module, start: dict[str, Tensor], end: dict[str, Tensor], fraction: float) -> None:
    """Move the weights to a point on the line; counters, which have none between, are the later ones."""
    for name, tensor in moving.state_dict().items():
        if fraction == 0 or not tensor.is_floating_point():
            tensor.copy_(start[name] if fraction == 0 else end[name])
        else:
            tensor.copy_(start[name].lerp(end[name], fraction))


@dataclass(frozen=True)
class Watch:
    """A task is scored at some of its steps, so that one which only loses ground is ended early."""

    before: Score
    marks: tuple[int, ...]
    measure: Callable[[], Score]  # with the weights as they are

    def only_falls(self, scores: Mapping[int, Score]) -> bool:
        """Whether the task lost ground at each of its marks so far, and there were enough of them to tell."""
        seen = [self.before, *(scores[mark] for mark in self.marks if mark in scores)]
        return len(seen) > _LEAST_MARKS and all(b.rank < a.rank and b.kl > a.kl for a, b in pairwise(seen))


def views_of(work: float, look: float) -> int:
    """On how many views a task is scored before it and after it, so that both take some hundredths of its own work."""
    return max(_FEWEST_VIEWS, min(_MOST_VIEWS, int(_SCORING * work / (2 * look))))


def marks_of(steps: int, work: float, look: float) -> tuple[int, ...]:
    """The steps at which a task is scored while it is trained: up to seven, evenly spread; none where that would take
    more than 3% of its work. Both costs are in one unit."""
    count = min(_MOST_MARKS, int(_SCORING * work / look))
    return tuple(steps * (i + 1) // (count + 1) for i in range(count)) if count >= _LEAST_MARKS else ()
