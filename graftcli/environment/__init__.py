"""Facts about the machine and what is installed on it. Nothing that it examines is imported before `examine` runs."""

import platform
from dataclasses import dataclass

from graftcli.environment.installs import InstallFault, faults, versions
from graftcli.environment.machine import Cpu, Memory, cpu, memory


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its memory in bytes and its compute capability, as "9.0"."""

    name: str
    capability: str
    memory: Memory


@dataclass(frozen=True)
class Torch:
    """What torch would compute with."""

    cpu_capability: str
    threads: int
    interop_threads: int
    cuda: str | None
    gpus: tuple[Gpu, ...]
    mps: bool


@dataclass(frozen=True)
class Environment:
    """Everything that a report of a problem should say. `torch` is None where torch cannot be imported."""

    versions: dict[str, str | None]
    system: str
    cpu: Cpu
    memory: Memory
    torch: Torch | None
    faults: tuple[InstallFault, ...]


def examine() -> Environment:
    """The machine and its installs as they are now. Imports every package graftcli needs, and survives broken ones."""
    found = faults()
    return Environment(
        versions=versions(),
        system=platform.platform(),
        cpu=cpu(),
        memory=memory(),
        torch=_torch(),
        faults=found,
    )


def _torch() -> Torch | None:
    try:
        import torch
    except Exception:  # a broken install raises whatever it likes; `faults` has said what
        return None
    return Torch(
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        interop_threads=torch.get_num_interop_threads(),
        cuda=torch.version.cuda,
        gpus=tuple(_gpu(index) for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else (),
        mps=torch.backends.mps.is_available(),
    )


def _gpu(index: int) -> Gpu:
    import torch

    facts = torch.cuda.get_device_properties(index)
    try:
        free, _ = torch.cuda.mem_get_info(index)
    except RuntimeError:  # a GPU may be too full, or too broken, to be asked
        free = None
    return Gpu(facts.name, f"{facts.major}.{facts.minor}", Memory(facts.total_memory, free))
