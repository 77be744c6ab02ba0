"""What is installed, and whether it works: the broken installs that are known, each with the line that mends it."""

import importlib.util
import itertools
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType

from graftcli import __version__

# how pip calls each package that graftcli needs, and how Python does
_PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "safetensors": "safetensors",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "torch-pruning": "torch_pruning",
    "numpy": "numpy",
    "pillow": "PIL",
    "pydantic": "pydantic",
    "typer": "typer",
    "rich": "rich",
    "PyYAML": "yaml",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
}
# each imports those before it, so that only the first broken one of a row is at fault
_ROWS = (
    ("numpy", "torch", "torchvision", "timm", "torch-pruning"),
    ("onnx", "onnxscript"),
    ("onnxruntime",),
    ("safetensors",),
    ("pillow",),
    ("pydantic",),
    ("PyYAML",),
    ("jinja2",),
    ("matplotlib",),
)
_REINSTALL = "python3 -m pip install --upgrade --force-reinstall"
_BOTH = f"{_REINSTALL} torch torchvision"  # built for each other, so always installed together
_OTHER_BUILD = "the line for this system stands on pytorch.org under Get Started"


@dataclass(frozen=True)
class InstallFault:
    """A broken install: what was found, with versions, and what to do about it."""

    found: str
    mend: str


def versions() -> dict[str, str | None]:
    """The installed version of Python, graftcli and all it needs, read without importing any; None where missing."""
    return {
        "python": platform.python_version(),
        "graftcli": __version__,
        **{package: _version(package) for package in _PACKAGES},
    }


def faults() -> tuple[InstallFault, ...]:
    """Every fault found by importing and using what graftcli needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a healthy package may warn about itself
        missing = [package for package, module in _PACKAGES.items() if importlib.util.find_spec(module) is None]
        broken = [fault for row in _ROWS if (fault := _first_broken(row, missing))]
        return (*([_absent(missing)] if missing else []), *broken, *_torch_faults())


def explain(problem: BaseException) -> InstallFault | None:
    """The known broken install behind an exception, wherever it was met."""
    text = str(problem)
    if "operator torchvision::" in text or "Couldn't load custom C++ ops" in text:
        return _misfit(_first_line(problem))
    if "Numpy is not available" in text:
        return InstallFault(
            f"torch {_version('torch')} was built for another numpy than {_version('numpy')}: {_first_line(problem)}.",
            _BOTH,
        )
    packages = [package for package, module in _PACKAGES.items() if module == getattr(problem, "name", None)]
    return _absent(packages) if packages and isinstance(problem, ModuleNotFoundError) else None


def _first_broken(row: tuple[str, ...], missing: list[str]) -> InstallFault | None:
    """The fault of the first package of a row that breaks although it and those before it are there."""
    there = itertools.takewhile(lambda package: package not in missing, row)
    return next((fault for package in there if (fault := _import_fault(package))), None)


def _import_fault(package: str) -> InstallFault | None:
    try:
        importlib.import_module(_PACKAGES[package])
    except Exception as problem:  # a broken install raises whatever it likes
        return explain(problem) or _unusable(package, f"{type(problem).__name__}: {_first_line(problem)}")
    return None


def _absent(packages: list[str]) -> InstallFault:
    verb = "is" if len(packages) == 1 else "are"
    return InstallFault(f"{', '.join(packages)} {verb} not installed.", f"python3 -m pip install {' '.join(packages)}")


def _unusable(package: str, says: str) -> InstallFault:
    if package == "torchvision":
        return _misfit(says)
    mend = _BOTH if package == "torch" else f"{_REINSTALL} {package}"
    return InstallFault(f"{package} {_version(package)} cannot be imported: {says}", mend)


def _misfit(says: str) -> InstallFault:
    return InstallFault(
        f"torchvision {_version('torchvision')} does not fit torch {_version('torch')}: {says.rstrip('.')}.",
        _BOTH,
    )


def _torch_faults() -> Iterator[InstallFault]:
    """The faults of a torch that can be imported."""
    try:
        import torch
    except Exception:  # already among the faults
        return
    for check in (_numpy_fault, _operator_fault, _gpu_fault):
        if fault := check(torch):
            yield fault


def _numpy_fault(torch: ModuleType) -> InstallFault | None:
    try:
        torch.zeros(1).numpy()
    except RuntimeError as problem:
        return explain(problem)
    return None


def _operator_fault(torch: ModuleType) -> InstallFault | None:
    """A compiled part of torchvision that was left out without a word because it does not fit."""
    if "torchvision" in sys.modules and not hasattr(torch.ops.torchvision, "nms"):
        return _misfit("operator torchvision::nms does not exist")
    return None


def _gpu_fault(torch: ModuleType) -> InstallFault | None:
    """A GPU that torch cannot compute on. One that was hidden on purpose is none."""
    if torch.cuda.is_available():
        return _kernel_fault(torch)
    gpus = [] if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") else _nvidia_gpus()
    if not gpus:
        return None
    if torch.version.cuda is None:
        return InstallFault(
            f"torch {_version('torch')} is a build for the CPU alone, beside {', '.join(gpus)}.",
            f"{_BOTH}\n(where that brings the same build again, {_OTHER_BUILD})",
        )
    return InstallFault(
        f"torch {_version('torch')}, built for CUDA {torch.version.cuda}, cannot reach {', '.join(gpus)}.",
        f"Update the NVIDIA driver, or install a torch for an older CUDA: {_OTHER_BUILD}.",
    )


def _kernel_fault(torch: ModuleType) -> InstallFault | None:
    """A GPU that is seen but that this build does not know, or that does not answer. A full one is no fault."""
    try:
        torch.zeros(1, device="cuda").add_(1).item()
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as problem:
        unknown = "no kernel image" in str(problem)
        return InstallFault(
            f"torch {_version('torch')}, built for CUDA {torch.version.cuda}, cannot compute on "
            f"{torch.cuda.get_device_name()}: {_first_line(problem)}",
            f"Install a torch that knows this GPU: {_OTHER_BUILD}."
            if unknown
            else "See what nvidia-smi says: another program may hold the GPU, or its driver may need a restart.",
        )
    return None


def _nvidia_gpus() -> list[str]:
    """The NVIDIA GPUs of this machine by their driver's own word."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        asked = subprocess.run([command, "-L"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.SubprocessError):  # it is no program, or its driver hangs: it names no GPU
        return []
    return [entry.partition(" (UUID")[0] for entry in asked.stdout.splitlines() if entry.startswith("GPU ")]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().partition("\n")[0]
