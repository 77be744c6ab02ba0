"""Asked for -> everything that a run starts from; what can be refused has been refused."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from graftcli import images as pictures
from graftcli.environment.devices import device_named
from graftcli.errors import CheckpointError, UsageError
from graftcli.events import ImagesDecoded, Listener, Warned
from graftcli.graft.data.view_counts import held_out_of
from graftcli.graft.data.views import plain
from graftcli.graft.initialize.frozen_blocks import frozen_blocks
from graftcli.graft.layerwise.layer_pairs import check_made
from graftcli.graft.training.tasks import check_tasks
from graftcli.images.pixels import Preprocess
from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.plan import Plan
from graftcli.models.loading.build import build
from graftcli.models.network import Network
from graftcli.recipe import Recipe, check_units
from graftcli.recipe.file import load as load_recipe
from graftcli.report.format import numbers
from graftcli.runs.config import ModelPair, RunConfig, TrainOptions
from graftcli.runs.scoring import preprocess_for
from graftcli.students.make import Pictured, made_from_teacher, maker
from graftcli.students.spec import is_wanted

_LOOKED_AT = 64  # images by which a student made from the teacher is chosen


@dataclass(frozen=True)
class PreparedRun:
    """Everything that a run starts from; what can be refused has been refused."""

    asked: RunConfig
    recipe: Recipe
    plan: Plan
    blocks: tuple[int, ...]  # of the student, that are to replace the teacher's
    preprocess: Preprocess
    train: pictures.Images
    held: pictures.Images | None  # given to measure on
    device: torch.device

    @property
    def frozen(self) -> tuple[int, ...]:
        """The blocks that are the teacher's and stay so."""
        return frozen_blocks(self.recipe, self.plan)


def ready(asked: RunConfig, blocks: str | None, listen: Listener) -> PreparedRun:
    """Networks, recipe and images as asked for; `listen` is told what the user should know before it begins."""
    how = asked.how
    asked_for, device = recipe_of(how), device_named(how.device)
    teacher = teacher_of(asked)
    preprocess = preprocess_for(teacher, asked.look, whole=True)
    pictured = cache(lambda: images_of(asked.images, preprocess, how, listen))
    plan = _plan(asked, asked_for, teacher, lambda: plain(pictured().pixels[:_LOOKED_AT], preprocess))
    recipe = _beginning(asked_for, asked.networks)
    check_units(recipe, len(plan.blocks))
    check_made(recipe, plan.student.network)
    chosen = parse_blocks(blocks, len(plan.blocks))
    check_tasks(recipe, len(plan.blocks), chosen, frozen_blocks(recipe, plan))
    if recipe.init != asked_for.init and f"init={asked_for.init}" in how.overrides:
        listen(
            Warned(
                f"init={asked_for.init} is for a student just made from the teacher: this one starts by {recipe.init}"
            )
        )
    if teacher.weights == "random":
        listen(Warned(f"teacher {teacher.name} has random weights: its answers mean nothing"))
    for note in plan.notes:
        listen(Warned(note))
    if (stay := _staying(plan, recipe)) and len(chosen) == len(plan.blocks):
        cuts = ", ".join(map(str, stay))
        listen(Warned(f"the adapters behind block {cuts} stay in the student: no layer of it can take them in"))
    if len(chosen) < len(plan.blocks) and not any(_saves(plan, block) for block in chosen):
        listen(
            Warned(f"replacing {numbers(chosen)} saves nothing: the student has there what the teacher has, or more")
        )
    held = images_of(asked.val_images, preprocess, how, listen) if asked.val_images is not None else None
    if held is not None and (both := len(held.files & pictured().files)):
        listen(Warned(f"{both} of the {len(held.pixels)} images to measure on are trained on too: agreement flatters"))
    return PreparedRun(asked, recipe, plan, chosen, preprocess, pictured(), held, device)


def _saves(plan: Plan, block: int) -> bool:
    """Whether the student's block has less in it than the teacher's, or computes less."""
    ours, theirs = plan.blocks[block - 1].student, plan.blocks[block - 1].teacher
    return ours.params < theirs.params or ours.macs < theirs.macs


def _staying(plan: Plan, recipe: Recipe) -> list[int]:
    """The blocks behind which the recipe has adapters that will be a part of the student."""
    everywhere, both = recipe.adapters.where == "always", zip(plan.teacher.cuts, plan.student.cuts, strict=True)
    return [
        block
        for block, (theirs, own) in enumerate(both, 1)
        if (everywhere or theirs.channels != own.channels) and not own.forwards and not own.backwards
    ]


def trained_on(start: PreparedRun) -> int:
    """How many of the images are trained on; the others are held out."""
    images = len(start.train.pixels)
    return images if start.held is not None else images - held_out_of(images)


