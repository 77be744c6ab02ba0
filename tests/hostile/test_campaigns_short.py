"""The campaigns of tests/bench/campaigns in their short forms, each in a process of its own: they fork and preload."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.campaigns import shim

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 300  # on a machine that does much else

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a campaign forks, and this system does not"),
]
needs_shim = pytest.mark.skipif(shim.missing() is not None, reason=f"{shim.missing()}")


def campaign(name: str, folder: Path, *words: str) -> tuple[int, str]:
    """The exit code of a campaign, and what it printed."""
    command = [sys.executable, "-m", f"tests.bench.campaigns.{name}", *words, "--folder", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    return done.returncode, done.stdout + done.stderr


def count(text: str, what: str) -> int:
    """The number in front of a word of the last line."""
    found = re.search(rf"(\d+) {what}", text.strip().splitlines()[-1])
    assert found, text
    return int(found[1])


@needs_shim
@pytest.mark.parametrize("kills", [5, pytest.param(12, marks=pytest.mark.nightly)])
def test_a_command_that_is_killed_at_any_moment_ends_with_the_same_bytes(tmp_path: Path, kills: int) -> None:
    words = ("--count", str(kills), "--only", "distill", "--only", "report", "--seed", "1")
    code, text = campaign("kills", tmp_path, *words)
    assert code == 0 and count(text, "faults") == 0, text
    assert count(text, "kills") >= kills


@needs_shim
@pytest.mark.parametrize(("every", "writes"), [(11, 5), pytest.param(5, 12, marks=pytest.mark.nightly)])
def test_a_write_that_fails_is_a_fault_of_the_machine_and_costs_nothing(
    tmp_path: Path, every: int, writes: int
) -> None:
    """A sample of the writes; the campaign itself takes each of them."""
    code, text = campaign("faults", tmp_path, "--only", "distill", "--every", str(every), "--count", str(writes))
    assert code == 0 and count(text, "faults") == 0, text
    assert count(text, "injected") == writes and count(text, "refused with exit 7") >= writes // 2


@needs_shim
def test_a_damaged_file_is_never_used_in_silence(tmp_path: Path) -> None:
    code, text = campaign("damage", tmp_path, "--count", "25", "--no-timm", "--seed", "2")
    assert code == 0 and count(text, "SILENT") == count(text, "unclear") == 0, text
    assert count(text, "damaged files") == 25


def test_many_runs_in_one_process_hold_no_more_than_few(tmp_path: Path) -> None:
    code, text = campaign("many_runs", tmp_path, "--count", "15", "--warming", "5")
    assert code == 0 and count(text, "faults") == 0, text
