"""Score the results of a comparison on one set of images, with cached scores."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from graftcli.comparison.fingerprint import file_stats
from graftcli.comparison.result_cache import ResultCache
from graftcli.measure import accuracy
from graftcli.runs.config import RunConfig, models_json
from graftcli.runs.loading import network_of
from graftcli.runs.scoring import ScoredModel, ScoringImages, load_scoring_images
from graftcli.runs.teacher import teacher_of
from graftcli.store.run_record import RunRecord


@dataclass(frozen=True)
class Scorer:
    """Test images and the teacher, both loaded when they are first needed."""

    config: RunConfig
    test: str | None
    classes: str | None
    cache: ResultCache

    @cached_property
    def _scoring(self) -> ScoringImages:
        assert self.test is not None
        teacher, look, how = teacher_of(self.config), self.config.look, self.config.how
        images = load_scoring_images(self.test, teacher, look, classes=self.classes, jobs=how.jobs, device=how.device)
        return images.with_teacher(teacher, look)

    def score(self, folder: Path, run: RunRecord) -> tuple[float | None, float | None]:
        """Return accuracy and agreement of the result of a run; without test images, the agreement that it recorded."""
        if self.test is None:
            return None, run.result.agreement if run.result else None

        def compute() -> object:
            return _shares(self._scoring.score(network_of(folder)))

        scores = self.cache.get_or_compute("scores", [folder.name, run.ended, *self._inputs], compute)
        return scores[0], scores[1]

    @property
    def teacher_accuracy(self) -> float | None:
        """The accuracy of the teacher; None without labelled test images."""
        share: float | None = self._teacher_facts[0] if self.test is not None else None
        return share

    @property
    def description(self) -> str:
        """What accuracy and agreement are measured on, for the report."""
        if self.test is None:
            held_out = self.config.val_images or "the held-out images of each run (if it has 40 or more)"
            return f"agreement with the teacher on {held_out}; no accuracy without --test images"
        _, count, rule = self._teacher_facts
        if not rule:
            return f"agreement with the teacher on {count:,} images of {self.test}; no accuracy without class folders"
        return f"accuracy, and agreement with the teacher, on {count:,} images of {self.test}; classes: {rule}"

    @cached_property
    def _teacher_facts(self) -> Any:
        """The accuracy of the teacher, the number of images, and how folder names are mapped to classes."""
        networks = self.config.networks

        def compute() -> object:
            scoring = self._scoring
            assert scoring.teacher_logits is not None  # set by _scoring
            labels, count = scoring.labels, len(scoring.images.pixels)
            if labels is None:
                return [None, count, None]
            return [accuracy(scoring.teacher_logits, labels.indices).top1.share, count, labels.rule]

        files = [file_stats(networks.teacher), file_stats(networks.teacher_checkpoint)]
        depends_on = [models_json(replace(networks, student="")), files, asdict(self.config.look)]
        return self.cache.get_or_compute("teachers", [*depends_on, *self._inputs], compute)

    @property
    def _inputs(self) -> list[object]:
        """The paths of the test images and class file, with the state of their files."""
        return [self.test, self.classes, file_stats(self.test), file_stats(self.classes)]


def _shares(scores: ScoredModel) -> list[float | None]:
    return [
        scores.accuracy.top1.share if scores.accuracy else None,
        scores.likeness.agreement.share if scores.likeness else None,
    ]
