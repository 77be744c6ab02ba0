"""The teacher caches of a run: one per augmentation for training, and one for judging tasks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from graftcli.events import Listener, MemoryPlanned, StoredPart, SyntheticImages, TeacherPass
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.chunking import chunk_size
from graftcli.graft.data.memory_table import feature_parts
from graftcli.graft.data.synthetic import Synthesis
from graftcli.graft.data.teacher_cache import Place, TeacherCache, choose_places, size_of
from graftcli.graft.data.views import ViewedImages, Views, synthetic_views
from graftcli.graft.schedule import Schedule
from graftcli.graft.settings import EngineSettings
from graftcli.graft.training.pieces import Pieces
from graftcli.graft.training.tasks import Task, teacher_values
from graftcli.images import Preprocess
from graftcli.images.rows import Pixels, with_extra
from graftcli.models.cuts.plan import Plan
from graftcli.recipe.values import Augment, Crop
from graftcli.store.cache_files import Cache

_FIRST_VIEWS, _FIRST_PIXELS = 256, 64 * 224 * 224  # for solving layers before training
_JUDGING_VIEWS = 8
_MIN_HELD_OUT = 40  # images; with fewer, tasks are scored on unseen views of all images
_MAX_IMAGES_SHARE = 0.25  # share of an accelerator's memory budget for caches; images that exceed the rest stay in RAM
_LIGHT_AUGMENT = Augment(crop=Crop(), flip=True)


@dataclass(frozen=True)
class RunImages:
    """The images of a run, as pixels."""

    train: Pixels
    held_out: Pixels
    preprocess: Preprocess
    extra: Pixels | None = None  # shown in a share of the training views, and nowhere else


class TeacherCaches:
    """Fills the teacher cache of a task when it is first needed, and releases features that no task needs."""

    def __init__(
        self,
        plan: Plan,
        pieces: Pieces,
        schedule: Schedule,
        images: RunImages,
        settings: EngineSettings,
        files: Cache,
        listen: Listener,
    ) -> None:
        self.plan, self.pieces, self.schedule, self.settings = plan, pieces, schedule, settings
        self._device = settings.precision.device
        self.preprocess, self.extra = images.preprocess, images.extra
        size = math.prod(images.train.shape) + math.prod(images.held_out.shape) + self._extra_bytes
        has_room = size <= _MAX_IMAGES_SHARE * settings.device_memory
        self.train, self.held_pixels = (
            pixels.to(self._device) if has_room and isinstance(pixels, Tensor) else pixels
            for pixels in (images.train, images.held_out)
        )
        self.files, self.listen = files, listen
        self._caches: dict[Augment, TeacherCache] = {}

    @property
    def _on_device(self) -> int:
        """Return the bytes of the accelerator that images take."""
        images = sum(math.prod(p.shape) for p in (self.train, self.held_pixels) if p.device.type != "cpu")
        return images + (self._extra_bytes if self.train.device.type != "cpu" else 0)

    @property
    def _extra_bytes(self) -> int:
        """Return the bytes of the extra images, which are stored where the training images are."""
        return 0 if self.extra is None else math.prod(self.extra.shape)

    @cached_property
    def held_out(self) -> TeacherCache | None:
        """Teacher logits for lightly augmented held-out images, on which agreement is reported."""
        if not len(self.held_pixels):
            return None
        return self._logit_cache("held-out", self.held_pixels, _LIGHT_AUGMENT)

    @cached_property
    def judging(self) -> TeacherCache:
        """Teacher logits for the views that tasks are scored on; no task trains on them.

        These are views of held-out images if there are enough. Otherwise they are unseen views of all images with the
        augmentation of training, because on lightly augmented views of a few images most students agree fully.
        """
        if self.held_out is not None and len(self.held_pixels) >= _MIN_HELD_OUT:
            return self.held_out
        augment = self.schedule.recipe.views.augment
        unseen = _LIGHT_AUGMENT if augment == Augment() else augment
        return self._logit_cache("judging", with_extra(self.train, self.held_pixels), unseen)

    def _logit_cache(self, name: str, pixels: Pixels, augment: Augment) -> TeacherCache:
        """Fill a cache of logits in float32, so that scores do not depend on the precision of training."""
        seed, room_bytes = self.settings.seed + 1, self.settings.drawn_bytes
        views = Views(pixels, self.preprocess, augment, _JUDGING_VIEWS, seed, room=room_bytes, device=self._device)
        logits, exact = {self.pieces.blocks + 1}, Precision(self._device)
        budgets = self.settings.cache_budgets(views.cached_bytes, on_device=self._on_device)
        cache = self._cache(name, views, logits, budgets, exact)
        cache.fill(logits, lambda *_: None, self.settings.world)
        return cache

    def first_views(self) -> Tensor:
        """Return normalised views for solving layers; fewer if images are large, because all are in memory at once."""
        count = max(1, min(_FIRST_VIEWS, _FIRST_PIXELS // math.prod(self.preprocess.size)))
        per_image, seed = -(-count // len(self.train)), self.settings.seed + 3
        augment = self.schedule.recipe.views.augment
        views = Views(self.train, self.preprocess, augment, per_image, seed, device=self._device)
        return views.normalised(torch.arange(min(count, len(views))))

    def cache_for(self, task: Task, unfinished: Sequence[Task]) -> TeacherCache:
        """Return the filled cache of a task's views; tasks with the same augmentation share one."""
        augment, schedule = self.schedule.augment(task), self.schedule
        for unused in [other for other in self._caches if other not in map(schedule.augment, unfinished)]:
            del self._caches[unused]
        if augment not in self._caches:
            number = list(schedule.views).index(augment)
            room_bytes = self.settings.drawn_bytes // len(schedule.views)
            per_image, seed = schedule.views[augment], self.settings.seed
            added, device = self._added, self._device
            views = Views(self.train, self.preprocess, augment, per_image, seed, added, room_bytes, device)
            used = self._used_memory() + views.cached_bytes
            budgets = self.settings.cache_budgets(used, len(schedule.views), self._on_device)
            values = self._values(schedule.sharing_views(task, schedule.tasks))
            cache = self._cache(f"value{number or ''}", views, values, budgets, self.settings.precision)
            needed = self._values(schedule.sharing_views(task, unfinished))
            self.listen(self._memory_planned(cache))
            cache.fill(needed, lambda done, total: self.listen(TeacherPass(done, total)), self.settings.world)
            self._caches[augment] = cache
        return self._caches[augment]

    def _memory_planned(self, cache: TeacherCache) -> MemoryPlanned:
        views, count = cache.views, len(cache.views)
        place: Place = "memory" if views.pixels.device.type == "cpu" else "device"
        parts = [StoredPart("images", None, math.prod(views.pixels.shape), place)]
        if views.cached_bytes:
            parts.append(StoredPart("views", None, views.cached_bytes, "memory"))
        parts += feature_parts(cache.places, cache.shapes, count, cache.precision.dtype)
        return MemoryPlanned(count, tuple(parts))

    def release(self, task: Task, unfinished: Sequence[Task]) -> None:
        """Release the features of this task's cache that no unfinished task reads."""
        self._caches[self.schedule.augment(task)].release(self._values(self.schedule.sharing_views(task, unfinished)))

    def _values(self, tasks: Sequence[Task]) -> set[int]:
        return {value for task in tasks for value in teacher_values(task, self.pieces)}

    def _used_memory(self) -> int:
        """Return the bytes of memory of the judging and held-out caches and their views."""
        caches = {id(cache): cache for cache in (self.judging, self.held_out) if cache is not None}.values()
        logits, shapes = self.pieces.blocks + 1, self.pieces.shapes
        sizes = [size_of(logits, shapes, len(cache.views), cache.precision.dtype) for cache in caches]
        return sum(sizes) + sum(cache.views.cached_bytes for cache in caches)

    @property
    def _added(self) -> list[ViewedImages]:
        """The synthetic and the extra images that training views show beside the images of the run."""
        groups, synthetic = [], self._synthetic
        if synthetic is not None:
            groups.append(synthetic_views(synthetic, len(self.train)))
        if self.extra is not None:
            groups.append(ViewedImages(self.extra, self.schedule.recipe.views.extra_share))
        return groups

    @cached_property
    def _synthetic(self) -> Tensor | None:
        """Synthetic images if the recipe has them and the teacher has BatchNorm statistics; else None."""
        options, count = self.schedule.recipe.views.synthetic, self.schedule.synthetic
        if options is None or not count:
            return None
        synthesis = Synthesis(self.plan.teacher, self.preprocess, self.settings.precision, options.steps)
        if not synthesis.is_possible:
            return None
        return synthesis.make(
            self.train,
            self.schedule.recipe.views.augment,
            count,
            self.settings.seed + 2,
            self.files,
            lambda done, total: self.listen(SyntheticImages(done, total)),
            self.settings.world,
        )

    def _cache(
        self, name: str, views: Views, values: set[int], budgets: Sequence[tuple[Place, int]], precision: Precision
    ) -> TeacherCache:
        shapes = self.pieces.shapes
        return TeacherCache(
            views,
            self.pieces.teacher,
            shapes,
            choose_places(values, shapes, len(views), precision.dtype, budgets),
            cache=self.files,
            name=name,
            chunk=chunk_size(shapes, self._device),
            precision=precision,
        )
