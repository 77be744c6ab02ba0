"""The whole method on one page: initialise, train the stages, merge, check."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from graftcli.errors import PairError
from graftcli.events import Listener, MergeChecked
from graftcli.graft.backend.memory_format import set_channels_last_pieces
from graftcli.graft.data.caches import RunImages, TeacherCaches
from graftcli.graft.data.held_out import GivenImages, all_rows, split_images
from graftcli.graft.data.views import plain
from graftcli.graft.initialize.frozen_blocks import copy_blocks, frozen_blocks
from graftcli.graft.initialize.inherit import inherit
from graftcli.graft.initialize.random_blocks import random_blocks
from graftcli.graft.initialize.start import StartImages, initialize
from graftcli.graft.layerwise.layer_pairs import check_derived
from graftcli.graft.layerwise.stage import piece_numbers
from graftcli.graft.schedule import Schedule
from graftcli.graft.settings import EngineSettings
from graftcli.graft.surgery.merge import Merged, merge, merge_hybrid
from graftcli.graft.surgery.merge import check as check_merge
from graftcli.graft.surgery.seams import Seam, graft, seams
from graftcli.graft.training.judge import Score, Verdict
from graftcli.graft.training.pieces import pieces
from graftcli.graft.training.run_store import RunStore
from graftcli.graft.training.runner import TaskRunner
from graftcli.graft.training.stages import run_stage
from graftcli.graft.training.tasks import fixed_blocks, stages_of
from graftcli.images import Preprocess
from graftcli.models.cuts.plan import Plan
from graftcli.models.derivation import is_derived
from graftcli.recipe import check_units

_INIT_IMAGES = 64  # training images for selecting channels and solving adapters before training


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: the merged network and its scores."""

    merged: Merged
    score: Score | None  # with the teacher, on views of held-out images
    held_out: int
    errors: tuple[float, float]  # merge errors in float64 and float32
    verdicts: Mapping[str, Verdict]  # by task


def run(
    plan: Plan,
    images: GivenImages,
    preprocess: Preprocess,
    schedule: Schedule,
    settings: EngineSettings,
    store: RunStore,
    listen: Listener,
) -> Outcome:
    """Train the student, or only the chosen blocks, and merge; the teacher does not change."""
    recipe, blocks = schedule.recipe, len(plan.blocks)
    chosen = settings.blocks or tuple(range(1, blocks + 1))
    check_units(recipe, blocks)
    check_derived(recipe, plan.student.network)
    before = weights_digest(plan.teacher.network.module)
    train, held = split_images(images.train, images.held_out, settings.seed)
    init_images = plain(train[:_INIT_IMAGES], preprocess)
    inherits = recipe.init in ("inherit", "least-squares")
    if inherits and not is_derived(plan.student.network):  # a derived student has its weights already
        inherit(plan.teacher, plan.student, init_images)
    frozen = frozen_blocks(recipe, plan)
    copy_blocks(plan, frozen)
    all_seams = seams(plan, recipe.adapters.where)
    parts = pieces(plan, all_seams)
    for piece in (*parts.teacher, *parts.student):
        piece.to(settings.precision.device)
    init_images = init_images.to(settings.precision.device)
    set_channels_last_pieces(parts, init_images[:2])
    extra = None if images.extra is None else all_rows(images.extra)
    run_images = RunImages(train, held, preprocess, extra)
    caches = TeacherCaches(plan, parts, schedule, run_images, settings, store.cache, listen)
    start = StartImages(init_images, caches.first_views)
    unfrozen = [block for block in range(1, max(chosen) + 1) if block not in frozen]
    initialize(recipe, plan, all_seams, parts, unfrozen, start, settings.seed, listen)
    if fixed := fixed_blocks(recipe, chosen, frozen):
        for number in piece_numbers(fixed, parts):
            parts.student[number - 1].requires_grad_(False)
    runner = TaskRunner(plan, parts, schedule, caches, settings, store, listen, random_blocks(recipe, plan, frozen))
    for tasks in stages_of(schedule.tasks):
        run_stage(runner, tasks)
    score = runner.agreement(chosen)
    merged = _merge(plan, all_seams, chosen)
    errors = check_merge(merged, graft(plan, all_seams, chosen), plain(train[:16], preprocess))
    listen(MergeChecked(*errors))
    if weights_digest(plan.teacher.network.module) != before:
        raise PairError("the teacher's weights changed during the run.", "Nothing was written. Please report this.")
    return Outcome(merged, score, len(held), errors, runner.verdicts)


def _merge(plan: Plan, all_seams: list[Seam], chosen: tuple[int, ...]) -> Merged:
    """Merge the student, or the hybrid if only some blocks are replaced."""
    if len(chosen) == len(plan.blocks):
        return merge(plan, all_seams)
    return merge_hybrid(plan, all_seams, chosen)


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
