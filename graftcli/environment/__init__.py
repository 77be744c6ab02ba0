"""Report the machine and the installed packages. Imports nothing that it reports on before `examine` runs."""

import platform
from dataclasses import dataclass

from graftcli.environment.installs import InstallFault, faults, versions
from graftcli.environment.machine import Cpu, Memory, cpu, memory


@dataclass(frozen=True)
class Gpu:
    """A CUDA device, its compute capability ("9.0") and its memory in bytes."""

    name: str
    capability: str
    memory: Memory


@dataclass(frozen=True)
class Torch:
    """The devices and threads of torch."""

    cpu_capability: str
    threads: int
    interop_threads: int
    cuda: str | None
    gpus: tuple[Gpu, ...]
    mps: bool


@dataclass(frozen=True)
class Environment:
    """What a bug report should state. `torch` is None if it cannot be imported."""

    versions: dict[str, str | None]
    system: str
    cpu: Cpu
    memory: Memory
    torch: Torch | None
    faults: tuple[InstallFault, ...]


def examine() -> Environment:
    """Report the environment. Imports every package that graftcli needs, and tolerates broken ones."""
    install_faults = faults()
    return Environment(
        versions=versions(),
        system=platform.platform(),
        cpu=cpu(),
        memory=memory(),
        torch=_torch(),
        faults=install_faults,
    )


def _torch() -> Torch | None:
    try:
        import torch
    except Exception:  # a broken install can raise anything; `faults` reports it
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

    properties = torch.cuda.get_device_properties(index)
    try:
        free, _ = torch.cuda.mem_get_info(index)
    except RuntimeError:  # a GPU that is faulty or has no free memory may not respond
        free = None
    capability = f"{properties.major}.{properties.minor}"
    return Gpu(properties.name, capability, Memory(properties.total_memory, free))
