"""Recipes: the values of their fields, every rule between two fields, and what the engine reads."""

import sys
from collections.abc import Iterator
from subprocess import run
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from graftcli.errors import UsageError
from graftcli.recipe import Recipe, Stage, check_units, nth, scaled
from graftcli.recipe.values import Augment, Mix, Paste, ResizedCrop, ViewSettings, item_values

STAGE: dict[str, Any] = {
    "name": "graft",
    "train": "blocks",
    "targets": [{"at": "logits", "loss": "norm-l2"}],
    "steps": 10,
    "lr": 1e-3,
}
RECIPE: dict[str, Any] = {"name": "mine", "about": "a test", "init": "inherit", "stages": [STAGE]}


SOLVED: dict[str, Any] = {
    "train": "layers",
    "optimizer": "least-squares",
    "lr": None,
    "targets": [{"at": "output", "loss": "mse"}],
}


def stage(**changes: object) -> Stage:
    return Stage.model_validate(STAGE | changes)


def recipe(*stages: dict[str, Any], **changes: object) -> Recipe:
    return Recipe.model_validate(RECIPE | {"stages": [STAGE | each for each in stages] or [STAGE]} | changes)


def faults(part: type[BaseModel], data: object) -> dict[tuple[int | str, ...], str]:
    with pytest.raises(ValidationError) as raised:
        part.model_validate(data)
    return {error["loc"]: str(error.get("ctx", {}).get("error", error["type"])) for error in raised.value.errors()}


def parts(part: type[BaseModel] = Recipe) -> Iterator[type[BaseModel]]:
    yield part
    for field in part.model_fields.values():
        yield from (inner for model in models(field.annotation) for inner in parts(model))


def models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in models(inner)]


def test_every_field_says_what_it_may_hold() -> None:
    from typing import Literal

    mute = {
        (part.__name__, name)
        for part in parts()
        for name, field in part.model_fields.items()
        if not field.description and get_origin(field.annotation) is not Literal
    } - {("Adapters", "where")}
    assert mute == set()


def test_one_value_is_a_list_of_one_and_the_last_is_repeated() -> None:
    made = stage(lr=[1e-4, 1e-3], steps=7)
    assert (made.lr, made.steps) == ((1e-4, 1e-3), (7,))
    assert [nth(made.lr or (), unit) for unit in range(4)] == [1e-4, 1e-3, 1e-3, 1e-3]
    assert [nth(made.steps or (), unit) for unit in range(2)] == [7, 7]


@pytest.mark.parametrize(
    ("train", "units"),
    [
        ("blocks", [[1], [2], [3], [4]]),
        ("growing", [[1, 2], [1, 2, 3], [1, 2, 3, 4]]),
        ("half", [[1, 2]]),
        ("student", [[1, 2, 3, 4]]),
    ],
)
def test_a_stage_trains_its_units_in_order(train: str, units: list[list[int]]) -> None:
    assert [list(unit) for unit in stage(train=train).units(4)] == units


def test_half_of_three_blocks_is_two_and_one_block_has_nothing_to_connect() -> None:
    assert stage(train="half").units(3) == (range(1, 3),)
    assert stage(train="half").units(1) == (range(1, 2),)
    assert stage(train="growing").units(1) == ()


def test_what_a_loss_or_an_optimizer_needs_is_filled_in() -> None:
    kl = stage(targets=[{"at": "logits", "loss": "kl"}])
    assert kl.targets[0].temperature == 4
    assert stage().targets[0].temperature is None
    assert (stage().betas, stage().momentum) == ((0.9, 0.999), None)
    sgd = stage(optimizer="sgd", schedule="step")
    assert (sgd.betas, sgd.momentum, sgd.step_at) == (None, 0.9, (0.4, 0.8))
    assert (stage(optimizer="muon").betas, stage(optimizer="muon").momentum) == (None, 0.9)


