"""Jobs of several processes, which call a Python function or are started by torchrun."""

import multiprocessing
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from graftcli.distributed.world import World, joined

_ONE_CORE = {min(os.sched_getaffinity(0))}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def in_processes(size: int, work: Callable[[World], object], timeout: float = 120) -> list[Any]:
    """Call `work`, a function of a module, in `size` processes of one job, and return what each returns, by rank.

    They are forked from a server that has imported everything, because this process cannot be forked once autograd has
    run.
    """
    context, port = multiprocessing.get_context("forkserver"), free_port()
    context.set_forkserver_preload(["graftcli.api.distilling", "graftcli.api.comparing", "tests.engine"])
    answers: Any = context.Queue()
    processes = [context.Process(target=_member, args=(rank, size, port, work, answers)) for rank in range(size)]
    for process in processes:
        process.start()
    try:
        found = dict(answers.get(timeout=timeout) for _ in processes)
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    for rank, (_, fault) in sorted(found.items()):
        assert fault is None, f"rank {rank}: {fault}"
    return [found[rank][0] for rank in range(size)]


def _member(rank: int, size: int, port: int, work: Callable[[World], object], answers: Any) -> None:
    torch.set_num_threads(1)
    os.sched_setaffinity(0, _ONE_CORE)  # one thread per process, as in the run that is compared
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    os.environ.update({**address, **{name: str(value) for name, value in ranks.items()}})
    try:
        with joined() as world:
            answers.put((rank, (work(world), None)))
    except BaseException:
        answers.put((rank, (None, traceback.format_exc())))


def torchrun(size: int, *arguments: str | Path) -> list[str]:
    """The command that starts `graftcli` in `size` processes."""
    return torchrun_python(size, "-m", "graftcli", *arguments)


def torchrun_python(size: int, *arguments: str | Path) -> list[str]:
    """The command that starts a Python program in `size` processes."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    return [*run, *map(str, arguments)]


def started(command: Sequence[str]) -> "subprocess.Popen[str]":
    """Start a command on one core in its own session, so that the test can end all its processes."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, _ONE_CORE),
    )
