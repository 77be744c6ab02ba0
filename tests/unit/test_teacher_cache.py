"""The teacher cache: where its parts lie, and that an interrupted pass resumes with the same features."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.teacher_cache import Place, TeacherCache, choose_places
from graftcli.graft.data.views import Views
from graftcli.graft.settings import EngineSettings
from graftcli.recipe.values import Augment
from graftcli.store import cache_progress, intervals
from graftcli.store.cache_files import Cache
from tests.engine import PREPROCESS, images


class Counting(nn.Module):
    """A piece that counts the views it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = 0

    def forward(self, x: Tensor) -> Tensor:
        self.shown += len(x)
        return x.mean((2, 3)) * 3


PLACES: tuple[Place, ...] = ("memory", "disk", "recompute")


class Killed(Exception):
    pass


def looking(
    place: Place,
    folder: Path,
    stop_at: int | None,
    amp: bool = False,
    warn: Callable[[str], None] = lambda _: None,
) -> tuple[TeacherCache, Counting]:
    piece = Counting()
    views = Views(images().pixels, PREPROCESS, Augment(flip=True), 5, 0)
    how = Precision(torch.device("cpu"), amp)
    answers = TeacherCache(views, [piece], [(3,)], {1: place}, cache=Cache(folder, warn), chunk=8, precision=how)

    def looked(done: int, total: int) -> None:
        if done == stop_at:
            raise Killed

    try:
        answers.fill({1}, looked)
    except Killed:
        assert stop_at is not None
    return answers, piece


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("stop_at", [8, 32, 60])
@pytest.mark.parametrize("amp", [False, True])
def test_an_interrupted_pass_resumes(
    place: Place, stop_at: int, amp: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = looking(place, tmp_path / "whole", None, amp)
    monkeypatch.setattr(intervals, "SAVE_SECONDS", -1.0)
    _, before = looking(place, tmp_path / "broken", stop_at, amp)
    answers, after = looking(place, tmp_path / "broken", None, amp)
    assert (before.shown, after.shown) == (-(-stop_at // 8) * 8, -(-(60 - stop_at) // 8) * 8)
    index = torch.arange(60)
    assert torch.equal(answers.at(1, index), whole.at(1, index))


def test_a_file_made_again_is_not_trusted_however_often_a_pass_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are zeros: what was written down of the file before it counts no more."""
    whole, _ = looking("memory", tmp_path / "whole", None)
    monkeypatch.setattr(intervals, "SAVE_SECONDS", -1.0)
    looking("disk", tmp_path, 32)
    (tmp_path / "value-1.bin").unlink()
    with pytest.MonkeyPatch.context() as never:
        never.setattr(intervals, "SAVE_SECONDS", 1e9)
        looking("disk", tmp_path, 8)
    found, again = looking("disk", tmp_path, None)
    assert again.shown == 64, "eight batches of eight"
    assert torch.equal(found.at(1, torch.arange(60)), whole.at(1, torch.arange(60)))


def test_what_is_computed_in_bfloat16_takes_half_the_room(tmp_path: Path) -> None:
    index = torch.arange(60)
    exact, _ = looking("disk", tmp_path / "exact", None)
    rounded = {place: looking(place, tmp_path / place, None, amp=True)[0].at(1, index) for place in PLACES}
    assert (tmp_path / "exact" / "value-1.bin").stat().st_size == 60 * 3 * 4
    assert (tmp_path / "disk" / "value-1.bin").stat().st_size == 60 * 3 * 2
    assert torch.equal(rounded["disk"], rounded["memory"])
    assert torch.equal(rounded["disk"], exact.at(1, index).bfloat16().float())
    assert torch.equal(rounded["recompute"], rounded["disk"]) and rounded["recompute"].dtype == torch.float32


def test_a_short_pass_is_not_saved(tmp_path: Path) -> None:
    looking("memory", tmp_path, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("gone", [False, True])
def test_incomplete_files_are_computed_again(
    place: Place, gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = looking("memory", tmp_path / "whole", None)
    monkeypatch.setattr(intervals, "SAVE_SECONDS", -1.0)
    looking(place, tmp_path, 32)
    file = tmp_path / "value-1.bin"
    if gone:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    found, again = looking(place, tmp_path, None)
    assert again.shown == 64, "eight batches of eight"
    assert torch.equal(found.at(1, torch.arange(60)), whole.at(1, torch.arange(60)))


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("bit", [0, 100, 400])
def test_a_damaged_cache_is_computed_again_with_a_warning(
    place: Place, bit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = looking("memory", tmp_path / "whole", None)
    monkeypatch.setattr(intervals, "SAVE_SECONDS", -1.0)
    looking(place, tmp_path, 32)
    data = bytearray((tmp_path / "value-1.bin").read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    (tmp_path / "value-1.bin").write_bytes(data)
    warnings: list[str] = []
    found, again = looking(place, tmp_path, None, warn=warnings.append)
    assert again.shown == 64 and len(warnings) == 1 and "damaged" in warnings[0]
    assert torch.equal(found.at(1, torch.arange(60)), whole.at(1, torch.arange(60)))


PAGES = [
    *("{", "[]", '{"done": -1, "rows": {"1": [12, 0]}}', '{"done": 1e99, "rows": {}}'),
    *('{"done": 61, "rows": {"1": [12, 3]}}', '{"done": 8, "rows": {"1": [12, 3]}}', '{"done": 8, "rows": {"1": 3}}'),
]


@pytest.mark.parametrize("page", PAGES)
def test_a_damaged_page_is_a_damaged_cache(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "SAVE_SECONDS", -1.0)
    looking("memory", tmp_path, 32)
    (tmp_path / "value-done.json").write_text(page)
    assert looking("memory", tmp_path, None)[1].shown == 64


def test_a_row_that_is_damaged_while_the_run_is_under_way_is_computed_again(tmp_path: Path) -> None:
    whole, _ = looking("memory", tmp_path / "whole", None)
    warnings: list[str] = []
    found, _ = looking("disk", tmp_path, None, warn=warnings.append)
    with (tmp_path / "value-1.bin").open("r+b") as file:
        file.seek(59 * 12)
        file.write(b"\xff\xff")
    index = torch.tensor([3, 59, 8])
    assert torch.equal(found.at(1, index), whole.at(1, index)) and len(warnings) == 1
    assert torch.equal(found.at(1, index), whole.at(1, index)) and len(warnings) == 1, "it is written again"


def test_a_full_disk_costs_only_the_saved_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(cache_progress.CacheProgress, "_has_room", lambda _: False)
    looking("memory", tmp_path, 32)
    _, again = looking("memory", tmp_path, None)
    assert again.shown == 64, "eight batches of eight"


def test_the_disk_is_used_before_all_of_the_memory_is() -> None:
    sizes = [(256,), (512,), (1024,), (2048,)]  # of one view, 4 bytes a number

    def places(settings: EngineSettings, dtype: torch.dtype = torch.float32) -> list[str]:
        found = choose_places({1, 2, 3, 4}, sizes, 1, dtype, settings.cache_budgets())
        return [found[value] for value in (1, 2, 3, 4)]

    assert places(EngineSettings(memory=10**6)) == ["memory"] * 4
    assert places(EngineSettings(memory=10**6, disk=10**6, memory_first=3072)) == ["memory", "memory", "disk", "disk"]
    assert places(EngineSettings(memory=10**6, disk=4096, memory_first=3072)) == ["memory", "memory", "disk", "memory"]
    assert places(EngineSettings(memory=3072, disk=4096)) == ["memory", "memory", "disk", "recompute"]
    assert places(EngineSettings(memory=3072, disk=8192)) == ["memory", "memory", "disk", "recompute"]
    assert places(EngineSettings(memory=3072, disk=8192), torch.bfloat16) == ["memory", "memory", "disk", "disk"]


def test_room_is_shared_after_what_is_taken() -> None:
    assert EngineSettings(memory=1000, disk=500, memory_first=400).cache_budgets(used=100, shares=2) == [
        ("memory", 150),
        ("disk", 250),
        ("memory", 300),
    ]
    assert EngineSettings(memory=1000, disk=500, memory_first=400).cache_budgets(used=700) == [
        ("memory", 0),
        ("disk", 500),
        ("memory", 300),
    ]
    assert [size for _, size in EngineSettings(memory=1000, disk=500).cache_budgets(used=2000)] == [0, 500, 0]