@pytest.mark.parametrize(
    ("changes", "loc", "words"),
    [
        ({"input": "mix"}, ("mu",), "is missing: `input: mix` needs"),
        ({"mu": 0.5}, ("mu",), "found 0.5, but `input` is teacher"),
        (
            {"train": "student", "input": "student"},
            ("input",),
            "found student, but `train: student` starts at the image",
        ),
        ({"epochs": 3}, ("epochs",), "is given in addition to steps"),
        ({"steps": None}, ("epochs",), "is missing, and so is steps"),
        ({"train": "student", "lr": [1e-3, 1e-4]}, ("lr",), "found 2 values, but `train: student` trains one unit"),
        ({"train": "half", "steps": [1, 2, 3]}, ("steps",), "found 3 values, but `train: half` trains one unit"),
        (
            {"targets": [{"at": "head", "loss": "kl"}]},
            ("targets", 0, "at"),
            "found only head, but only the last block",
        ),
        (
            {"train": "student", "targets": [{"at": "head", "loss": "kl"}]},
            ("targets", 0, "at"),
            "found only head, but only the last block has a head: use logits, or add features",
        ),
        ({"optimizer": "muon", "momentum": 1}, ("momentum",), "found 1: give a number below 1"),
        ({"momentum": 0.9}, ("momentum",), "is given, but adam does not use it"),
        ({"optimizer": "muon", "betas": [0.9, 0.99]}, ("betas",), "is given, but muon does not use it"),
        ({"optimizer": "sgd", "betas": [0.9, 0.99]}, ("betas",), "is given, but sgd does not use it"),
        ({"step_at": [0.5]}, ("step_at",), "found [0.5], but the schedule is constant"),
        (
            {"schedule": "step", "step_at": [0.8, 0.4]},
            ("step_at",),
            "found [0.8, 0.4]: give the numbers in ascending order",
        ),
        (
            {"batch": 1, "batchnorm": "train"},
            ("batchnorm",),
            "found train, but a batch of one image has no statistics",
        ),
        (
            {"train": "student", "targets": [{"at": "logits", "loss": "kl"}, {"at": "output", "loss": "mse"}]},
            ("targets", 1, "at"),
            "found output, which needs a single block: with `train: student` use outputs, features or logits",
        ),
        (
            {"train": "layers", "targets": [{"at": "output", "loss": "mse"}, {"at": "logits", "loss": "kl"}]},
            ("targets", 1, "at"),
            "found logits, but `train: layers` has exactly one target: {at: output, loss: mse}",
        ),
        (
            {"train": "layers", "targets": [{"at": "output", "loss": "norm-l2"}]},
            ("targets", 0, "loss"),
            "found norm-l2, but `train: layers` has exactly one target: {at: output, loss: mse}",
        ),
        ({"targets": [{"at": [], "loss": "mse"}]}, ("targets", 0, "at"), "literal_error"),
        ({"train": "layers", "targets": [{"at": "output", "loss": {}}]}, ("targets", 0, "loss"), "literal_error"),
        (
            {"optimizer": "least-squares", "lr": None},
            ("optimizer",),
            "found least-squares, which solves single layers: use `train: layers` instead of `train: blocks`",
        ),
        (
            {**SOLVED, "optimizer": "adam", "lr": 1e-3, "ridge": 1e-3},
            ("ridge",),
            "is given, but adam does not use it: remove it",
        ),
        ({**SOLVED, "lr": 1e-3}, ("lr",), "is given, but least-squares takes no gradient steps: remove it"),
        ({**SOLVED, "ema": 0.9}, ("ema",), "is given, but least-squares takes no gradient steps: remove it"),
        ({**SOLVED, "momentum": 0.9}, ("momentum",), "is given, but least-squares does not use it: remove it"),
        ({"lr": None}, ("lr",), "is missing: give a number above 0"),
        (
            {"targets": [{"at": "output", "loss": "kl"}]},
            ("targets", 0, "loss"),
            "found kl, which needs logits: use it with `at: logits`",
        ),
        (
            {"targets": [{"at": "output", "loss": "mse", "temperature": 2}]},
            ("targets", 0, "temperature"),
            "found 2.0, but the loss is mse and only kl has a temperature",
        ),
    ],
)
def test_a_rule_between_two_fields_is_one_fault_at_the_later(
    changes: dict[str, Any], loc: tuple[int | str, ...], words: str
) -> None:
    found = faults(Stage, STAGE | changes)
    assert list(found) == [loc]
    assert found[loc].startswith(words)


def test_least_squares_has_its_own_usual_values() -> None:
    solved = stage(**SOLVED)
    assert (solved.solve, solved.ridge, solved.units(3)) == ("outputs", 1e-3, (range(1, 4),))
    assert (stage().solve, stage().ridge) == (None, None)


def test_rules_are_reported_beside_the_faults_inside_what_they_rule() -> None:
    faulty = STAGE | {"train": "student", "targets": [{"at": "output", "loss": "l3"}], "steps": "many", "epochs": 3}
    found = faults(Recipe, RECIPE | {"stages": [faulty, STAGE, 7]})
    assert set(found) >= {
        ("stages", 0, "steps", 0),
        ("stages", 0, "epochs"),
        ("stages", 0, "targets", 0, "at"),
        ("stages", 0, "targets", 0, "loss"),
        ("stages", 1, "name"),
        ("stages", 2),
    }


def test_stage_names_differ() -> None:
    assert faults(Recipe, RECIPE | {"stages": [STAGE, STAGE | {"name": "finish"}, STAGE]}) == {
        ("stages", 2, "name"): "found graft again: give each stage its own name"
    }


