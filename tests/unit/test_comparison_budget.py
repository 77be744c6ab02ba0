"""Steps within a budget: the recipe's proportions, exactly the requested number, and times that were measured."""

import pytest

from graftcli.comparison.budget import Budget, TaskLength, _longest, _seconds, share_steps, with_steps
from graftcli.comparison.profile import StepTimes
from graftcli.errors import UsageError
from graftcli.graft.schedule import Schedule, schedule_of
from graftcli.recipe import Recipe
from graftcli.recipe.file import load
from graftcli.recipe.values import Synthetic
from tests import engine

IMAGES = 12


def parts(recipe: Recipe, blocks: int = 3, times: int = 1) -> list[TaskLength]:
    return [TaskLength(task, task.steps(IMAGES), times) for task in scheduled(recipe, blocks).tasks]


def scheduled(recipe: Recipe, blocks: int = 3) -> Schedule:
    return schedule_of(recipe, IMAGES, blocks)


def steps(found: list[TaskLength]) -> list[int]:
    return [part.steps for part in found]


def recipe(*lengths: object) -> Recipe:
    """Blocks, growing and the whole student, so many steps each."""
    whole = engine.recipe().model_dump(mode="json")
    for stage, length in zip(whole["stages"], lengths, strict=True):
        stage["steps"] = length
    return Recipe.model_validate(whole)


@pytest.mark.parametrize("total", [6, 7, 60, 100, 12_345])
def test_shared_steps_add_up_to_the_budget_in_the_recipes_proportions(total: int) -> None:
    own = parts(recipe([10, 20, 30], 40, 100))
    found = steps(share_steps(own, total, "tiny"))
    assert sum(found) == total and min(found) >= 1
    if total >= 60:
        assert all(abs(n - total * part.steps / 240) <= 1 for n, part in zip(found, own, strict=True))


def test_too_few_steps_for_the_units_are_refused() -> None:
    with pytest.raises(UsageError, match="5 steps are fewer than the 6 tasks"):
        share_steps(parts(recipe(1, 1, 1)), 5, "tiny")


def test_layers_need_as_many_steps_each() -> None:
    (part,) = parts(load("cross"), times=7)
    (found,) = share_steps([part], 100, "cross")
    assert (found.steps, found.steps * found.repeats) == (14, 98)


def test_stages_solved_in_closed_form_keep_their_own_steps() -> None:
    solved = parts(load("fskd"), times=7)
    trained = parts(recipe(1, 1, 1))
    found = share_steps([*solved, *trained], 60, "both")
    assert found[: len(solved)] == solved
    assert sum(steps(found[len(solved) :])) == 60
    assert with_steps(load("fskd"), solved, 3, IMAGES) == load("fskd")


def test_a_recipe_has_these_steps_in_place_of_epochs() -> None:
    for name in ("graft", "netgraft", "kd", "fitnet"):
        own = load(name)
        found = share_steps(parts(own), 500, name)
        changed = with_steps(own, found, 3, IMAGES)
        assert [task.steps(IMAGES) for task in scheduled(changed).tasks] == steps(found)
        batches = [[task.batch(IMAGES) for task in scheduled(one).tasks] for one in (own, changed)]
        assert batches[0] == batches[1]  # fewer than 64 images in a recipe of epochs: its rate hangs on that too


def test_a_unit_that_is_not_trained_keeps_its_own_steps() -> None:
    own = recipe([10, 20, 30], 40, 100)
    chosen = [TaskLength(task, task.steps(IMAGES)) for task in schedule_of(own, IMAGES, 3, (2,)).tasks]
    changed = with_steps(own, share_steps(chosen, 12, "tiny"), 3, IMAGES)
    assert [stage.steps for stage in changed.stages] == [(10, 2, 30), (40, 40), (10,)]


def test_the_longest_run_that_ends_in_time_is_found() -> None:
    own, whole = parts(recipe(10, 10, 10)), scheduled(recipe(10, 10, 10))
    pace = StepTimes({part.task.name: 0.5 for part in own}, view=0.01, image=0.0, rest=3.0)
    found = _longest(own, pace, whole, 20.0)
    longer = share_steps(own, sum(steps(found)) + 1, "tiny")
    assert _seconds(found, pace, whole) <= 20.0 < _seconds(longer, pace, whole)
    assert 20 < sum(steps(found)) < 34  # 17 s at half a second, without the looks
    assert steps(_longest(own, pace, whole, 1.0)) == [1] * 6  # what cannot end in time is as short as can be


def test_synthetic_images_take_their_time_of_a_longer_run() -> None:
    own, whole = parts(recipe(1, 1, 1)), scheduled(recipe(1, 1, 1))
    views = whole.recipe.views.model_copy(update={"synthetic": Synthetic(images=600, steps=40)})
    more = scheduled(whole.recipe.model_copy(update={"views": views}))
    pace = StepTimes({part.task.name: 0.0 for part in own}, view=0.0, image=0.5, rest=3.0)
    longer = share_steps(own, 60_000, "tiny")  # 10,000 steps of 4 views: a hundred images
    assert _seconds(own, pace, more) == _seconds(longer, pace, whole) == 3.0
    assert _seconds(longer, pace, more) == 3.0 + 100 * 0.5


def test_a_budget_is_steps_or_seconds() -> None:
    with pytest.raises(UsageError, match="both"):
        Budget(steps=5, seconds=5.0)
    assert "5 steps" in Budget(steps=5).describe(1.0)
    assert Budget().describe(0.1) == "0.1 of the steps of each recipe"
