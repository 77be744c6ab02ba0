"""`graftcli env`: what is installed, what there is to compute with, and which installs are broken."""

from dataclasses import asdict

from graftcli.cli import render
from graftcli.cli.options import Json
from graftcli.environment import Environment, Gpu, examine
from graftcli.environment.machine import Memory
from graftcli.errors import MachineError


def env(as_json: Json = False) -> None:
    """Show versions, devices and threads, and say how to mend a broken install.

    Exits with 7 where an install is broken. Put the output into every report of a problem.

    Examples:
      graftcli env
      graftcli env --json > environment.json
    """
    found = examine()
    if as_json:
        render.document(asdict(found))
    else:
        render.table("Versions", ("package", "version"), [(name, v or "missing") for name, v in found.versions.items()])
        render.line()
        render.table("Machine", ("", ""), _machine(found))
    if found.faults:
        mends = dict.fromkeys(fault.mend for fault in found.faults)  # one line may mend several
        raise MachineError("\n".join(fault.found for fault in found.faults), "\n".join(mends))


def _machine(found: Environment) -> list[tuple[str, str]]:
    """The rows of the table about the machine."""
    rows = [
        ("system", found.system),
        ("cpu", f"{found.cpu.name}, {found.cpu.cores} cores usable"),
        ("cpu features", ", ".join(found.cpu.features) or "none of note"),
        ("memory", _memory(found.memory)),
    ]
    if found.torch is None:
        return rows
    threads = f"{found.torch.threads} within an operation, {found.torch.interop_threads} between operations"
    return [
        *rows,
        ("torch on the cpu", f"{found.torch.cpu_capability}; threads: {threads}"),
        ("torch is built for", f"CUDA {found.torch.cuda}" if found.torch.cuda else "no CUDA"),
        *((f"cuda:{index}", _gpu(gpu)) for index, gpu in enumerate(found.torch.gpus)),
        ("mps", "yes" if found.torch.mps else "no"),
    ]


def _gpu(gpu: Gpu) -> str:
    return f"{gpu.name}, capability {gpu.capability}, {_memory(gpu.memory)}"


def _memory(memory: Memory) -> str:
    free, total = (
        render.human(amount, "B") if amount is not None else "unknown" for amount in (memory.free, memory.total)
    )
    return f"{free} free of {total}"