def test_no_stage_is_called_as_a_unit_of_another() -> None:
    """Block 2 of `graft-1` would be `graft-1-2`, which is `graft` on blocks 1 and 2."""
    numbered = [STAGE, STAGE | {"name": "graft-1"}, STAGE | {"name": "graft-2nd"}]
    assert faults(Recipe, RECIPE | {"stages": numbered}) == {
        ("stages", 1, "name"): "found graft-1, the name of a unit of the stage graft: choose another"
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch", True),
        ("batch", 0),
        ("batch", "64"),
        ("steps", 2.0),
        ("steps", []),
        ("lr", 0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", True),
        ("weight_decay", -1e-4),
        ("warmup", 1.1),
        ("ema", 1),
        ("clip", 0),
        ("dropout", 0),
        ("name", "Graft 1"),
        ("name", "1st"),
        ("targets", []),
        ("targets", {}),
        ("train", "layer"),
        ("schedule", None),
    ],
)
def test_values_are_never_coerced(key: str, value: object) -> None:
    assert {loc[0] for loc in faults(Stage, STAGE | {key: value})} == {key}


@pytest.mark.parametrize(
    ("value", "items", "written"),
    [
        ("same", ("same",), "same"),
        (["none"], ("none",), "none"),
        ([1], (1,), 1),
        (2, (2,), 2),
        (["same", 1, 4], ("same", 1, 4), ["same", 1, 4]),
        ([3, "same-shape"], (3, "same-shape"), [3, "same-shape"]),
    ],
)
def test_freeze_takes_rules_and_block_numbers(value: object, items: tuple[object, ...], written: object) -> None:
    found = recipe(freeze=value)
    assert found.freeze == items and recipe().freeze == ("same",)
    assert found.model_dump(mode="json")["freeze"] == written


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (0, {("freeze", 0): "freeze"}),
        (True, {("freeze", 0): "freeze"}),
        (["same", "first", 1.0], {("freeze", 1): "freeze", ("freeze", 2): "freeze"}),
        (["none", 1], {("freeze",): "found none and block numbers: give one or the other"}),
        ([1, "same", 1], {("freeze",): "found 1 again: give each item once"}),
        (["same", "same-shape"], {("freeze",): "found same and same-shape: give one of them"}),
        ([], {("freeze",): "found []: give at least one item"}),
    ],
)
def test_freeze_is_one_rule_and_numbers(value: object, fault: dict[tuple[int | str, ...], str]) -> None:
    assert faults(Recipe, RECIPE | {"freeze": value}) == fault


def test_a_recipe_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        recipe().name = "other"


def test_lists_are_checked_against_the_blocks_of_a_plan() -> None:
    made = recipe(
        {"lr": [1e-4, 1e-4, 1e-3, 1e-3], "steps": None, "epochs": [100, 60]},
        {"name": "connect", "train": "growing", "lr": [1e-4, 2e-3, 1e-3]},
    )
    check_units(made, 4)
    with pytest.raises(UsageError) as raised:
        check_units(made, 3)
    assert raised.value.message.splitlines()[1:] == [
        "  stages.graft.lr: 4 values for 3 units to train",
        "  stages.connect.lr: 3 values for 2 units to train",
    ]
    check_units(recipe({"train": "growing"}), 1)  # nothing is connected, so one rate is not one too many


def test_scaled_shortens_each_stage_to_at_least_one() -> None:
    made = recipe({"steps": [1000, 25, 3]}, {"name": "finish", "steps": None, "epochs": 60})
    short = scaled(made, 0.1)
    assert [(each.steps, each.epochs) for each in short.stages] == [((100, 2, 1), None), (None, (6,))]
    assert scaled(made, 1.0) == made


def test_a_recipe_needs_no_torch() -> None:
    code = "import sys, graftcli.recipe.file; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def test_images_are_not_augmented_by_default() -> None:
    assert ViewSettings().count is None
    assert ViewSettings().augment == Augment()
    assert Augment().model_dump(exclude_none=True) == {"flip": False}


def test_every_view_may_be_blended_and_pasted_on() -> None:
    both = Augment(mixup=Mix(share=1.0), cutmix=Paste(share=1.0, shape="blobs"))
    assert both.mixup == Mix(share=1.0, alpha=1.0) and both.cutmix == Paste(share=1.0, alpha=1.0, shape="blobs")
    with pytest.raises(ValidationError, match="blob"):
        Augment.model_validate({"cutmix": {"share": 1.0, "shape": "blob"}})
    with pytest.raises(ValidationError, match="shape"):
        Augment.model_validate({"mixup": {"share": 1.0, "shape": "blobs"}})


@pytest.mark.parametrize("scale", [(0.5, 0.2), (0.0, 1.0), (0.5, 1.5), (0.5,), (0.2, 0.3, 0.4), 0.5, "all"])
def test_a_crop_is_a_rising_share_of_the_area(scale: object) -> None:
    with pytest.raises(ValidationError):
        ResizedCrop.model_validate({"scale": scale})


def test_an_aspect_ratio_may_be_above_one() -> None:
    assert ResizedCrop.model_validate({"scale": [0.5, 1], "ratio": [1, 2]}).ratio == (1.0, 2.0)


@pytest.mark.parametrize(
    ("value", "found"),
    [([{"at": 1}, {}, 7], [1, None, None]), ((Mix(share=1),), [None]), ("text", []), (None, []), ({"at": 1}, [])],
)
def test_item_values_reads_unvalidated_items(value: object, found: list[Any]) -> None:
    assert item_values(value, "at") == found
