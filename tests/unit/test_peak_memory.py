"""Peak memory since a reset."""

import platform

import pytest
import torch

from graftcli.environment.machine import peak_memory, reset_peak_memory

_MANY = 100_000_000  # floats


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux forgets a peak")
def test_the_peak_grows_again_after_a_reset() -> None:
    before = peak_memory()
    held = torch.ones(_MANY)
    full = peak_memory()
    assert full >= before and full > 4 * _MANY
    del held
    reset_peak_memory()
    assert peak_memory() < full - 2 * _MANY
