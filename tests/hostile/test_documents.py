"""A document runs no code and breaks no reader: the whole corpus, through the commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.documents import everything

ROOT = Path(__file__).resolve().parents[2]


def test_the_corpus_is_large_and_its_documents_differ() -> None:
    names = [document.name for document in everything()]
    assert len(set(names)) == len(names) > 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_no_document_runs_anything_or_breaks_its_reader(config_folder: Path) -> None:
    """Every document, each in a process of its own: an exit code that fits, a message, no canary, bounded."""
    words = [sys.executable, "-m", "tests.bench.campaigns.documents"]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(config_folder), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert " 0 faults " in ended.stdout
