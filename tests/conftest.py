"""What every test finds: a configuration folder of its own, in which nothing is trusted, and the tier of its folder.

`pytest` runs the unit tests; `pytest -m "unit or laws or cli or hostile"` runs all but the nightly ones.
"""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
TIERS = ("unit", "laws", "cli", "hostile")


def pytest_configure(config: pytest.Config) -> None:
    """Without any path and any -m, the unit tests; a path that is named is run whole, but for nightly cases."""
    is_named = config.args_source is config.ArgsSource.ARGS
    if not config.option.markexpr:
        config.option.markexpr = "not nightly" if is_named else "unit"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = item.path.relative_to(HERE).parts[0]
        assert tier in TIERS, f"{item.path} belongs to no tier: move it to one of {', '.join(TIERS)}"
        if item.get_closest_marker("nightly") is None:
            item.add_marker(tier)


@pytest.fixture(autouse=True)
def config_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where graftcli keeps what the user trusts; the one of whoever runs the tests is never touched."""
    folder = tmp_path_factory.mktemp("config")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder
