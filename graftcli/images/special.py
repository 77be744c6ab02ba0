"""Find virtual file systems such as /proc, /sys and /dev, which hold no images and may have endless files."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

_KINDS = {
    # kernel state
    *("proc", "procfs", "linprocfs", "sysfs", "linsysfs", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs"),
    *("configfs", "pstore", "bpf", "efivarfs", "selinuxfs", "smackfs", "resctrl", "xenfs", "openpromfs", "usbfs"),
    # devices and kernel interfaces
    *("devfs", "devtmpfs", "devpts", "fdescfs", "fusectl", "mqueue", "hugetlbfs", "binfmt_misc", "rpc_pipefs"),
    *("nfsd", "nsfs", "functionfs"),
}
_USUAL = ("proc", "sys", "dev")  # under the root; checked even without a mount table, as on macOS
_ESCAPED = re.compile(r"\\([0-7]{3})")


def special_devices(root: Path = Path("/")) -> dict[int, str]:
    """Map the device number (`st_dev`) of each mounted virtual file system to its kind."""
    kinds = {point: kind for point, kind in _mounts(root) if kind in _KINDS}
    usual = {str(root / name): name for name in _USUAL if (root / name).is_mount()}
    devices = {_device(point): kind for point, kind in (usual | kinds).items()}
    devices.pop(_device(str(root)), None)
    return {device: kind for device, kind in devices.items() if device is not None}


def _mounts(root: Path) -> Iterator[tuple[str, str]]:
    """(mount point, kind) of each mount; later entries shadow earlier ones."""
    try:
        table = (root / "proc/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    for line in table.splitlines():
        if len(parts := line.split(" ")) > 2:
            yield _ESCAPED.sub(lambda match: chr(int(match[1], 8)), parts[1]), parts[2]


def _device(point: str) -> int | None:
    try:
        return os.stat(point).st_dev  # noqa: PTH116 - a path as the kernel writes it
    except OSError:
        return None
