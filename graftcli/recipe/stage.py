"""The schema of a stage: what is trained, on which input, towards which targets, for how long and by which optimiser.

A rule about two fields is a validator of the later field, so that all faults are reported at once with their lines.
"""

from typing import Literal

from pydantic import Field
from pydantic import ValidationInfo as Info
from pydantic import field_validator as rule

from graftcli.losses import LOSSES
from graftcli.recipe.target import Target
from graftcli.recipe.values import (
    COUNTS,
    FRACTION,
    NAME,
    POSITIVE,
    RATES,
    SHARE,
    SMALL,
    Augment,
    Check,
    Count,
    Fraction,
    Name,
    NonEmpty,
    Pair,
    PerUnit,
    Positive,
    Rate,
    RecipeModel,
    Ridge,
    Share,
    Small,
    T,
    WeightDecay,
    ascending,
    check_with_faults,
    item_values,
)

# setting -> the optimisers that use it, and its default there
_OPTIMIZER_SETTINGS: dict[str, tuple[tuple[str, ...], object]] = {
    "solve": (("least-squares",), "outputs"),
    "ridge": (("least-squares",), 1e-3),
    "momentum": (("sgd", "muon"), 0.9),
    "betas": (("adam", "adamw"), (0.9, 0.999)),
}


class Stage(RecipeModel):
    """One stage of a recipe.

    Parameters:
        train: the unit that is trained. `layers`: each layer separately, for a student derived from the teacher.
            `blocks`: each block separately. `growing`: the first k blocks for k = 2, 3, .... `half`: the first half of
            the blocks (the hint of FitNet). `student`: the whole student, or all replaced blocks if only some are
            replaced.
        input: the input of a unit: the teacher's features, or the student's features after its earlier units. The
            target is always the teacher's output for the same view. `mix` (cross distillation), with the teacher's
            features x and the student's features y: mu |unit(x) - teacher(x)| + (1 - mu) |unit(y) - teacher(y)|.
        lr_factors: factors of the learning rate. A task of at least 100 steps tries each factor for 2% of its steps (at
            least six), then trains with the highest whose trial lowers the loss on held-out views.
        optimizer: `muon` orthogonalises the updates of matrices and filters, and updates all other parameters as
            `adamw` does, at the same rate. `least-squares` solves for a bias-free 1x1 convolution per layer over
            `steps` batches and folds it into the layer.
        solve: `outputs` puts the 1x1 after the layer and maps its output to that of the teacher's layer. `inputs` puts
            it before the layer and maps the remaining channels to all input channels of the teacher's layer.
        ridge: the strength of the regularisation towards the identity.
    """

    name: Name = Field(description=NAME)
    train: Literal["layers", "blocks", "growing", "half", "student"]
    input: Literal["teacher", "student", "mix"] = "teacher"
    mu: Share | None = Field(default=None, description=f"{SHARE}: the weight of the teacher's features in `input: mix`")
    targets: NonEmpty[Target] = Field(description="a list of at least one map with `at`, `loss` and `weight`")
    steps: PerUnit[Count] | None = Field(default=None, description=COUNTS)
    epochs: PerUnit[Count] | None = Field(default=None, description=COUNTS)
    batch: Small = Field(default=64, description=SMALL)
    optimizer: Literal["muon", "adam", "adamw", "sgd", "least-squares"] = "adam"
    solve: Literal["outputs", "inputs"] | None = Field(
        default=None, description="outputs or inputs, only with `optimizer: least-squares` (default: outputs)"
    )
    ridge: Ridge | None = Field(
        default=None,
        description="a number above 0, from 1e-18 to 1e6, times the mean of the diagonal, only with"
        " `optimizer: least-squares` (default: 1e-3)",
    )
    momentum: Share | None = Field(
        default=None, description=f"{SHARE}, only with `optimizer: sgd` or muon (default: 0.9)"
    )
    betas: Pair[Fraction] | None = Field(
        default=None, description=f"two numbers {FRACTION}, only with adam or adamw (default: [0.9, 0.999])"
    )
    weight_decay: WeightDecay = Field(default=0.0, description="a number from 0 to 100")
    lr: PerUnit[Rate] | None = Field(default=None, description=RATES)
    lr_factors: NonEmpty[Positive] | None = Field(
        default=None,
        description="a list of one to nine numbers above 0: factors of the learning rate to try first; or null",
    )
    adapter_lr: PerUnit[Rate] | None = Field(default=None, description=f"{RATES}; null: same as `lr`")
    lr_scale_with_batch: Small | None = Field(
        default=None, description=f"{SMALL}: the batch size that the learning rates are for; or null"
    )
    schedule: Literal["constant", "cosine", "step"] = "constant"
    step_at: NonEmpty[Fraction] | None = Field(
        default=None,
        description=f"an ascending list of numbers {FRACTION}, only with `schedule: step` (default: [0.4, 0.8])",
    )
    warmup: Share = Field(default=0.0, description=f"{SHARE}: the fraction of the steps for warmup")
    augment: Augment | None = Field(
        default=None, description="a map as in `views.augment`; null: same as `views.augment`"
    )
    batchnorm: Literal["frozen", "train", "recalibrate"] = "frozen"
    ema: Fraction | None = Field(
        default=None, description=f"a number {FRACTION}: the decay of the moving average; or null"
    )
    clip: Positive | None = Field(default=None, description=f"{POSITIVE}: the largest gradient norm; or null")
    dropout: bool = Field(default=False, description="true or false")

    @rule("input")
    @classmethod
    def _only_blocks_and_layers_take_features(cls, source: str, info: Info) -> str:
        train = info.data.get("train", "blocks")
        if source != "teacher" and train not in ("layers", "blocks"):
            raise ValueError(f"found {source}, but `train: {train}` starts at the image: remove it, or train blocks")
        return source

    @rule("mu")
    @classmethod
    def _only_a_mix_has_mu(cls, mu: float | None, info: Info) -> float | None:
        source = info.data.get("input")
        if source == "mix" and mu is None:
            raise ValueError(
                "is missing: `input: mix` needs the weight of the teacher's features, a number from 0 to 1"
            )
        if source in ("teacher", "student") and mu is not None:
            raise ValueError(f"found {mu}, but `input` is {source}: remove mu, or use `input: mix`")
        return mu

    @rule("targets", mode="wrap")
    @classmethod
    def _targets_fit_the_unit(cls, value: object, check: Check[tuple[Target, ...]], info: Info) -> tuple[Target, ...]:
        train, places = info.data.get("train"), item_values(value, "at")
        if train == "layers":
            allowed = [name for name, loss in LOSSES.items() if loss.is_of_layers]
            rule_text = f"but `train: layers` has exactly one target: {{at: output, loss: {' or '.join(allowed)}}}"
            wrong_places = {(i, "at"): f"found {at}, {rule_text}" for i, at in enumerate(places) if at != "output"}
            repeated = {(i, "at"): f"is one more, {rule_text}" for i in range(1, len(places)) if places[i] == "output"}
            wrong_losses = {
                (i, "loss"): f"found {name}, {rule_text}"
                for i, name in enumerate(item_values(value, "loss"))
                if isinstance(name, str) and name in LOSSES and name not in allowed
                if not LOSSES[name].is_of_logits  # which `at` refuses
            }
            return check_with_faults(value, check, {**wrong_places, **repeated, **wrong_losses})
        message = "found output, which needs a single block: with `train: student` use outputs, features or logits"
        faults = {(index, "at"): message for index, at in enumerate(places) if train == "student" and at == "output"}
        if places and all(at == "head" for at in places):
            missing = "features" if train == "student" else "output"
            faults[0, "at"] = f"found only head, but only the last block has a head: use logits, or add {missing}"
        return check_with_faults(value, check, faults)

    @rule("epochs")
    @classmethod
    def _one_duration(cls, epochs: tuple[int, ...] | None, info: Info) -> tuple[int, ...] | None:
        steps = info.data.get("steps", True)  # a faulty value also counts as given
        if steps and epochs:
            raise ValueError("is given in addition to steps: give only one of them (null unsets the other)")
        if not steps and not epochs:
            raise ValueError("is missing, and so is steps: give one of them")
        return epochs

    @rule("steps", "epochs", "lr", "adapter_lr")
    @classmethod
    def _one_value_per_unit(cls, values: tuple[T, ...] | None, info: Info) -> tuple[T, ...] | None:
        train = info.data.get("train")
        if values and len(values) > 1 and train in ("layers", "half", "student"):
            reason = "trains all layers alike" if train == "layers" else "trains one unit"
            raise ValueError(f"found {len(values)} values, but `train: {train}` {reason}: give one value")
        return values

    @rule("optimizer")
    @classmethod
    def _only_layers_are_solved(cls, optimizer: str, info: Info) -> str:
        train = info.data.get("train", "layers")
        if optimizer == "least-squares" and train != "layers":
            raise ValueError(
                f"found least-squares, which solves single layers: use `train: layers` instead of `train: {train}`"
            )
        return optimizer

    @rule("lr", "lr_factors", "adapter_lr", "lr_scale_with_batch", "weight_decay", "warmup", "ema", "clip")
    @classmethod
    def _only_gradient_optimizers_have_rates(cls, value: T, info: Info) -> T:
        optimizer = info.data.get("optimizer")
        if optimizer == "least-squares" and value:
            raise ValueError("is given, but least-squares takes no gradient steps: remove it")
        if optimizer and optimizer != "least-squares" and value is None and info.field_name == "lr":
            raise ValueError(f"is missing: give {RATES}")
        return value

    @rule("lr_factors")
    @classmethod
    def _layers_have_no_trials(cls, factors: tuple[float, ...] | None, info: Info) -> tuple[float, ...] | None:
        if factors is not None and info.data.get("train") == "layers":
            raise ValueError("is given, but `train: layers` has no trials: remove it, or train blocks")
        if factors is not None and len(factors) > 9:
            raise ValueError(f"found {len(factors)} factors, each of which costs a trial: give at most nine")
        return factors

    @rule("solve", "ridge", "momentum", "betas")
    @classmethod
    def _fits_the_optimizer(cls, value: object, info: Info) -> object:
        optimizer = info.data.get("optimizer")
        users, default = _OPTIMIZER_SETTINGS[info.field_name or ""]
        if optimizer and optimizer not in users and value is not None:
            raise ValueError(f"is given, but {optimizer} does not use it: remove it")
        if info.field_name == "momentum" and value == 1:
            raise ValueError("found 1: give a number below 1")
        return default if optimizer in users and value is None else value

    @rule("step_at")
    @classmethod
    def _only_a_step_schedule_has_steps(cls, shares: tuple[float, ...] | None, info: Info) -> tuple[float, ...] | None:
        schedule = info.data.get("schedule")
        if schedule == "step":
            return ascending(shares or (0.4, 0.8))
        if schedule and shares is not None:
            raise ValueError(
                f"found {list(shares)}, but the schedule is {schedule}: remove it, or use `schedule: step`"
            )
        return shares

    @rule("batchnorm")
    @classmethod
    def _batch_statistics_need_a_batch(cls, policy: str, info: Info) -> str:
        if policy != "frozen" and info.data.get("batch") == 1:
            raise ValueError(
                f"found {policy}, but a batch of one image has no statistics: use frozen, or a larger batch"
            )
        return policy

    def units(self, blocks: int) -> tuple[range, ...]:
        """The blocks of each unit of the stage, in order of training, for a student of that many `blocks`."""
        match self.train:
            case "blocks":
                return tuple(range(block, block + 1) for block in range(1, blocks + 1))
            case "growing":
                return tuple(range(1, k + 1) for k in range(2, blocks + 1))
            case "half":
                return (range(1, (blocks + 1) // 2 + 1),)
            case "layers" | "student":
                return (range(1, blocks + 1),)
