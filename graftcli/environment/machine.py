"""The CPU and memory available to this process, within the limits of its control group."""

import os
import platform
import resource
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ROOT = Path("/")

# instruction sets that determine the speed of float32, bfloat16 and int8 networks
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
    """`cores` are those available to this process."""

    name: str
    cores: int
    features: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """In bytes; None if unknown. `free` is what can be allocated without swapping."""

    total: int | None
    free: int | None


def cpu(root: Path = _ROOT) -> Cpu:
    """The CPU available to this process."""
    facts = dict(_colon_pairs(_read(root / "proc/cpuinfo")))
    flags = (facts.get("flags") or facts.get("Features", "")).split()
    return Cpu(
        name=facts.get("model name") or _system_cpu_name() or platform.machine(),
        cores=usable_cores(root),
        features=tuple(name for name in _FEATURES if name in flags),
    )


def usable_cores(root: Path = _ROOT) -> int:
    """The cores that this process may use, within its affinity and CPU quota; at least 1."""
    # not every system has affinities
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _cpu_quotas(root))]))


def memory(root: Path = _ROOT) -> Memory:
    """The memory of the machine, or of its control group if that is less."""
    facts = {key: int(text.split()[0]) * 1024 for key, text in _colon_pairs(_read(root / "proc/meminfo"))}
    groups = list(_memory_groups(root))
    totals = [facts.get("MemTotal") or _physical_memory(), *(limit for limit, _ in groups)]
    frees = [facts.get("MemAvailable"), *(max(0, limit - used) for limit, used in groups)]
    return Memory(_min_known(totals), _min_known(frees))


def _cpu_quotas(root: Path) -> Iterator[float]:
    """The quota in CPUs of each control group that limits this process."""
    for folder in _control_groups("cpu", root):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if not period:  # version 1 has two files
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.strip().isdigit() and period.strip().isdigit():
            yield int(quota) / int(period)


def _memory_groups(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) of each control group that limits this process; inactive page cache does not count as used."""
    for folder in _control_groups("memory", root):
        limit = _number(folder, "memory.max", "memory.limit_in_bytes")
        used = _number(folder, "memory.current", "memory.usage_in_bytes")
        if limit is not None and used is not None:
            stat = dict(entry.split() for entry in _read(folder / "memory.stat").splitlines())
            yield limit, used - int(stat.get("total_inactive_file") or stat.get("inactive_file") or 0)


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of the control group of this process and of its parents, in versions 1 and 2."""
    mounted = root / "sys/fs/cgroup"
    for entry in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = entry.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = mounted / controller if controllers else mounted
        own = PurePosixPath(path)
        yield from (base / group.relative_to("/") for group in (own, *own.parents))


def _number(folder: Path, *names: str) -> int | None:
    texts = (_read(folder / name).strip() for name in names)
    return next((int(text) for text in texts if text.isdigit()), None)


def _colon_pairs(text: str) -> Iterator[tuple[str, str]]:
    """Yield ("MemTotal", "24684084 kB") for the line `MemTotal: 24684084 kB`."""
    for entry in text.splitlines():
        key, colon, value = entry.partition(":")
        if colon and value.strip():
            yield key.strip(), value.strip()


def _read(path: Path) -> str:
    """The text of the file; empty if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _min_known(amounts: list[int | None]) -> int | None:
    return min((amount for amount in amounts if amount is not None), default=None)


def _physical_memory() -> int | None:
    """The memory of a machine without /proc; None on Windows."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _system_cpu_name() -> str:
    """The CPU name on a machine without /proc."""
    if platform.system() != "Darwin":
        return platform.processor()
    result = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
    return result.stdout.strip()


def peak_memory() -> int:
    """The peak memory of this process in bytes, since `reset_peak_memory` where the system supports that."""
    if peak := dict(_colon_pairs(_read(_ROOT / "proc/self/status"))).get("VmHWM"):
        return int(peak.split()[0]) * 1024
    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_rss if platform.system() == "Darwin" else peak_rss * 1024


def reset_peak_memory() -> None:
    """Restart `peak_memory` from the current memory, on Linux; elsewhere this has no effect."""
    with suppress(OSError):
        (_ROOT / "proc/self/clear_refs").write_text("5", encoding="ascii")