def recipe_of(how: TrainOptions) -> Recipe:
    """The recipe with everything that is said beside it, checked again as a whole."""
    how = with_batch(how)
    return load_recipe(how.recipe, how.overrides, how.steps_scale)


def _beginning(recipe: Recipe, networks: ModelPair) -> Recipe:
    """Only a student just made from the teacher has its layers solved for: a file's or a run's weights are kept."""
    is_fresh = is_wanted(networks.student) and networks.student_checkpoint is None
    return recipe if recipe.init != "least-squares" or is_fresh else recipe.model_copy(update={"init": "inherit"})


def with_batch(how: TrainOptions) -> TrainOptions:
    """The same, with the batch among the settings, where others may follow it."""
    if how.batch is None:
        return how
    stages = load_recipe(how.recipe, how.overrides, how.steps_scale).stages
    batches = (f"stages.{stage.name}.batch={how.batch}" for stage in stages)
    return replace(how, overrides=(*how.overrides, *batches), batch=None)


def plan_of(asked: RunConfig, recipe: Recipe) -> Plan:
    """Both networks, cut at matching places."""
    teacher = teacher_of(asked)
    preprocess = preprocess_for(teacher, asked.look, whole=True)
    looked_at = cache(
        lambda: plain(images_of(asked.images, preprocess, asked.how, lambda _: None).pixels[:_LOOKED_AT], preprocess)
    )
    return _plan(asked, recipe, teacher, looked_at)


def teacher_of(asked: RunConfig) -> Network:
    """The trained network, with its weights."""
    networks = asked.networks
    return build(
        networks.teacher,
        checkpoint=networks.teacher_checkpoint,
        num_classes=networks.num_classes,
        in_chans=networks.in_chans,
        img_size=asked.look.img_size,
        ema=networks.ema,
        unsafe=networks.unpickles("teacher"),
        trust_code=networks.trust_code,
        document=networks.document_of("teacher"),
        role="teacher",
    )


def _plan(asked: RunConfig, recipe: Recipe, teacher: Network, looked_at: Pictured) -> Plan:
    networks = asked.networks
    torch.manual_seed(asked.how.seed)  # it decides the first weights, where there are no others
    student = build(
        networks.student,
        checkpoint=_student_weights(networks, recipe),
        ema=networks.ema,
        unsafe=networks.unpickles("student"),
        trust_code=networks.trust_code,
        document=networks.document_of("student"),
        like=teacher,
        role="student",
        derive=maker(looked_at),
    )
    return plans.make(teacher, student, networks.choice)


def _student_weights(networks: ModelPair, recipe: Recipe) -> str | None:
    """Where the student's first weights are read from: "none" for nowhere, None for its name's pretrained ones."""
    given = networks.student_checkpoint
    if made_from_teacher(networks.student):  # with weights of its own, which are the teacher's
        return given or ("none" if recipe.init == "random" else None)
    if recipe.init == "checkpoint" and given is None:
        raise CheckpointError(
            f"recipe {recipe.name} starts from the student's own weights, and none are given.",
            "Give them with --student-checkpoint, or take --set init=inherit.",
        )
    if recipe.init != "checkpoint" and given not in (None, "none"):
        raise UsageError(
            f"--student-checkpoint is {given}; recipe {recipe.name} has `init: {recipe.init}` and would not use it.",
            "Leave it out, or start from it with --set init=checkpoint.",
        )
    return None if recipe.init == "pretrained" else given or "none"


def images_of(source: str, preprocess: Preprocess, how: TrainOptions, listen: Listener) -> pictures.Images:
    """The images of a folder or archive, decoded; what cannot be read is told of, and left out."""

    def tell(done: int, total: int) -> None:
        listen(ImagesDecoded(done, total))

    found = pictures.load(Path(source), preprocess, strict=how.strict, jobs=how.jobs, on_progress=tell)
    for broken in found.broken:
        listen(Warned(f"left out: {broken.name}: {broken.reason}"))
    return found


def parse_blocks(text: str | None, count: int) -> tuple[int, ...]:
    """`3`, `1,3`, `2-4`, `last`; None stands for all blocks."""
    if text is None:
        return tuple(range(1, count + 1))
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        first, dash, last = (str(count) if end == "last" else end for end in part.partition("-"))
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UsageError(f"--blocks {text!r} names no blocks.", "Give numbers: 3, 1,3, 2-4 or last.")
        found |= set(range(int(first), int(last or first) + 1))
    unknown = sorted(block for block in found if not 1 <= block <= count)
    if unknown or not found:
        raise UsageError(
            f"--blocks {text} names block {', '.join(map(str, unknown)) or 'none'}; these networks have 1 to {count}.",
            "`graftcli plan` shows them.",
        )
    return tuple(sorted(found))
