"""Who does what when several processes share a run, and what it stores where."""

import pytest

from graftcli.graft.settings import EngineSettings
from graftcli.recipe.file import load as load_recipe
from graftcli.runs.config import TrainOptions
from graftcli.runs.shares import Shares, memory_of, shares_of
from tests.engine import plan


def divided(size: int, recipe: str = "graft") -> Shares:
    return shares_of(plan(), load_recipe(recipe), size)


def test_one_process_does_everything() -> None:
    alone = divided(1)
    assert alone.speed_up == pytest.approx(1)
    assert [share.name for stage in alone.stages for share in stage] == [
        *("teacher features", "graft-1", "graft-2", "graft-3", "finish-1-2-3")
    ]


def test_blocks_are_dealt_and_batches_shared() -> None:
    features, graft, finish = divided(2).stages
    assert {share.rank for share in graft} == {0, 1}
    assert all(share.is_shared for share in (*features, *finish))
    assert finish[0].exchanged > graft[0].exchanged > 0  # gradients of each step, and a block once


@pytest.mark.parametrize("recipe", ["graft", "kd", "netgraft", "mir"])
def test_more_processes_are_never_slower_and_never_faster_than_their_number(recipe: str) -> None:
    speeds = [divided(size, recipe).speed_up for size in (1, 2, 4, 1000)]
    assert speeds == sorted(speeds) and all(s <= n + 1e-9 for s, n in zip(speeds, (1, 2, 4, 1000), strict=True))


def test_what_is_stored_is_the_features_behind_each_block_and_the_logits() -> None:
    stored = memory_of(plan(), load_recipe("graft"), TrainOptions(device="cpu", cache_gb=0.01))
    names = [(part.what, part.block) for part in stored.parts]
    assert names == [("features", 1), ("features", 2), ("features", 3), ("logits", None)]
    assert stored.parts[-1].bytes == 4 * 5 * stored.views  # float32 logits of five classes
    assert stored.parts[-1].place == "memory" and stored.parts[0].place in ("disk", "recompute")


def test_features_are_stored_on_the_device_before_anywhere_else() -> None:
    settings = EngineSettings(device_memory=2**40)
    assert settings.cache_budgets(on_device=2**39)[0] == ("device", 2**39)
    assert [place for place, _ in EngineSettings().cache_budgets()] == ["memory", "disk", "memory"]
