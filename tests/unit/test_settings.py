"""Where there is room for what is remembered."""

import torch

from graftcli.graft.data.teacher_cache import choose_places
from graftcli.graft.settings import EngineSettings


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
