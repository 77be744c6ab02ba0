"""A recipe written as JSON reads as itself, as text and as a YAML file."""

import random
from pathlib import Path
from typing import Any

import pytest

from graftcli.recipe import Recipe
from graftcli.recipe.file import load, shipped

# what YAML may take for something else
TEXTS = [
    "1e-3",
    "null",
    "yes",
    "~",
    "-1",
    "a: b",
    "# no",
    "two\nlines",
    " x ",
    "'",
    '"',
    "é\u2028😀",
    "1.",
    "[a",
    "\x07",
]


def a_number(draw: random.Random) -> float:
    return draw.choice([1e-5, 2.5e-4, 1 / 3, 1.0, 7.0, draw.random() + 1e-9])


def a_count_or_counts(draw: random.Random) -> int | list[int]:
    counts = [draw.randint(1, 9) for _ in range(draw.randint(1, 4))]
    return counts if draw.random() < 0.5 else counts[0]


def an_augment(draw: random.Random) -> dict[str, Any]:
    return {
        "crop": draw.choice([None, {"padding": draw.random()}]),
        "flip": draw.random() < 0.5,
        "resized_crop": draw.choice([None, {"scale": sorted([draw.random() + 1e-9, 1.0])}]),
        "mixup": draw.choice([None, {"share": draw.random(), "alpha": a_number(draw)}]),
        "cutmix": draw.choice([None, {"share": draw.random(), "shape": draw.choice(["box", "blobs"])}]),
        "colour": draw.choice([None, {"strength": draw.random()}]),
    }


def a_stage(draw: random.Random, index: int) -> dict[str, Any]:
    return {
        "name": draw.choice(["null", "true", "e3", "graft"]) + f"-{index}",
        "train": draw.choice(["blocks", "growing"]),
        "targets": [{"at": "logits", "loss": draw.choice(["kl", "mse", "norm-l2"]), "weight": a_number(draw)}],
        draw.choice(["steps", "epochs"]): a_count_or_counts(draw),
        "lr": draw.choice([a_number(draw), [a_number(draw), a_number(draw)]]),
        "optimizer": draw.choice(["muon", "adam", "adamw", "sgd"]),
        "schedule": draw.choice(["constant", "cosine", "step"]),
        "augment": draw.choice([None, an_augment(draw)]),
        "ema": draw.choice([None, 0.999]),
    }


def a_recipe(draw: random.Random) -> Recipe:
    return Recipe.model_validate(
        {
            "name": draw.choice(["null", "true", "n", "e3"]),
            "about": draw.choice(TEXTS),
            "init": draw.choice(["random", "inherit", "least-squares", "pretrained", "checkpoint"]),
            "freeze": draw.choice(["same", "none", draw.randint(1, 9), ["same-shape", *draw.sample(range(1, 9), 3)]]),
            "views": {
                "count": draw.choice([None, 3]),
                "total": draw.choice([None, 40]),
                "synthetic": draw.choice(
                    [
                        None,
                        {
                            "images": draw.randint(1, 900),
                            "below": draw.choice([None, draw.randint(1, 900)]),
                            "steps": draw.randint(1, 90),
                        },
                    ]
                ),
                "augment": an_augment(draw),
            },
            "stages": [a_stage(draw, index) for index in range(draw.randint(1, 3))],
        }
    )


def written(folder: Path, recipe: Recipe) -> str:
    path = folder / "recipe.yaml"
    path.write_text(recipe.model_dump_json(), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("seed", range(60))
def test_a_recipe_in_a_file_reads_as_itself(tmp_path: Path, seed: int) -> None:
    recipe = a_recipe(random.Random(seed))
    assert load(written(tmp_path, recipe)) == recipe


@pytest.mark.parametrize("about", TEXTS)
def test_a_text_stays_the_text_it_is(tmp_path: Path, about: str) -> None:
    recipe = load("kd").model_copy(update={"about": about})
    assert load(written(tmp_path, recipe)).about == about


@pytest.mark.parametrize("seed", range(20))
def test_a_recipe_written_as_json_reads_as_itself(seed: int) -> None:
    recipe = a_recipe(random.Random(seed))
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_written_with_its_defaults_reads_as_itself(tmp_path: Path, name: str) -> None:
    assert load(written(tmp_path, load(name))) == load(name)
