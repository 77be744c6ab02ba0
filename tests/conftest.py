"""The tiers of the tests, their division among CPUs, and a configuration folder for each test.

`pytest` runs the unit tests; `pytest -m "unit or laws or cli or hostile"` runs all but the nightly ones. Both use one
process per CPU; `-n 0` runs everything in the main process.
"""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from graftcli.environment.machine import usable_cores

HERE = Path(__file__).parent
TIERS = ("unit", "laws", "cli", "hostile")

_CONFIG_FOLDERS = count()


def pytest_configure(config: pytest.Config) -> None:
    """Without a path and -m, select the unit tests; a given path runs all its tests except nightly ones."""
    is_named = config.args_source is config.ArgsSource.ARGS
    if not config.option.markexpr:
        config.option.markexpr = "not nightly" if is_named else "unit"
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        threads = max(1, usable_cores() // int(workers))
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # torch is not imported yet
        for name in ("COLUMNS", "LINES"):  # set by readline in a worker
            os.environ.pop(name, None)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process per CPU; no extra process for a single CPU, or if only files are given."""
    is_few = config.args_source is config.ArgsSource.ARGS and all(".py" in argument for argument in config.args)
    cores = usable_cores()
    return 0 if is_few or cores == 1 else cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = item.path.relative_to(HERE).parts[0]
        assert tier in TIERS, f"{item.path} belongs to no tier: move it to one of {', '.join(TIERS)}"
        if item.get_closest_marker("nightly") is None:
            item.add_marker(tier)


@pytest.fixture(autouse=True)
def config_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary configuration folder (trusted files), so that the tests never use the developer's own."""
    folder = tmp_path_factory.getbasetemp() / f"config-{next(_CONFIG_FOLDERS)}"
    folder.mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the test in the folder `place` of its module, and restore torch's number of threads afterwards."""
    import torch  # not at the top: workers set OMP_NUM_THREADS before torch is imported

    threads = torch.get_num_threads()
    monkeypatch.chdir(place)
    yield
    torch.set_num_threads(threads)
