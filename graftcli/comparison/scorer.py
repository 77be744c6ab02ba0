"""The images on which the results of a comparison are scored, each of them once."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from graftcli.comparison.fingerprint import state_of
from graftcli.comparison.result_cache import ResultCache
from graftcli.measure import accuracy
from graftcli.runs.config import RunConfig, facts_of
from graftcli.runs.loading import network_of
from graftcli.runs.prepare import teacher_of
from graftcli.runs.scoring import ScoredModel, ScoringImages, scoring_on


@dataclass(frozen=True)
class Scorer:
    """Test images, and the teacher beside which networks are scored on them; nothing is read before it is needed."""

    asked: RunConfig
    test: str | None
    classes: str | None
    notebook: ResultCache

    @cached_property
    def _scoring(self) -> ScoringImages:
        assert self.test is not None
        teacher, how = teacher_of(self.asked), self.asked.how
        found = scoring_on(self.test, teacher, self.asked.look, classes=self.classes, jobs=how.jobs, device=how.device)
        return found.beside(teacher, self.asked.look)

    def score(self, folder: Path, run: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """Accuracy and agreement of what came out of a run; its own agreement where there is no test."""
        if self.test is None:
            return None, run["result"]["agreement"]

        def find() -> Any:
            return _shares(self._scoring.score(network_of(folder)))

        found = self.notebook.once("scores", [folder.name, run["ended"], *self._what], find)
        return found[0], found[1]

    @property
    def teacher(self) -> float | None:
        """How often the teacher is right, where there is a test with class folders."""
        right: float | None = self._told[0] if self.test is not None else None
        return right

    @property
    def said(self) -> str:
        """On what accuracy and agreement were measured."""
        if self.test is None:
            held_out = self.asked.val_images or "images that a run held out, a tenth of 40 or more"
            return f"agreement: with the teacher, on {held_out}; accuracy: no --test images were given"
        _, count, rule = self._told
        by = f"; classes: {rule}" if rule else "; it has no class folders, so no accuracy"
        return f"accuracy and agreement with the teacher: on {count:,} images of {self.test}{by}"

    @cached_property
    def _told(self) -> Any:
        """The teacher's accuracy, how many images there are, and how folder names became classes."""
        networks = self.asked.networks

        def find() -> Any:
            scoring = self._scoring
            assert scoring.says is not None  # it stands beside the teacher
            right = accuracy(scoring.says, scoring.labels.indices).top1.share if scoring.labels else None
            return [right, len(scoring.images.pixels), scoring.labels.rule if scoring.labels else None]

        files = [state_of(networks.teacher), state_of(networks.teacher_checkpoint)]
        hangs_on = [facts_of(replace(networks, student="")), files, asdict(self.asked.look)]
        return self.notebook.once("teachers", [*hangs_on, *self._what], find)

    @property
    def _what(self) -> list[Any]:
        """What networks are scored on."""
        return [self.test, self.classes, state_of(self.test), state_of(self.classes)]


def _shares(found: ScoredModel) -> list[float | None]:
    return [
        found.accuracy.top1.share if found.accuracy else None,
        found.likeness.agreement.share if found.likeness else None,
    ]
