"""File systems that the kernel makes up, as /proc, /sys and /dev: they hold no images, and some files never end."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

_KINDS = {
    # of the kernel's state
    *("proc", "procfs", "linprocfs", "sysfs", "linsysfs", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs"),
    *("configfs", "pstore", "bpf", "efivarfs", "selinuxfs", "smackfs", "resctrl", "xenfs", "openpromfs", "usbfs"),
    # of devices and of channels to the kernel
    *("devfs", "devtmpfs", "devpts", "fdescfs", "fusectl", "mqueue", "hugetlbfs", "binfmt_misc", "rpc_pipefs"),
    *("nfsd", "nsfs", "functionfs"),
}
_USUAL = ("proc", "sys", "dev")  # below the root; also where no table of mounts is found, as on macOS
_ESCAPED = re.compile(r"\\([0-7]{3})")


def special_devices(root: Path = Path("/")) -> dict[int, str]:
    """Device number (`st_dev`) -> kind, of each special file system that is mounted."""
    kinds = {point: kind for point, kind in _mounts(root) if kind in _KINDS}
    usual = {str(root / name): name for name in _USUAL if (root / name).is_mount()}
    found = {_device(point): kind for point, kind in (usual | kinds).items()}
    found.pop(_device(str(root)), None)
    found.pop(None, None)
    return {device: kind for device, kind in found.items() if device is not None}


def _mounts(root: Path) -> Iterator[tuple[str, str]]:
    """(where, kind) of each mount, later ones after those that they cover."""
    try:
        table = (root / "proc/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    for line in table.splitlines():
        if len(parts := line.split(" ")) > 2:
            yield _ESCAPED.sub(lambda match: chr(int(match[1], 8)), parts[1]), parts[2]


def _device(point: str) -> int | None:
    try:
        return os.stat(point).st_dev  # noqa: PTH116 - a name as the kernel writes it
    except OSError:
        return None
