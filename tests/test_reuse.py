"""Blocks of an earlier run stand for those of a new one where they have seen the same."""

from pathlib import Path

import pytest
import torch

from graftcli.api.asked import Asked, How, Networks
from graftcli.api.ready import Ready, ready
from graftcli.api.reuse import _alike
from graftcli.api.scoring import Look
from tests.nets import randomise, resnet
from tests.pictures import photos

NETS = f"{Path(__file__).resolve().parent / 'nets.py'}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    photos(folder, [f"photos/{i}.png" for i in range(12)])
    torch.save(randomise(resnet(depth=8)).state_dict(), folder / "teacher.pth")
    return folder


def started(place: Path, *overrides: str) -> Ready:
    networks = Networks(
        f"{NETS}:resnet(depth=8)", f"{NETS}:resnet(depth=8)", teacher_checkpoint=str(place / "teacher.pth")
    )
    how = How(overrides=("views.total=null", "views.count=2", "stages.graft.steps=10", *overrides))
    return ready(Asked(networks, str(place / "photos"), None, Look(), how), None, lambda event: None)


@pytest.mark.parametrize(
    ("theirs", "ours", "taken"),
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
def test_blocks_are_taken_over_where_they_saw_the_same(
    place: Path, theirs: tuple[str, ...], ours: tuple[str, ...], taken: bool
) -> None:
    found = _alike(started(place, *theirs).recipe, (1, 2, 3), started(place, *ours))
    assert [stage.name for stage in found] == (["graft"] if taken else [])
