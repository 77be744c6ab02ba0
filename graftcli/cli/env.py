"""`graftcli env`: installed versions, available hardware and broken installs."""

from dataclasses import asdict

from graftcli.cli import render
from graftcli.cli.options import Json
from graftcli.cli.render_run import count
from graftcli.environment import Environment, Gpu, examine
from graftcli.environment.machine import Memory
from graftcli.errors import MachineError


def env(as_json: Json = False) -> None:
    """Show versions, devices and threads, and how to fix a broken install.

    Exits with 7 if an install is broken. Include the output in bug reports.

    Examples:
      graftcli env
      graftcli env --json > environment.json
    """
    environment = examine()
    if as_json:
        render.document(asdict(environment))
    else:
        versions = [(name, version or "missing") for name, version in environment.versions.items()]
        render.table("Versions", ("package", "version"), versions)
        render.line()
        render.table("Machine", ("", ""), _machine(environment))
    if environment.faults:
        fixes = dict.fromkeys(fault.fix for fault in environment.faults)  # one command may fix several
        raise MachineError("\n".join(fault.found for fault in environment.faults), "\n".join(fixes))


def _machine(environment: Environment) -> list[tuple[str, str]]:
    """Return the rows of the machine table."""
    rows = [
        ("system", environment.system),
        ("cpu", f"{environment.cpu.name}, {count(environment.cpu.cores, 'core')} usable"),
        ("cpu features", ", ".join(environment.cpu.features) or "none"),
        ("memory", _memory(environment.memory)),
    ]
    if environment.torch is None:
        return rows
    threads = f"{environment.torch.threads} intra-op, {environment.torch.interop_threads} inter-op"
    return [
        *rows,
        ("torch on the cpu", f"{environment.torch.cpu_capability}; threads: {threads}"),
        ("torch is built for", f"CUDA {environment.torch.cuda}" if environment.torch.cuda else "no CUDA"),
        *((f"cuda:{index}", _gpu(gpu)) for index, gpu in enumerate(environment.torch.gpus)),
        ("mps", "yes" if environment.torch.mps else "no"),
    ]


def _gpu(gpu: Gpu) -> str:
    return f"{gpu.name}, capability {gpu.capability}, {_memory(gpu.memory)}"


def _memory(memory: Memory) -> str:
    free, total = (
        render.human(amount, "B") if amount is not None else "unknown" for amount in (memory.free, memory.total)
    )
    return f"{free} free of {total}"
