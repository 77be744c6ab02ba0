"""Tensors, facts and states come back bit for bit, and the same ones give the same bytes."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from graftcli.errors import CheckpointError
from graftcli.graft.training.muon import Muon
from graftcli.store.atomic import read_facts, read_state, read_tensors, write_state, write_tensors
from tests.tensors import tensors


def test_tensors_and_facts_come_back(tmp_path: Path) -> None:
    facts = {"name": "résnet", "widths": [1, 2], "none": None}
    write_tensors(tmp_path / "t.safetensors", tensors(), facts)
    read, read_back = read_tensors(tmp_path / "t.safetensors")
    assert read_back == facts == read_facts(tmp_path / "t.safetensors")
    assert read.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor.detach()), name


def test_the_metadata_is_one_key_of_sorted_json(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t.safetensors", tensors(), {"b": 1, "a": 2})
    with safe_open(tmp_path / "t.safetensors", "pt") as file:
        (key, text), *others = file.metadata().items()
    digest = json.loads(text)["digest"]
    assert (key, others) == ("graftcli", []) and text == f'{{"digest": "{digest}", "a": 2, "b": 1}}'


_WORDS = ["the", "facts", "come", "in", "any", "order"]
_WRITE = f"""
import sys
from pathlib import Path
from graftcli.store.atomic import write_tensors
from tests.tensors import tensors
write_tensors(Path(sys.argv[1]), dict(reversed(tensors().items())), {{word: word for word in set({_WORDS})}})
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    here, there = tmp_path / "1", tmp_path / "2"
    write_tensors(here, tensors(), {word: word for word in set(_WORDS)})
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # another order of sets than in this process
    subprocess.run([sys.executable, "-c", _WRITE, there], env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
    assert here.read_bytes() == there.read_bytes()


@pytest.mark.parametrize("damage", [b"", b"no tensors here at all", None])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, tensors(), {})
    path.write_bytes(path.read_bytes()[:-5] if damage is None else damage)
    with pytest.raises(CheckpointError, match=r"`.*t.safetensors` is damaged or was not written by graftcli"):
        read_tensors(path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"`.*t.safetensors` cannot be read"):
        read_tensors(path)


def test_a_safetensors_file_of_another_program_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "t.safetensors")
    with pytest.raises(CheckpointError, match="was not written by graftcli"):
        read_facts(tmp_path / "t.safetensors")


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.arange(2.0), "b": torch.ones(3, dtype=torch.int8)}, {"step": 3})
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"t\.safetensors"):
            read_tensors(path)
    path.write_bytes(whole)
    assert read_tensors(path)[1] == {"step": 3}


def test_data_after_the_end_of_a_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, tensors(), {})
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="its sha256 is"):
        read_tensors(path)


# -- states -------------------------------------------------------------------------------------------------------


def same(one: Any, other: Any) -> bool:
    """Whether two nests agree in every type, key, bit and stride."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        alike = (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        return alike and one.contiguous().view(-1).view(torch.uint8).equal(
            other.contiguous().view(-1).view(torch.uint8)
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)


def test_nested_state_round_trips_bit_for_bit(tmp_path: Path) -> None:
    nan = torch.tensor([0x7FC01234, 0x7F800001], dtype=torch.int32).view(torch.float32)
    state = {
        "state": {0: {"step": torch.tensor(7.0), "nan": nan}, 1: {}},
        "betas": (0.9, 0.1 + 0.2),
        "best": -math.inf,
        "lost": math.nan,
        "names": ["a", None, True, 2**70, []],
        "maps": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "kernel": torch.randn(8, 4, 1, 1).contiguous(memory_format=torch.channels_last),
        "order": torch.randperm(9),
        "generator": torch.Generator().manual_seed(3).get_state(),
    }
    write_state(tmp_path / "s.safetensors", state, {"step": 7})
    assert same(read_state(tmp_path / "s.safetensors"), state)
    assert read_facts(tmp_path / "s.safetensors")["step"] == 7


def _network() -> torch.nn.Sequential:
    torch.manual_seed(1)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 4, 1))
    return layers.to(memory_format=torch.channels_last)


def _optimiser(name: str, network: torch.nn.Sequential) -> torch.optim.Optimizer:
    first, last = ({"params": list(network[place].parameters())} for place in (0, 2))
    groups: list[dict[str, Any]] = [{**first, "lr": 1e-2}, last]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=1e-3, momentum=0.9)
    if name == "muon":
        return Muon([{"lr": 1e-3, **group} for group in groups])
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(groups, lr=1e-3, betas=(0.8, 0.99), amsgrad=True)


def _step(network: torch.nn.Module, optimiser: torch.optim.Optimizer, number: int) -> None:
    images = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(number))
    optimiser.zero_grad()
    network(images.contiguous(memory_format=torch.channels_last)).square().mean().backward()
    optimiser.step()


@pytest.mark.parametrize("name", ["sgd", "muon", "adam", "adamw"])
def test_a_saved_optimiser_resumes_exactly(tmp_path: Path, name: str) -> None:
    network = _network()
    optimiser = _optimiser(name, network)
    for number in range(3):
        _step(network, optimiser, number)
    write_state(tmp_path / "s", {"weights": network.state_dict(), "optimiser": optimiser.state_dict()}, {})

    again = _network()
    resumed = _optimiser(name, again)
    state = read_state(tmp_path / "s")
    again.load_state_dict(state["weights"])
    resumed.load_state_dict(state["optimiser"])
    assert same(resumed.state_dict(), optimiser.state_dict())
    for number in range(3, 8):
        _step(network, optimiser, number)
        _step(again, resumed, number)
    assert same(dict(again.state_dict()), dict(network.state_dict()))
    assert same(resumed.state_dict(), optimiser.state_dict())
