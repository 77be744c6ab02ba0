"""Blocks of an earlier run are reused where they would be trained in the same way."""

from pathlib import Path

import pytest

from graftcli.runs.config import TrainOptions
from graftcli.runs.prepare import PreparedRun
from graftcli.runs.reuse import _matching_stages
from tests.prepared_runs import prepared, run_inputs
from tests.records import settings


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_inputs(tmp_path_factory.mktemp("place"), 12)


def started(place: Path, *overrides: str) -> PreparedRun:
    return prepared(
        place, TrainOptions(overrides=("views.total=null", "views.count=2", "stages.graft.steps=10", *overrides))
    )


@pytest.mark.parametrize(
    ("earlier", "new", "taken"),
    [
        (("stages.finish.steps=100",), ("stages.finish.steps=150",), True),  # both too short for synthetic images
        (("stages.finish.steps=100",), ("stages.finish.steps=250",), False),  # 250 steps of 64 views: 40 are made
        (
            ("stages.finish.steps=100", "views.synthetic=null"),
            ("stages.finish.steps=250", "views.synthetic=null"),
            True,
        ),
        (("stages.graft.lr=1e-3",), (), False),
        (("views.count=3",), (), False),
    ],
)
def test_blocks_are_reused_if_their_inputs_are_equal(
    place: Path, earlier: tuple[str, ...], new: tuple[str, ...], taken: bool
) -> None:
    found = _matching_stages(settings(recipe=started(place, *earlier).recipe), started(place, *new))
    assert [stage.name for stage in found] == (["graft"] if taken else [])
