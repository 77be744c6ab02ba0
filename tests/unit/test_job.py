"""What a process of a job takes for itself: its device and its part of the command line."""

import pytest
import torch

from graftcli.cli import ranks
from graftcli.distributed.world import SINGLE, World, world_of
from graftcli.errors import UsageError
from graftcli.runs.machine_settings import on_device
from graftcli.runs.prepare import device_of_process
from graftcli.store.run_record import FixedSettings

JOB = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "host"}
SECOND = World(rank=1, size=4, local_rank=1, local_size=2)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
def test_each_process_of_a_machine_has_a_gpu_of_its_own() -> None:
    assert device_of_process(torch.device("cuda"), SECOND) == torch.device("cuda:1")
    assert device_of_process(torch.device("cpu"), SECOND) == torch.device("cpu")
    assert device_of_process(torch.device("cuda:1"), SINGLE) == torch.device("cuda:1")
    alone_on_its_machine = World(rank=1, size=2, local_rank=0, local_size=1)
    assert device_of_process(torch.device("cuda:1"), alone_on_its_machine) == torch.device("cuda:1")


@pytest.mark.usefixtures("two_gpus")
def test_processes_do_not_share_a_gpu() -> None:
    with pytest.raises(UsageError, match="--device cuda:1 is one GPU, and 2 processes"):
        device_of_process(torch.device("cuda:1"), SECOND)
    with pytest.raises(UsageError, match="3 processes were started on this machine, which has 2"):
        device_of_process(torch.device("cuda"), World(2, 3, 2, 3))


@pytest.mark.parametrize(
    ("started", "available", "used"),
    [
        ("cuda:3", "cuda:1", "cuda:1"),
        ("cuda", "cuda:0", "cuda:0"),
        ("cpu", "cuda:1", "cpu"),
        ("cuda:3", "cpu", "cuda:3"),
    ],
)
def test_a_resumed_run_stays_on_its_kind_of_device(started: str, available: str, used: str) -> None:
    fixed = FixedSettings(memory=1, disk=1, at_once=None, threads=1, device=started)
    assert on_device(fixed, torch.device(available)).device == used


def test_a_command_of_one_process_leaves_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    ranks.leave_job("distill")
    assert world_of().size == 4
    ranks.leave_job("demo")
    assert world_of() == SINGLE
