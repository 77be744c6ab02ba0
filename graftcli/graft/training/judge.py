"""Scores the student before and after each task on views that no task trains on, and keeps weights that are no worse.

The views are of held-out images if there are enough; otherwise they are unseen views of all images.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftcli.graft.data.teacher_cache import TeacherCache
from graftcli.graft.training.pieces import Grafted, Pieces
from graftcli.graft.training.tasks import Task, loss, teacher_values

_MAX_SCORINGS, _MIN_SCORINGS = 7, 4  # during a task
_SCORING_SHARE = 0.03  # of a task's cost that scoring may take
_MIN_VIEWS, _MAX_VIEWS = 128, 512
FRACTIONS = (0.75, 0.5, 0.25)  # interpolation factors to try between the weights before and after a task


@dataclass(frozen=True)
class Score:
    """How close a network's predictions are to the teacher's."""

    agreement: float  # share of views with the same top-1 prediction
    kl: float  # KL(teacher || network), averaged over the views, in nats
    loss: float | None = None  # of the task that is scored

    def is_better(self, other: "Score", margin: float) -> bool:
        """Whether this score is better: by agreement if the two differ by more than `margin`, else by KL divergence.

        With few images, a small difference in agreement may be chance; the KL divergence depends on every image.
        """
        if abs(self.agreement - other.agreement) > margin:
            return self.agreement > other.agreement
        return self._divergence < other._divergence

    @property
    def _divergence(self) -> float:
        return math.inf if math.isnan(self.kl) else self.kl


@dataclass(frozen=True)
class Verdict:
    """The scores before and after a task, and the share of its weight change that is kept."""

    before: Score
    after: Score
    kept: Score
    fraction: float  # share of the weight change that is kept; 1 unless training made the student worse
    stopped: int | None = None  # the step of early stopping

    @property
    def is_setback(self) -> bool:
        """Whether training made the student worse."""
        return self.fraction < 1


def verdict_from_facts(facts: Mapping[str, Any]) -> Verdict:
    """Restore a verdict from the record of a finished task."""
    before, after, kept = (Score(**facts[name]) for name in ("before", "after", "kept"))
    return Verdict(before, after, kept, facts["fraction"], facts["stopped"])


class Judge:
    """Scores the teacher with some of its blocks replaced."""

    def __init__(self, pieces: Pieces, teacher_cache: TeacherCache) -> None:
        self.pieces, self.teacher_cache = pieces, teacher_cache
        self.margin = 1 / math.sqrt(len(teacher_cache.views.pixels))  # two standard errors of a proportion

    @torch.no_grad()
    def measured(self, blocks: Sequence[int], views: int, task: Task | None = None) -> Score:
        """Score the teacher with these blocks replaced, on a sample of `views` views; with a task, also its loss."""
        grafted, last = Grafted(self.pieces, blocks), self.pieces.blocks + 1
        targets = teacher_values(task, self.pieces, with_input=False) if task is not None else set()
        chunks = self._sample(min(views, len(self.teacher_cache.views))).split(self.teacher_cache.chunk)
        scores = []  # on the device, read once at the end
        with _in_eval_mode(grafted):
            for index in chunks:
                teacher = self._teacher_values(grafted.first - 1, targets, index)
                student = grafted(teacher[grafted.first - 1], {last, *targets})
                logits = student[last].float(), teacher[last]
                same = (logits[0].argmax(1) == logits[1].argmax(1)).sum()
                soft = F.log_softmax(logits[0], 1), F.log_softmax(logits[1], 1)
                kl = F.kl_div(*soft, reduction="sum", log_target=True)
                mean_loss = loss(task, self.pieces, student, teacher) if task is not None and targets else same
                scores.append(torch.stack([same.float(), kl, mean_loss.float()]))
        sizes, rows = [len(index) for index in chunks], torch.stack(scores).cpu().tolist()
        total = sum(size * mean_loss for size, (_, _, mean_loss) in zip(sizes, rows, strict=True))
        agreement, kl_mean = (sum(row[i] for row in rows) / sum(sizes) for i in (0, 1))
        return Score(agreement, kl_mean, total / sum(sizes) if targets else None)

    def _teacher_values(self, first: int, targets: Collection[int], index: Tensor) -> dict[int, Tensor]:
        """Return the teacher's value `first`, the values of the later targets, and the logits."""
        last, features = self.pieces.blocks + 1, self.teacher_cache.at(first, index)
        values = {first: features, last: self.teacher_cache.at(last, index)}
        for value in range(first + 1, max({*targets} - {last}, default=0) + 1):
            features = self.pieces.teacher[value - 1](features)
            values[value] = features
        return values

    def _sample(self, views: int) -> Tensor:
        """The indices of a fixed random sample of views; evenly spaced indices could cover only a few images."""
        order = torch.randperm(len(self.teacher_cache.views), generator=torch.Generator().manual_seed(0))
        return order[:views].sort().values


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Put the module in eval mode, and restore each submodule's own mode on exit."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True


