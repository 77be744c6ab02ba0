"""Hostile checkpoints, the short form: refused with a message, or loaded as they were saved, within bounds."""

from pathlib import Path

import pytest
import torch
from torch import nn

from graftcli.errors import CheckpointError
from graftcli.models.loading import checkpoint as weights
from graftcli.models.loading.safe_pickle import read, sha256_of
from tests.hostile.checkpoint_mutations import BOMBS, FORMATS, LAYOUTS, damaged, name_of, tensors, whole
from tests.hostile.measured import MOST_MEMORY, outcomes

CHECKSUMMED = ("zip", "tar")
# what may be loaded: it holds itself or says little, and costs nothing
HARMLESS = ("huge empty shape", "memo tricks", *LAYOUTS)


def outcome_of(path: Path, held: dict[str, torch.Tensor]) -> str:
    """What reading a damaged file of these tensors comes to, in a word; a refusal is raised."""
    state = weights.find_state(weights.read(path), str(path))
    if set(state.tensors) == set(held) and all(equal(state.tensors[name], held[name]) for name in held):
        return "loaded as saved"
    return "silent"


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def opened(path: Path) -> str:
    """All that a command does with a file of weights, up to the network that refuses it."""
    value = read(path)
    weights.architecture(value)
    matched = weights.match(weights.find_state(value, str(path)), nn.Conv2d(8, 16, 3))
    if matched.complete:
        return "loaded"
    raise weights.refusal(matched, str(path), "a convolution")


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_file_is_refused_or_loaded_as_it_was_saved(format: str, tmp_path: Path) -> None:
    held = tensors()
    sound, path, words = whole(format, held), tmp_path / name_of(format), set[str]()
    for seed in range(150):
        kind, data = damaged(sound, format, seed)
        path.write_bytes(data)
        try:
            words.add(word := outcome_of(path, held))
        except CheckpointError as refused:
            assert path.name in refused.message and refused.fix
            continue
        assert format not in CHECKSUMMED or word != "silent", f"{kind}, seed {seed}"
    assert words <= {"loaded as saved", "silent"}


def test_a_flipped_bit_names_the_member_that_holds_it(tmp_path: Path) -> None:
    held, path = tensors(), tmp_path / "w.pth"
    data = bytearray(whole("zip", held))
    data[data.index(held["layer2.weight"].numpy().tobytes()) + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"damaged: the bytes of its member `\w+/data/4` do not match"):
        read(path)


def test_no_file_takes_much_time_or_memory_and_each_refusal_has_a_fix(tmp_path: Path) -> None:
    """Every file of BOMBS but those that are slow to write or to count."""
    slow = ("millions of lists", "old, of many lists", "nested lists, from outside")

    def run(name: str) -> str:
        path = tmp_path / "w.pth"
        BOMBS[name](path)
        return opened(path)

    names = [name for name in BOMBS if name not in slow]
    found = list(outcomes(names, run, batch=10))
    assert [one for one in found if one.word not in ("refused", "loaded")] == []
    assert {one.case for one in found if one.word == "loaded"} <= set(HARMLESS)
    assert [one for one in found if one.memory > MOST_MEMORY] == []


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "a\0b", "x" * 5000])
def test_what_is_no_plain_file_is_refused_before_it_is_opened(name: str) -> None:
    with pytest.raises(CheckpointError):
        read(name)


def test_a_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
