"""Checkpoints are read completely or refused in one sentence, and none of their code runs."""

import argparse
import collections
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from graftcli.errors import CheckpointError
from graftcli.models.loading.safe_pickle import read

STATE = {"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "bn.num_batches_tracked": torch.tensor(7)}


class Trap:
    """A pickle of this creates the file when it is loaded by pickle itself."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.target}",)


def save_new(value: object, path: Path) -> None:
    torch.save(value, path)


def save_old(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_bare(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert path.name in caught.value.message
    assert caught.value.fix
    return str(caught.value)


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("save", [save_new, save_old, safetensors.torch.save_file])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w"])
def test_what_was_saved_is_read_bit_for_bit_whatever_the_file_is_called(
    tmp_path: Path, save: Callable[[Any, Path], None], name: str
) -> None:
    save(STATE, tmp_path / name)
    assert same(read(tmp_path / name), STATE)


def test_a_folder_stands_for_the_weights_in_it(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "model.safetensors")
    assert same(read(tmp_path), STATE)


@pytest.mark.parametrize("save", [save_new, save_old])
def test_the_harmless_classes_of_training_checkpoints_are_read(
    tmp_path: Path, save: Callable[[Any, Path], None]
) -> None:
    held = {
        "args": argparse.Namespace(lr=0.1, output=Path("runs/a"), data=PureWindowsPath("C:/data")),
        "best": np.float64(0.5),
        "step": np.int64(3),
        "dtype": np.dtype("float32"),
        "rng": np.random.RandomState(0).get_state(),
        "milestones": collections.Counter([30, 60, 60]),
        "state_dict": collections.OrderedDict(STATE),
    }
    save(held, tmp_path / "checkpoint.pth.tar")
    got = read(tmp_path / "checkpoint.pth.tar")
    assert (got["args"].lr, got["args"].output) == (0.1, PurePosixPath("runs/a"))
    assert got["args"].data == PureWindowsPath("C:/data")
    assert (got["best"], got["step"], got["dtype"]) == (0.5, 3, np.dtype("float32"))
    assert np.array_equal(got["rng"][1], np.random.RandomState(0).get_state()[1])  # type: ignore[index]
    assert got["milestones"] == {30: 1, 60: 2}
    assert same(got["state_dict"], STATE)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numbers_of_old_and_new_numpy_are_read(tmp_path: Path, module: str) -> None:
    save_new({"best": np.float32(0.75)}, tmp_path / "w.pth")
    rewrite_pickle(tmp_path / "w.pth", b"numpy._core.multiarray", module.encode())
    assert read(tmp_path / "w.pth")["best"] == 0.75


def test_weights_saved_on_a_gpu_are_read_on_the_cpu(tmp_path: Path) -> None:
    save_new(STATE, tmp_path / "w.pth")
    rewrite_pickle(tmp_path / "w.pth", b"\x03\x00\x00\x00cpu", b"\x06\x00\x00\x00cuda:3")
    assert b"cuda:3" in (tmp_path / "w.pth").read_bytes()
    got = read(tmp_path / "w.pth")
    assert same(got, STATE)
    assert {tensor.device.type for tensor in got.values()} == {"cpu"}


def rewrite_pickle(path: Path, old: bytes, new: bytes) -> None:
    """The same file of torch.save with other bytes in its pickle."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data.replace(old, new) if name.endswith("data.pkl") else data)


@pytest.mark.parametrize("save", [save_new, save_old, save_bare])
def test_a_pickle_that_runs_code_is_refused_by_the_name_of_it_and_runs_nothing(
    tmp_path: Path, save: Callable[[Any, Path], None]
) -> None:
    trap = tmp_path / "sprung"
    save({"state_dict": STATE, "extra": Trap(trap)}, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth")
    assert f"{os.name}.system" in message
    assert "--unsafe-load" in message
    assert not trap.exists()


def test_the_malicious_pickle_runs_code_under_pickle_itself(tmp_path: Path) -> None:
    save_bare(Trap(tmp_path / "sprung"), tmp_path / "w.pth")
    pickle.loads((tmp_path / "w.pth").read_bytes())
    assert (tmp_path / "sprung").exists()


def test_all_that_a_pickle_would_load_is_named_at_once(tmp_path: Path) -> None:
    save_new(
        {"net": nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "seen": collections.defaultdict(list)}, tmp_path / "w.pth"
    )
    message = refusal(tmp_path / "w.pth")
    for name in ("torch.nn.modules.linear.Linear", "torch.nn.modules.activation.ReLU", "collections.defaultdict"):
        assert name in message


def test_unsafe_load_reads_pickles_with_code(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    save_new({"net": net}, tmp_path / "w.pth")
    assert torch.equal(read(tmp_path / "w.pth", unsafe=True)["net"].weight, net.weight)


def test_unsafe_load_names_code_that_is_not_installed(tmp_path: Path) -> None:
    save_new({"net": nn.Linear(3, 2)}, tmp_path / "w.pth")
    rewrite_pickle(tmp_path / "w.pth", b"torch.nn.modules.linear\nLinear", b"somebodys_nets\nLinear")
    with pytest.raises(CheckpointError, match="No module named 'somebodys_nets'"):
        read(tmp_path / "w.pth", unsafe=True)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is empty"),
        (b"epoch,accuracy\n1,0.5\n", "a text file that begins with 'epoch,accuracy'"),
        ("Gewichte für später".encode() * 40, "a text file"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46830571\n", "Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "an HDF5 file"),
        (b"\x1f\x8b\x08" + bytes(600), "a gzip archive"),
        (bytes(range(200, 256)) * 9, "not a checkpoint: it begins with the bytes c8 c9"),
        (b"(dp0\nS'a'\np1\ncos\nsystem\n.", "a text file"),
        (b"\x80\x02garbage", "truncated or damaged"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_what_it_is(tmp_path: Path, data: bytes, expected: str) -> None:
    assert expected in refusal(written(tmp_path / "w.pth", data))


@pytest.mark.parametrize("save", [save_new, save_old, safetensors.torch.save_file])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, save: Callable[[Any, Path], None], share: float) -> None:
    save(STATE, tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    assert "truncated or damaged" in refusal(written(tmp_path / "cut.pth", data[: int(len(data) * share)]))


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    assert "There is no file" in refusal(tmp_path / "w.pth")
    assert "it holds nothing" in refusal(tmp_path)


def test_other_archives_are_refused_by_what_they_hold(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    assert "it holds a.npy" in refusal(tmp_path / "w.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    assert "a TorchScript program" in refusal(tmp_path / "script.pt")
    save_new(STATE, tmp_path / "w.pth")
    with tarfile.open(tmp_path / "w.tar", "w") as archive:
        archive.add(tmp_path / "w.pth")
    assert "a tar archive" in refusal(tmp_path / "w.tar")