def keep_best(
    trainable: nn.Module,
    start: dict[str, Tensor],
    before: Score,
    measure: Callable[[], Score],
    margin: float,
    stopped: int | None = None,
) -> Verdict:
    """Keep the trained weights if they are no worse than before, else the best interpolation of old and new weights.

    Interpolated weights with lower agreement than `before` are not kept; of equally good ones, the newest are kept.
    """
    after = measure()
    if after.agreement >= before.agreement and not before.is_better(after, margin):
        return Verdict(before, after, after, 1.0, stopped)
    end = {name: tensor.detach().clone() for name, tensor in trainable.state_dict().items()}
    points = [(after, 1.0)]
    for fraction in FRACTIONS:
        _interpolate(trainable, start, end, fraction)
        points.append((measure(), fraction))
    points.append((before, 0.0))
    kept, fraction = _best([point for point in points if point[0].agreement >= before.agreement], margin)
    _interpolate(trainable, start, end, fraction)
    return Verdict(before, after, kept, fraction, stopped)


def _best(points: Sequence[tuple[Score, float]], margin: float) -> tuple[Score, float]:
    """The first point than which no later one is better."""
    best = points[0]
    for point in points[1:]:
        if point[0].is_better(best[0], margin):
            best = point
    return best


def setback(task: Task, verdict: Verdict, on: str, factor: float) -> str:
    """Describe a task that made the student worse, and say what to change."""
    before, after = (f"{score.agreement:.1%} (KL {score.kl:.3g})" for score in (verdict.before, verdict.after))
    kept = f"{verdict.fraction:.0%} of the change is kept" if verdict.fraction else "the weights before it are kept"
    what = f"stage {task.name}, with its blocks together," if task.name == task.stage.name else task.name
    change = f"{what} made the student worse on {on}: agreement {before} before, {after} after"
    return f"{change}; {kept}, {verdict.kept.agreement:.1%}. {_advice(task, factor)}"


def _advice(task: Task, factor: float) -> str:
    stage, name = task.stage, task.stage.name
    if stage.lr is None:
        return f"Try a higher ridge: --set stages.{name}.ridge={10 * (stage.ridge or 1e-3):g}"
    rates = [
        f"{rate * factor / 3 if i == min(task.unit, len(stage.lr) - 1) else rate:g}" for i, rate in enumerate(stage.lr)
    ]
    lower = f"--set stages.{name}.lr={rates[0] if len(rates) == 1 else '[' + ','.join(rates) + ']'}"
    tried = f" --set stages.{name}.lr_factors=null" if stage.lr_factors else ""
    return f"Try a lower learning rate: {lower}{tried}"


@torch.no_grad()
def _interpolate(trainable: nn.Module, start: dict[str, Tensor], end: dict[str, Tensor], fraction: float) -> None:
    """Set the weights to an interpolation between start and end; integer counters are taken from the end."""
    for name, tensor in trainable.state_dict().items():
        if fraction == 0 or not tensor.is_floating_point():
            tensor.copy_(start[name] if fraction == 0 else end[name])
        else:
            tensor.copy_(start[name].lerp(end[name], fraction))


@dataclass(frozen=True)
class Watch:
    """The steps at which a task is scored, for early stopping of a task that makes the student worse."""

    before: Score
    steps: tuple[int, ...]
    measure: Callable[[], Score]  # with the current weights

    def is_falling(self, scores: Mapping[int, Score]) -> bool:
        """Whether there are enough scores, and each is worse than the one before it in every respect."""
        ordered = [self.before, *(scores[step] for step in self.steps if step in scores)]
        return len(ordered) > _MIN_SCORINGS and all(_is_fall(before, after) for before, after in pairwise(ordered))


def _is_fall(before: Score, after: Score) -> bool:
    """Whether no metric has improved. From random weights, only the loss improves in the first steps."""
    has_loss_fallen = before.loss is not None and after.loss is not None and after.loss < before.loss
    return after.agreement <= before.agreement and after.kl > before.kl and not has_loss_fallen


def scoring_views(task_cost: float, view_cost: float) -> int:
    """Return the number of views to score before and after a task, so that both take about 3% of its cost."""
    return max(_MIN_VIEWS, min(_MAX_VIEWS, int(_SCORING_SHARE * task_cost / (2 * view_cost))))


def scoring_steps(steps: int, task_cost: float, scoring_cost: float) -> tuple[int, ...]:
    """Return the steps at which a task is scored during training: up to seven, evenly spaced.

    There are none if four scorings would take more than 3% of the task's cost.
    """
    count = min(_MAX_SCORINGS, int(_SCORING_SHARE * task_cost / scoring_cost))
    return tuple(steps * (i + 1) // (count + 1) for i in range(count)) if count >= _MIN_SCORINGS else ()
