"""A stage: what is trained, on what input, towards which targets, for how long, and how it is solved.

A rule between two fields is a validator of the later one, so that it is reported together with every other fault and
has a key, thus a line, of its own.
"""

from typing import Any, Literal

from pydantic import Field
from pydantic import ValidationInfo as Info
from pydantic import field_validator as rule

from graftcli.recipe.values import (
    COUNTS,
    FEW,
    INSIDE,
    NAME,
    POSITIVE,
    RATES,
    SHARE,
    Augment,
    Check,
    Count,
    Decay,
    Few,
    Inside,
    Many,
    Name,
    Pair,
    PerUnit,
    Positive,
    Rate,
    RecipeModel,
    Ridge,
    Share,
    of_items,
    rising,
    together,
)

# whose a setting is, and what it usually is there
_OF_OPTIMIZERS: dict[str, tuple[tuple[str, ...], Any]] = {
    "solve": (("least-squares",), "outputs"),
    "ridge": (("least-squares",), 1e-3),
    "momentum": (("sgd", "muon"), 0.9),
    "betas": (("adam", "adamw"), (0.9, 0.999)),
}


class Target(RecipeModel):
    """What is chased, and the distance to it. Where channels differ, `output` and `features` are met through the seam.

    `output` is what the last trained block hands on at its cut, `outputs` what each of them does; the last block of all
    hands on `features`, the last map before pooling, or before there is one of each class. `head` are the logits of a
    unit that holds the last block; others have none, where `logits` would go through the teacher's blocks behind them.
    """

    at: Literal["logits", "output", "outputs", "features", "head"]
    loss: Literal["norm-l2", "mse", "kl"]
    temperature: Positive | None = Field(default=None, description=f"{POSITIVE}, with `loss: kl` (there: 4)")
    weight: Positive = Field(default=1.0, description=POSITIVE)

    @rule("loss")
    @classmethod
    def _kl_compares_classes(cls, loss: str, info: Info) -> str:
        if loss == "kl" and info.data.get("at") in ("output", "outputs", "features"):
            raise ValueError(
                f"found kl, which compares classes: it goes with `at: logits` or head; with {info.data['at']} take mse"
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


class Stage(RecipeModel):
    """One step of a recipe. `train` is the unit: each layer alone, where the student is made from the teacher; each
    block alone, the first k for k = 2, 3, ..., the first half of the blocks (the hint of FitNet), or the whole student
    (where only some blocks are replaced: all of these).

    `input` is what a unit sees: the teacher's features, or the student's own behind its earlier units; the target is
    what the teacher says of the view. In a mix (cross distillation) the loss is, with x the teacher's features and y
    the student's,  mu |unit(x) - teacher(x)| + (1 - mu) |unit(y) - teacher(y)|.

    With `lr_factors` a task of a hundred steps or more begins with a short trial of each of these factors of its rate,
    for 2% of its steps, six at least. It is then trained with the factor after whose trial its answers were nearest to
    the teacher's on views that nothing is trained on.

    `muon` moves matrices and filters in all directions alike, and everything else as `adamw` does, at the same rate.
    `least-squares` solves a bias-free 1x1 for each layer and multiplies it in, over `steps` batches: behind the layer,
    from what it gives to what the teacher's gives (`solve: outputs`); or before it, from the channels that are left to
    all those which the teacher's layer reads (`solve: inputs`). The ridge pulls it to where it changes nothing.
    """

    name: Name = Field(description=NAME)
    train: Literal["layers", "blocks", "growing", "half", "student"]
    input: Literal["teacher", "student", "mix"] = "teacher"
    mu: Share | None = Field(default=None, description=f"{SHARE}: the teacher's share of the features in `input: mix`")
    targets: Many[Target] = Field(description="a list with at least one map of `at`, `loss`, `weight`")
    steps: PerUnit[Count] | None = Field(default=None, description=COUNTS)
    epochs: PerUnit[Count] | None = Field(default=None, description=COUNTS)
    batch: Few = Field(default=64, description=FEW)
    optimizer: Literal["muon", "adam", "adamw", "sgd", "least-squares"] = "adam"
    solve: Literal["outputs", "inputs"] | None = Field(
        default=None, description="outputs or inputs, with `optimizer: least-squares` (there: outputs)"
    )
    ridge: Ridge | None = Field(
        default=None,
        description="a number above 0, from 1e-18 to 1e6, of the mean of the diagonal, with `optimizer: least-squares`"
        " (there: 1e-3)",
    )
    momentum: Share | None = Field(default=None, description=f"{SHARE}, with `optimizer: sgd` and muon (there: 0.9)")
    betas: Pair[Inside] | None = Field(
        default=None, description=f"two numbers {INSIDE}, with adam and adamw (there: [0.9, 0.999])"
    )
    weight_decay: Decay = Field(default=0.0, description="a number from 0 to 100")
    lr: PerUnit[Rate] | None = Field(default=None, description=RATES)
    lr_factors: Many[Positive] | None = Field(
        default=None,
        description="a list of one to nine numbers above 0, or null: factors of the rate that are tried first",
    )
    adapter_lr: PerUnit[Rate] | None = Field(default=None, description=f"{RATES}; null: as `lr`")
    lr_scale_with_batch: Few | None = Field(
        default=None, description=f"{FEW}: the batch that the rates are meant for, or null"
    )
    schedule: Literal["constant", "cosine", "step"] = "constant"
    step_at: Many[Inside] | None = Field(
        default=None, description=f"a rising list of numbers {INSIDE}, with `schedule: step` (there: [0.4, 0.8])"
    )
    warmup: Share = Field(default=0.0, description=f"{SHARE}, of the steps")
    augment: Augment | None = Field(default=None, description="a map as in `views.augment`, or null: as there")
    batchnorm: Literal["frozen", "train", "recalibrate"] = "frozen"
    ema: Inside | None = Field(default=None, description=f"a number {INSIDE}: the averages' decay, or null")
    clip: Positive | None = Field(default=None, description=f"{POSITIVE}: the largest norm of a gradient, or null")
    dropout: bool = Field(default=False, description="true or false")

    @rule("input")
    @classmethod
    def _features_are_for_blocks(cls, source: str, info: Info) -> str:
        train = info.data.get("train", "blocks")
        if source != "teacher" and train not in ("layers", "blocks"):
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
    def _where_the_unit_ends(cls, value: Any, check: Check[tuple[Target, ...]], info: Info) -> tuple[Target, ...]:
        train, places = info.data.get("train"), of_items(value, "at")
        if train == "layers":
            said = "and `train: layers` has one target, what each layer gives: {at: output, loss: mse}"
            others = {(i, "at"): f"found {at}, {said}" for i, at in enumerate(places) if at != "output"}
            more = {(i, "at"): f"is a second one, {said}" for i in range(1, len(places)) if places[i] == "output"}
            losses = enumerate(of_items(value, "loss"))
            far = {(i, "loss"): f"found {loss}, {said}" for i, loss in losses if loss == "norm-l2"}
            return together(value, check, {**others, **more, **far})
        said = "found output, which is one block's: with `train: student` take outputs, features or logits"
        cuts = {(index, "at"): said for index, at in enumerate(places) if train == "student" and at == "output"}
        if set(places) == {"head"}:
            other = "features" if train == "student" else "output"
            cuts[0, "at"] = f"found head alone, and blocks before the last have none: take logits, or add {other}"
        return together(value, check, cuts)

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
        if values and len(values) > 1 and train in ("layers", "half", "student"):
            does = "treats all layers alike" if train == "layers" else "trains one unit"
            raise ValueError(f"found {len(values)} values, but `train: {train}` {does}: give one")
        return values

    @rule("optimizer")
    @classmethod
    def _layers_are_solved(cls, optimizer: str, info: Info) -> str:
        train = info.data.get("train", "layers")
        if optimizer == "least-squares" and train != "layers":
            raise ValueError(f"found least-squares, which solves single layers, but the stage trains {train}")
        return optimizer

    @rule("lr", "lr_factors", "adapter_lr", "lr_scale_with_batch", "weight_decay", "warmup", "ema", "clip")
    @classmethod
    def _nothing_goes_downhill(cls, value: Any, info: Info) -> Any:
        optimizer = info.data.get("optimizer")
        if optimizer == "least-squares" and value:
            raise ValueError("is given, but least-squares solves its equations at once: leave it out")
        if optimizer and optimizer != "least-squares" and value is None and info.field_name == "lr":
            raise ValueError(f"is missing: it is {RATES}")
        return value

    @rule("lr_factors")
    @classmethod
    def _blocks_are_tried(cls, factors: tuple[float, ...] | None, info: Info) -> tuple[float, ...] | None:
        if factors is not None and info.data.get("train") == "layers":
            raise ValueError("is given, but `train: layers` has no trials: leave it out, or train blocks")
        if factors is not None and len(factors) > 9:
            raise ValueError(f"found {len(factors)} factors, each of which takes a trial: give nine at most")
        return factors

    @rule("solve", "ridge", "momentum", "betas")
    @classmethod
    def _fits_the_optimizer(cls, value: Any, info: Info) -> Any:
        optimizer = info.data.get("optimizer")
        whose, usual = _OF_OPTIMIZERS[info.field_name or ""]
        if optimizer and optimizer not in whose and value is not None:
            raise ValueError(f"is given, but {optimizer} has none: leave it out")
        if info.field_name == "momentum" and value == 1:
            raise ValueError("found 1, with which no gradient counts, or all of them do for ever: give less")
        return usual if optimizer in whose and value is None else value

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
            case "layers" | "student":
                return (range(1, blocks + 1),)
