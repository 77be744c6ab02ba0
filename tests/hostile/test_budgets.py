"""Free memory and disk determine where features are cached, and no bit of the weights."""

from pathlib import Path

import pytest

from graftcli.graft.engine import weights_digest
from graftcli.graft.settings import EngineSettings
from tests.engine import Memory, made_plan, plan, recipe, trained

# bytes of memory, of these before the disk, bytes of disk: from nothing to plenty
BUDGETS = (
    *((0, None, 0), (0, None, 2**30), (2**32, None, 0), (2**32, 0, 2**30), (10_000, None, 10_000)),
    *((50_000, None, 100_000), (200_000, 20_000, 60_000), (1_000_000, None, 0)),
)
RECIPES = {
    "blocks, growing, student": recipe(),
    "student's input": recipe(stages=[{**recipe().stages[0].model_dump(), "input": "student"}]),
    "synthetic images": recipe(views={"count": 60, "synthetic": {"images": 40, "below": 80, "steps": 2}}),
    "solved layers": recipe(
        stages=[
            {
                **{"name": "layers", "train": "layers", "targets": [{"at": "output", "loss": "mse"}]},
                **{"optimizer": "least-squares", "steps": 3, "batch": 8, "input": "student"},
            }
        ],
        adapters={"start": "identity"},
    ),
}


@pytest.mark.parametrize("name", list(RECIPES))
def test_pixels_are_equal_for_every_memory_budget(name: str, tmp_path: Path) -> None:
    found = {}
    for number, (memory, memory_first, disk) in enumerate(BUDGETS):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = EngineSettings(memory=memory, memory_first=memory_first, disk=disk)
        made = made_plan("prune:l1=0.4") if name == "solved layers" else plan()
        outcome = trained(made, Memory(folder), RECIPES[name], settings, count=48)
        found[memory, memory_first, disk] = weights_digest(outcome.merged.module), outcome.score
    assert len(set(found.values())) == 1, found
