"""The processor and the memory that this process may use: the machine's, within the limits of its control group."""

import os
import platform
import resource
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ROOT = Path("/")

# the instructions that decide how fast float32, bfloat16 and int8 networks run
_FEATURES = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)


@dataclass(frozen=True)
class Cpu:
    """`cores` is how many this process may keep busy, not how many there are."""

    name: str
    cores: int
    features: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """In bytes; None where the system does not say. `free` is what could be had without swapping."""

    total: int | None
    free: int | None


def cpu(root: Path = _ROOT) -> Cpu:
    """The processor as this process sees it."""
    facts = dict(_colon_pairs(_read(root / "proc/cpuinfo")))
    flags = (facts.get("flags") or facts.get("Features", "")).split()
    return Cpu(
        name=facts.get("model name") or _named_by_system() or platform.machine(),
        cores=usable_cores(root),
        features=tuple(name for name in _FEATURES if name in flags),
    )


def usable_cores(root: Path = _ROOT) -> int:
    """The cores this process may run on, within its control group's share of time; at least 1."""
    # not every system knows affinities
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(share) for share in _cpu_shares(root))]))


def memory(root: Path = _ROOT) -> Memory:
    """The machine's memory, or less of it where a control group grants less."""
    facts = {key: int(text.split()[0]) * 1024 for key, text in _colon_pairs(_read(root / "proc/meminfo"))}
    groups = list(_memory_groups(root))
    totals = [facts.get("MemTotal") or _physical_memory(), *(limit for limit, _ in groups)]
    frees = [facts.get("MemAvailable"), *(max(0, limit - used) for limit, used in groups)]
    return Memory(_least(totals), _least(frees))


def _cpu_shares(root: Path) -> Iterator[float]:
    """Time granted per time passed, in each control group around this process that limits it."""
    for folder in _control_groups("cpu", root):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if not period:  # version 1 keeps them apart
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.strip().isdigit() and period.strip().isdigit():
            yield int(quota) / int(period)


def _memory_groups(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) of each control group around this process; files that are only cached do not count as used."""
    for folder in _control_groups("memory", root):
        limit = _number(folder, "memory.max", "memory.limit_in_bytes")
        used = _number(folder, "memory.current", "memory.usage_in_bytes")
        if limit is not None and used is not None:
            stat = dict(entry.split() for entry in _read(folder / "memory.stat").splitlines())
            yield limit, used - int(stat.get("total_inactive_file") or stat.get("inactive_file") or 0)


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's control group and of those around it, in versions 1 and 2."""
    mounted = root / "sys/fs/cgroup"
    for entry in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = entry.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = mounted / controller if controllers else mounted
        here = PurePosixPath(path)
        yield from (base / group.relative_to("/") for group in (here, *here.parents))


def _number(folder: Path, *names: str) -> int | None:
    texts = (_read(folder / name).strip() for name in names)
    return next((int(text) for text in texts if text.isdigit()), None)


def _colon_pairs(text: str) -> Iterator[tuple[str, str]]:
    """("MemTotal", "24684084 kB") of each line `MemTotal: 24684084 kB`."""
    for entry in text.splitlines():
        key, colon, value = entry.partition(":")
        if colon and value.strip():
            yield key.strip(), value.strip()


def _read(path: Path) -> str:
    """The file's text; nothing where this system has no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _least(amounts: list[int | None]) -> int | None:
    return min((amount for amount in amounts if amount is not None), default=None)


def _physical_memory() -> int | None:
    """The memory of a machine without /proc: macOS tells, Windows does not."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _named_by_system() -> str:
    """The processor's name on a machine without /proc."""
    if platform.system() != "Darwin":
        return platform.processor()
    asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def peak_memory() -> int:
    """The most memory that this process has held, in bytes, since `forget_peak` where the system knows that."""
    if peak := dict(_colon_pairs(_read(_ROOT / "proc/self/status"))).get("VmHWM"):
        return int(peak.split()[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else most * 1024


def forget_peak() -> None:
    """From here on `peak_memory` is of what is held now and later: on Linux; elsewhere it stays the process's."""
    with suppress(OSError):
        (_ROOT / "proc/self/clear_refs").write_text("5", encoding="ascii")
