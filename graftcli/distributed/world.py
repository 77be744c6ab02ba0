"""The processes of one job, as torchrun starts them."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from graftcli.errors import GraftError, MachineError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

# long, because a process waits while others train longer blocks; a process that ends closes its connection
_TIMEOUT = timedelta(days=7)


class FailedElsewhere(MachineError):
    """Another process of the job has failed, and reports why."""


@dataclass(frozen=True)
class World:
    """The processes of a job, and the rank of this one. A single process exchanges nothing."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes on this machine
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process shows progress, writes the run and reports to the user."""
        return self.rank == 0

    def broadcast(self, value: T, source: int = 0) -> T:
        """Return the value of the process `source`; tensors in it are on the CPU."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=source, device=torch.device("cpu"))
        return cast(T, values[0])

    def of_first(self, compute: Callable[[], T]) -> T:
        """Compute a value in the first process, and return it in all."""
        return self.broadcast(compute() if self.is_first else cast(T, None))

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return cast(list[T], values)

    def gather_tensors(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, by rank; all have one shape."""
        if self.size == 1:
            return [tensor]
        data = tensor.contiguous().reshape(-1).view(torch.uint8)  # gloo does not support every dtype
        parts = [torch.empty_like(data) for _ in range(self.size)]
        dist.all_gather(parts, data)
        return [part.view(tensor.dtype).reshape(tensor.shape) for part in parts]

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes, the same bits in each.

        On a CPU it is added in the order of the ranks, because gloo's own sums have no fixed order.
        """
        if self.size == 1:
            return tensor
        if tensor.device.type == "cuda":
            total = tensor.contiguous().clone()
            dist.all_reduce(total)
            return total
        first, *others = self.gather_tensors(tensor)
        for other in others:
            first = first + other
        return first

    def together(self, step: Callable[[], T]) -> T:
        """Run `step` in all processes. If it fails in one, it fails in all, and each error is reported once."""
        if self.size == 1:
            return step()
        result, problem = None, None
        try:
            result = step()
        except GraftError as error:
            problem = error
        messages = self.gather(None if problem is None else problem.message)
        if problem is not None and messages.index(problem.message) == self.rank:
            raise problem
        if any(message is not None for message in messages):
            raise FailedElsewhere("Another process of this job failed.", "See its message.")
        return cast(T, result)

    def in_turn(self, step: Callable[[], T]) -> T:
        """Run `step` in the first process, then in the others, which can use the files that the first one wrote."""
        if self.size == 1:
            return step()
        results: list[T] = []
        for is_first in (True, False):
            self.together(lambda: results.append(step()) if self.is_first == is_first else None)  # noqa: B023  # called in the same iteration
        return results[0]

    @property
    def single_process(self) -> "World":
        """A world of this process only; it still counts the processes on its machine."""
        return World(local_rank=self.local_rank, local_size=self.local_size)


SINGLE = World()


def world_of(environment: Mapping[str, str] = os.environ) -> World:
    """Return the processes that torchrun's environment variables describe; a single one without them."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "MASTER_ADDR" not in environment or not all(environment.get(name, "").isdigit() for name in names):
        return SINGLE
    return World(*(int(environment[name]) for name in names))


@contextmanager
def joined() -> Iterator[World]:
    """Connect the processes that torchrun started, until the context ends."""
    world = world_of()
    if world.size == 1:
        yield world
        return
    has_device = world.local_size <= torch.cuda.device_count()  # the same in all processes of a machine
    with torch.cuda.device(world.local_rank) if has_device else nullcontext():  # NCCL uses the current device
        if dist.is_initialized():
            yield world
            return
        _connect(world, "cpu:gloo,cuda:nccl" if has_device else "gloo")
        yield world
        dist.destroy_process_group()  # not after an error, because the others may wait in an exchange forever


_connections = count()


def _connect(world: World, backend: str) -> None:
    """Connect the processes, under keys of the job's store that no earlier connection of them has used."""
    from torch.distributed.distributed_c10d import PrefixStore  # not part of every build of torch

    keys = PrefixStore(f"graftcli-{next(_connections)}", _job_store())
    dist.init_process_group(backend, store=keys, rank=world.rank, world_size=world.size, timeout=_TIMEOUT)


@cache
def _job_store() -> "Store":
    """The store in which the processes of the job find each other."""
    from torch.distributed.rendezvous import rendezvous

    store: Store = next(rendezvous("env://", timeout=_TIMEOUT))[0]
    return store


def is_lost_connection(problem: BaseException) -> bool:
    """Whether an error says that another process of the job has ended."""
    is_of_torch = isinstance(problem, RuntimeError) and world_of().size > 1
    texts = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused")
    return isinstance(problem, dist.DistError) or (is_of_torch and any(text in str(problem) for text in texts))
