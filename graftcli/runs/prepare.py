"""Prepare a run: build the networks, read the recipe and the images, and check everything that can be checked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from pydantic import ValidationError

from graftcli.distributed.world import World, world_of
from graftcli.environment.devices import computes_bfloat16, device_named
from graftcli.environment.process import seeded
from graftcli.errors import CheckpointError, UsageError
from graftcli.events import Listener, Warned
from graftcli.graft.data.held_out import GivenImages, held_out_count
from graftcli.graft.data.views import plain
from graftcli.graft.initialize.frozen_blocks import frozen_blocks
from graftcli.graft.layerwise.layer_pairs import check_derived
from graftcli.graft.schedule import Schedule, schedule_of
from graftcli.graft.training.tasks import check_tasks
from graftcli.images import Images
from graftcli.images.pixels import Preprocess
from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.plan import Plan
from graftcli.models.cuts.positions import needs_adapter
from graftcli.models.loading.build import build
from graftcli.models.network import Network
from graftcli.recipe import Recipe, Stage, check_units
from graftcli.recipe.file import load as load_recipe
from graftcli.report.format import numbers
from graftcli.runs.config import ModelPair, RunConfig, TrainOptions
from graftcli.runs.input_size import small_images
from graftcli.runs.run_images import PixelPlace, images_of, training_images
from graftcli.runs.scoring import preprocess_for
from graftcli.runs.teacher import sized_teacher, teacher_of
from graftcli.students.make import is_derived_from_teacher, student_maker
from graftcli.students.spec import is_derived_spec
from graftcli.students.student_kind import ImageLoader

_SELECTION_IMAGES = 64  # images on which the channels of a derived student are selected


@dataclass(frozen=True)
class PreparedRun:
    """Everything that training needs; all checks before training have passed."""

    config: RunConfig
    recipe: Recipe
    plan: Plan
    blocks: tuple[int, ...]  # numbers of the blocks to replace
    preprocess: Preprocess
    train: Images
    held_out: Images | None  # from --val-images
    extra: Images | None  # from --extra-images
    device: torch.device

    @property
    def amp(self) -> bool:
        """Whether the run computes in bfloat16."""
        amp = self.config.how.amp
        return computes_bfloat16(self.device) if amp is None else amp

    @property
    def images(self) -> GivenImages:
        """The decoded images of the run."""
        return GivenImages(self.train, self.held_out, self.extra)

    @cached_property
    def frozen(self) -> tuple[int, ...]:
        """The blocks that equal those of the teacher and are not trained."""
        return frozen_blocks(self.recipe, self.plan)

    @cached_property
    def schedule(self) -> Schedule:
        """The tasks of the run, with their steps and views."""
        return schedule_of(self.recipe, train_count(self), len(self.plan.blocks), self.blocks, self.frozen)


def prepare_run(
    config: RunConfig, blocks: str | None, listen: Listener, place: PixelPlace | None = None
) -> PreparedRun:
    """Build and check everything that a run needs; warnings go to `listen`.

    Images that do not fit in the room of `place` are decoded into files in its folder.
    """
    options = config.how
    requested, device = recipe_of(options), device_of_process(device_named(options.device), world_of())
    named_size, (config, teacher) = config.look.img_size, sized_teacher(config, listen)
    preprocess = preprocess_for(teacher, config.look, whole=True)
    train_images = cache(lambda: training_images(config, teacher, preprocess, listen, place))
    plan = _plan(config, requested, teacher, lambda: plain(train_images().pixels[:_SELECTION_IMAGES], preprocess))
    recipe = _resolve_init(requested, config.networks)
    check_units(recipe, len(plan.blocks))
    check_derived(recipe, plan.student.network)
    chosen = parse_blocks(blocks, len(plan.blocks))
    check_tasks(recipe, len(plan.blocks), chosen, frozen_blocks(recipe, plan))
    if recipe.init != requested.init and f"init={requested.init}" in options.overrides:
        listen(Warned(f"init={requested.init} needs a newly derived student: using init={recipe.init}"))
    for warning in (*_warnings(recipe, plan, chosen), *small_images(train_images().short_side, preprocess, named_size)):
        listen(Warned(warning))
    held_out = None
    if config.val_images is not None:
        held_out = images_of(config.val_images, preprocess, options, listen, place)
    if held_out is not None and (shared := held_out.shared_with(train_images())):
        found = f"{shared} of the {len(held_out.pixels)} validation images are also training images"
        listen(Warned(f"{found}: agreement will be overestimated"))
    extra = None
    if config.extra_images is not None:
        extra = images_of(config.extra_images, preprocess, options, listen, place)
        if shared := (held_out or train_images()).shared_with(extra):
            found = (
                f"{shared} of the {'validation' if held_out is not None else 'training'} images are also extra images"
            )
            listen(Warned(f"{found}: agreement will be overestimated"))
    return PreparedRun(config, recipe, plan, chosen, preprocess, train_images(), held_out, extra, device)


def device_of_process(device: torch.device, world: World) -> torch.device:
    """Return the device of this process: each on a machine has a GPU of its own."""
    if device.type != "cuda" or world.size == 1:
        return device
    if device.index is not None:
        if world.local_size > 1:
            found = f"--device {device} is one GPU, and {world.local_size} processes were started on this machine."
            raise UsageError(found, "Give --device cuda: each process takes a GPU of its own.")
        return device
    count = torch.cuda.device_count()
    if world.local_size > count:
        raise UsageError(
            f"{world.local_size} processes were started on this machine, which has {count} CUDA devices.",
            f"Start {count}: torchrun --nproc-per-node {count}.",
        )
    return torch.device("cuda", world.local_rank)


def _warnings(recipe: Recipe, plan: Plan, chosen: Sequence[int]) -> Iterator[str]:
    """Yield warnings about the plan, before training."""
    if plan.teacher.network.weights.is_random:
        yield f"teacher {plan.teacher.network.name} has random weights: its predictions are meaningless"
    yield from plan.notes
    if (kept := _kept_adapters(plan, recipe)) and len(chosen) == len(plan.blocks):
        yield f"the adapters after {numbers(kept)} stay in the student: no layer can absorb them"
    if len(chosen) < len(plan.blocks) and not any(_saves(plan, block) for block in chosen):
        yield f"replacing {numbers(chosen)} saves nothing: the student does not have fewer parameters or MACs there"


def _saves(plan: Plan, block: int) -> bool:
    """Whether the student's block has fewer parameters or MACs than the teacher's."""
    student, teacher = plan.blocks[block - 1].student, plan.blocks[block - 1].teacher
    return student.params < teacher.params or student.macs < teacher.macs


def _kept_adapters(plan: Plan, recipe: Recipe) -> list[int]:
    """Return the blocks after which adapters cannot be merged and stay in the student."""
    always, cuts = recipe.adapters.where == "always", zip(plan.teacher.cuts, plan.student.cuts, strict=True)
    return [
        block
        for block, (teacher, student) in enumerate(cuts, 1)
        if (always or needs_adapter(teacher, student)) and not student.forwards and not student.backwards
    ]


def train_count(prepared: PreparedRun) -> int:
    """Return the number of training images, without those that are held out."""
    images = len(prepared.train.pixels)
    return images if prepared.held_out is not None else images - held_out_count(images)


def recipe_of(options: TrainOptions) -> Recipe:
    """Load the recipe and apply the overrides, the steps scale and the batch size."""
    source = options.recipe
    recipe = source if isinstance(source, Recipe) else load_recipe(source, options.overrides, options.steps_scale)
    if options.batch is None:
        return recipe
    return with_stages(recipe, [stage.model_copy(update={"batch": options.batch}) for stage in recipe.stages])


def _resolve_init(recipe: Recipe, networks: ModelPair) -> Recipe:
    """Return the recipe; ``init: least-squares`` becomes ``inherit`` unless the student is newly derived."""
    is_fresh = is_derived_spec(networks.student) and networks.student_checkpoint is None
    return recipe if recipe.init != "least-squares" or is_fresh else recipe.model_copy(update={"init": "inherit"})


def with_stages(recipe: Recipe, stages: Sequence[Stage]) -> Recipe:
    """Return the recipe with these stages, validated again."""
    try:
        return Recipe.model_validate(recipe.model_copy(update={"stages": tuple(stages)}).model_dump())
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))} {fault['msg']}" for fault in error.errors()]
        message = f"recipe {recipe.name} does not work with this length or batch size:\n" + "\n".join(faults)
        raise UsageError(message, "Leave out --batch, or give a larger one.") from error


def plan_of(config: RunConfig, recipe: Recipe) -> Plan:
    """Build both networks and cut them at matching places."""
    teacher = teacher_of(config)
    preprocess = preprocess_for(teacher, config.look, whole=True)
    images = cache(lambda: training_images(config, teacher, preprocess, lambda _: None))
    return _plan(config, recipe, teacher, lambda: plain(images().pixels[:_SELECTION_IMAGES], preprocess))


def _plan(config: RunConfig, recipe: Recipe, teacher: Network, load_inputs: ImageLoader) -> Plan:
    networks = config.networks
    with seeded(config.how.seed):  # for the initial weights
        student = build(
            networks.student,
            checkpoint=_student_weights(networks, recipe),
            ema=networks.ema,
            unsafe=networks.unpickles("student"),
            trust_code=networks.trust_code,
            document=networks.document_of("student"),
            like=teacher,
            role="student",
            derive=student_maker(load_inputs),
        )
    return plans.make(teacher, student, networks.choice)


def _student_weights(networks: ModelPair, recipe: Recipe) -> str | None:
    """Return the checkpoint of the student: "none" for random weights, None for pretrained or derived ones."""
    given = networks.student_checkpoint
    if is_derived_from_teacher(networks.student):  # a derived student has its weights from the teacher
        return given or ("none" if recipe.init == "random" else None)
    if recipe.init == "checkpoint" and given is None:
        raise CheckpointError(
            f"recipe {recipe.name} has `init: checkpoint`, but --student-checkpoint is not given.",
            "Give the student's weights with --student-checkpoint, or use --set init=inherit.",
        )
    if recipe.init != "checkpoint" and given not in (None, "none"):
        raise UsageError(
            f"--student-checkpoint is {given}; recipe {recipe.name} has `init: {recipe.init}` and would not use it.",
            "Leave it out, or use it with --set init=checkpoint.",
        )
    return None if recipe.init == "pretrained" else given or "none"


def parse_blocks(text: str | None, count: int) -> tuple[int, ...]:
    """Parse `--blocks`: `3`, `1,3`, `2-4` or `last`; None means all blocks."""
    if text is None:
        return tuple(range(1, count + 1))
    chosen: set[int] = set()
    for part in text.replace(" ", "").split(","):
        first, dash, last = (str(count) if end == "last" else end for end in part.partition("-"))
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UsageError(f"--blocks {text!r} is not a list of blocks.", "Give numbers: 3, 1,3, 2-4 or last.")
        chosen |= set(range(int(first), int(last or first) + 1))
    if not chosen:
        raise UsageError(f"--blocks {text} is an empty range.", "Give the lower number first, such as 1-3.")
    if unknown := sorted(block for block in chosen if not 1 <= block <= count):
        found = f"--blocks {text} names block {', '.join(map(str, unknown))}; these networks have 1 to {count}."
        raise UsageError(found, "`graftcli plan` shows them.")
    return tuple(sorted(chosen))
