"""What a recipe is: a list of stages and the choices around them.

A stage says what is trained, on what input, towards which targets, for how long and how it is solved; every method of
the field is a recipe on one engine. A rule between two fields is a validator of the later one, so that it is reported
together with every other fault and has a key, thus a line, of its own.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from pydantic import ValidationInfo as Info
from pydantic import field_validator as rule

from graftcli.errors import UsageError
from graftcli.recipe.values import (
    COUNTS,
    NAME,
    RATES,
    SHARE,
    Augment,
    Check,
    Count,
    Inside,
    Many,
    Name,
    Pair,
    Part,
    PerUnit,
    Positive,
    Share,
    T,
    Views,
    of_items,
    rising,
    together,
)


class Adapters(Part):
    """Where a seam has adapters: where the channels differ (`auto`) or everywhere. And what they are at first."""

    where: Literal["auto", "always"] = "auto"
    start: Literal["identity", "least-squares", "random"] = "identity"


class Target(Part):
    """What is chased, and the distance to it. Where channels differ, `output` and `features` are met through the seam.

    `output` is what the last trained block hands on at its cut, `outputs` what each of them does; the last block of all
    hands on `features`, the last map before pooling.
    """

    at: Literal["logits", "output", "outputs", "features"]
    loss: Literal["norm-l2", "mse", "kl"]
    temperature: Positive | None = Field(default=None, description="a number above 0, with `loss: kl` (there: 4)")
    weight: Positive = Field(default=1.0, description="a number above 0")

    @rule("loss")
    @classmethod
    def _kl_compares_classes(cls, loss: str, info: Info) -> str:
        if loss == "kl" and info.data.get("at") in ("output", "outputs", "features"):
            raise ValueError(
                f"found kl, which compares classes: it goes with `at: logits`; with {info.data['at']} take mse"
            )
        return loss

    @rule("temperature")
    @classmethod
    def _kl_has_a_temperature(cls, temperature: float | None, info: Info) -> float | None:
        loss = info.data.get("loss")
        if temperature is not None and loss in ("norm-l2", "mse"):
            raise ValueError(
                f"found {temperature}, but only kl has a temperature, and the loss is {loss}: leave it out"
            )
        return 4.0 if loss == "kl" and temperature is None else temperature


class Stage(Part):
    """One step of a recipe. `train` is the unit: each block alone, the first k for k = 2, 3, ..., the first half of the
    blocks (the hint of FitNet), or the whole student.

    `input` is what a block sees: the teacher's features, or the student's own behind its earlier blocks; the target is
    what the teacher says of the view. In a mix (cross distillation) the loss is, with x the teacher's features and y
    the student's,  mu |block(x) - teacher(x)| + (1 - mu) |block(y) - teacher(y)|.
    """

    name: Name = Field(description=NAME)
    train: Literal["blocks", "growing", "half", "student"]
    input: Literal["teacher", "student", "mix"] = "teacher"
    mu: Share | None = Field(default=None, description=f"{SHARE}: the teacher's share of the features in `input: mix`")
    targets: Many[Target] = Field(description="a list with at least one map of `at`, `loss`, `weight`")
    steps: PerUnit[Count] | None = Field(default=None, description=COUNTS)
    epochs: PerUnit[Count] | None = Field(default=None, description=COUNTS)
    batch: Count = Field(default=64, description="a whole number from 1")
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: Share | None = Field(default=None, description=f"{SHARE}, with `optimizer: sgd` (there: 0.9)")
    betas: Pair[Inside] | None = Field(
        default=None, description="two numbers between 0 and 1, with adam and adamw (there: [0.9, 0.999])"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="a number from 0")
    lr: PerUnit[Positive] = Field(description=RATES)
    adapter_lr: PerUnit[Positive] | None = Field(default=None, description=f"{RATES}; null: as `lr`")
    lr_scale_with_batch: Count | None = Field(
        default=None, description="a whole number from 1: the batch that the rates are meant for, or null"
    )
    schedule: Literal["constant", "cosine", "step"] = "constant"
    step_at: Many[Inside] | None = Field(
        default=None, description="a rising list of numbers between 0 and 1, with `schedule: step` (there: [0.4, 0.8])"
    )
    warmup: Share = Field(default=0.0, description=f"{SHARE}, of the steps")
    augment: Augment | None = Field(default=None, description="a map as in `views.augment`, or null: as there")
    batchnorm: Literal["frozen", "train", "recalibrate"] = "frozen"
    ema: Inside | None = Field(default=None, description="a number between 0 and 1: the averages' decay, or null")
    clip: Positive | None = Field(default=None, description="a number above 0: the largest norm of a gradient, or null")
    dropout: bool = Field(default=False, description="true or false")

    @rule("input")
    @classmethod
    def _features_are_for_blocks(cls, source: str, info: Info) -> str:
        train = info.data.get("train", "blocks")
        if source != "teacher" and train != "blocks":
            raise ValueError(f"found {source}, but `train: {train}` starts at the image: leave it out, or train blocks")
        return source

    @rule("mu")
    @classmethod
    def _mu_mixes(cls, mu: float | None, info: Info) -> float | None:
        source = info.data.get("input")
        if source == "mix" and mu is None:
            raise ValueError("is missing: `input: mix` needs the teacher's share of the features, a number from 0 to 1")
        if source in ("teacher", "student") and mu is not None:
            raise ValueError(f"found {mu}, but `input` is {source}: leave mu out, or take `input: mix`")
        return mu

    @rule("targets", mode="wrap")
    @classmethod
    def _the_student_has_no_cut(cls, value: Any, check: Check[tuple[Target, ...]], info: Info) -> tuple[Target, ...]:
        whole = info.data.get("train") == "student"
        cuts = [index for index, at in enumerate(of_items(value, "at")) if whole and at == "output"]
        said = "found output, which is one block's: with `train: student` take outputs, features or logits"
        return together(value, check, {(index, "at"): said for index in cuts})

    @rule("epochs")
    @classmethod
    def _one_duration(cls, epochs: tuple[int, ...] | None, info: Info) -> tuple[int, ...] | None:
        steps = info.data.get("steps", "faulty, so there are some")
        if steps and epochs:
            raise ValueError("is given beside steps: one of them says how long the stage lasts (null takes one away)")
        if not steps and not epochs:
            raise ValueError("is missing, and so is steps: one of them says how long the stage lasts")
        return epochs

    @rule("steps", "epochs", "lr", "adapter_lr")
    @classmethod
    def _one_unit_one_value(cls, values: tuple[Any, ...] | None, info: Info) -> tuple[Any, ...] | None:
        train = info.data.get("train")
        if values and len(values) > 1 and train in ("half", "student"):
            raise ValueError(f"found {len(values)} values, but `train: {train}` trains one unit: give one")
        return values

    @rule("momentum", "betas")
    @classmethod
    def _fits_the_optimizer(cls, value: Any, info: Info) -> Any:
        optimizer = info.data.get("optimizer")
        applies = (optimizer == "sgd") == (info.field_name == "momentum")
        if optimizer and value is not None and not applies:
            raise ValueError(f"is given, but {optimizer} has none: leave it out")
        usual = {"momentum": 0.9, "betas": (0.9, 0.999)}[info.field_name or ""]
        return usual if optimizer and value is None and applies else value

    @rule("step_at")
    @classmethod
    def _steps_of_the_rate(cls, shares: tuple[float, ...] | None, info: Info) -> tuple[float, ...] | None:
        schedule = info.data.get("schedule")
        if schedule == "step":
            return rising(shares or (0.4, 0.8))
        if schedule and shares is not None:
            raise ValueError(f"found {list(shares)}, but the schedule is {schedule}: leave it out, or take step")
        return shares

    @rule("batchnorm")
    @classmethod
    def _one_image_has_no_statistics(cls, policy: str, info: Info) -> str:
        if policy != "frozen" and info.data.get("batch") == 1:
            raise ValueError(
                f"found {policy}, but one image (`batch: 1`) has no statistics: take frozen, or more images"
            )
        return policy

    def units(self, blocks: int) -> tuple[range, ...]:
        """The blocks that are trained together, in order, where the student has `blocks`, numbered from 1."""
        match self.train:
            case "blocks":
                return tuple(range(block, block + 1) for block in range(1, blocks + 1))
            case "growing":
                return tuple(range(1, k + 1) for k in range(2, blocks + 1))
            case "half":
                return (range(1, (blocks + 1) // 2 + 1),)
            case "student":
                return (range(1, blocks + 1),)


class Recipe(Part):
    """A list of stages and the choices around them.

    `init` is where the student's first weights come from: nowhere, the teacher, its own name, or a file.
    """

    name: Name = Field(description=NAME)
    about: str = Field(min_length=1, description="a line of text: what the recipe is for")
    init: Literal["random", "inherit", "pretrained", "checkpoint"]
    adapters: Adapters = Field(default=Adapters(), description="a map with `where` and `start`")
    views: Views = Field(default=Views(), description="a map with `count` and `augment`")
    stages: Many[Stage] = Field(description="a list with at least one stage, a map each")

    @rule("stages", mode="wrap")
    @classmethod
    def _names_differ(cls, value: Any, check: Check[tuple[Stage, ...]]) -> tuple[Stage, ...]:
        names = of_items(value, "name")
        again = [index for index, name in enumerate(names) if name is not None and name in names[:index]]
        said = {(index, "name"): f"found {names[index]} again: each stage has its own" for index in again}
        return together(value, check, said)


def nth(values: Sequence[T], unit: int) -> T:
    """The value for a unit, counted from 0; the last value is repeated."""
    return values[min(unit, len(values) - 1)]


def check_units(recipe: Recipe, blocks: int) -> None:
    """Every list of the recipe has at most one value a unit of a student with so many blocks."""
    faults = [
        f"  stages.{stage.name}.{key}: {len(values)} values for {len(units)} units to train"
        for stage in recipe.stages
        for units in [stage.units(blocks)]
        for key in ("steps", "epochs", "lr", "adapter_lr")
        if len(values := getattr(stage, key) or ()) > max(1, len(units))
    ]
    if faults:
        found = "\n".join([f"recipe {recipe.name} has longer lists than {blocks} blocks can use.", *faults])
        raise UsageError(found, "Give one value, or at most one a block (one less where k grows from 2).")


def scaled(recipe: Recipe, share: float) -> Recipe:
    """The recipe with `share` of the steps and epochs of every stage, at least one of each."""

    def shorter(counts: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return counts and tuple(max(1, round(count * share)) for count in counts)

    stages = tuple(
        stage.model_copy(update={"steps": shorter(stage.steps), "epochs": shorter(stage.epochs)})
        for stage in recipe.stages
    )
    return recipe.model_copy(update={"stages": stages})
