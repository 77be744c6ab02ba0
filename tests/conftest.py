"""What every test finds: a configuration folder of its own, in which nothing is trusted."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def config_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where graftcli keeps what the user trusts; the one of whoever runs the tests is never touched."""
    folder = tmp_path_factory.mktemp("config")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder
