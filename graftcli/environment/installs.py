"""Check that the required packages are installed and work; every known fault comes with its fix."""

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

# distribution name -> import name of each required package
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
# each package imports those before it, so only the first broken one of a chain is at fault
_CHAINS = (
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
_BOTH = f"{_REINSTALL} torch torchvision"  # their versions must match, so they are installed together
_OTHER_BUILD = "pytorch.org lists the command for this system under Get Started"


@dataclass(frozen=True)
class InstallFault:
    """A broken install: the problem, with versions, and its fix."""

    found: str
    fix: str


def versions() -> dict[str, str | None]:
    """The versions of Python, graftcli and all required packages, without importing them; None if missing."""
    return {
        "python": platform.python_version(),
        "graftcli": __version__,
        **{package: _version(package) for package in _PACKAGES},
    }


def faults() -> tuple[InstallFault, ...]:
    """Find faults by importing and using all required packages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # working packages may warn too
        missing = [package for package, module in _PACKAGES.items() if importlib.util.find_spec(module) is None]
        broken = [fault for chain in _CHAINS if (fault := _first_broken(chain, missing))]
        return (*([_missing_fault(missing)] if missing else []), *broken, *_torch_faults())


def explain(error: BaseException) -> InstallFault | None:
    """The known broken install that an exception is due to, if any."""
    text = str(error)
    if "operator torchvision::" in text or "Couldn't load custom C++ ops" in text:
        return _torchvision_fault(_first_line(error))
    if "Numpy is not available" in text:
        return InstallFault(
            f"torch {_version('torch')} is not built for numpy {_version('numpy')}: {_first_line(error)}.",
            _BOTH,
        )
    packages = [package for package, module in _PACKAGES.items() if module == getattr(error, "name", None)]
    return _missing_fault(packages) if packages and isinstance(error, ModuleNotFoundError) else None


def _first_broken(chain: tuple[str, ...], missing: list[str]) -> InstallFault | None:
    """The fault of the first broken package of a chain, up to the first missing one."""
    installed = itertools.takewhile(lambda package: package not in missing, chain)
    return next((fault for package in installed if (fault := _import_fault(package))), None)


def _import_fault(package: str) -> InstallFault | None:
    try:
        importlib.import_module(_PACKAGES[package])
    except Exception as error:  # a broken install can raise anything
        return explain(error) or _broken_fault(package, f"{type(error).__name__}: {_first_line(error)}")
    return None


def _missing_fault(packages: list[str]) -> InstallFault:
    verb = "is" if len(packages) == 1 else "are"
    return InstallFault(f"{', '.join(packages)} {verb} not installed.", f"python3 -m pip install {' '.join(packages)}")


def _broken_fault(package: str, reason: str) -> InstallFault:
    if package == "torchvision":
        return _torchvision_fault(reason)
    fix = _BOTH if package == "torch" else f"{_REINSTALL} {package}"
    return InstallFault(f"{package} {_version(package)} cannot be imported: {reason}", fix)


def _torchvision_fault(reason: str) -> InstallFault:
    message = f"torchvision {_version('torchvision')} is not compatible with torch {_version('torch')}"
    return InstallFault(f"{message}: {reason.rstrip('.')}.", _BOTH)


def _torch_faults() -> Iterator[InstallFault]:
    """The faults of torch beyond its import."""
    try:
        import torch
    except Exception:  # already reported
        return
    for check in (_numpy_fault, _operator_fault, _gpu_fault):
        if fault := check(torch):
            yield fault


def _numpy_fault(torch: ModuleType) -> InstallFault | None:
    try:
        torch.zeros(1).numpy()
    except RuntimeError as error:
        return explain(error)
    return None


def _operator_fault(torch: ModuleType) -> InstallFault | None:
    """Compiled operators that torchvision skipped silently because they do not match torch."""
    if "torchvision" in sys.modules and not hasattr(torch.ops.torchvision, "nms"):
        return _torchvision_fault("operator torchvision::nms does not exist")
    return None


def _gpu_fault(torch: ModuleType) -> InstallFault | None:
    """A GPU that torch cannot use, unless it is hidden with CUDA_VISIBLE_DEVICES."""
    if torch.cuda.is_available():
        return _kernel_fault(torch)
    gpus = [] if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") else _nvidia_gpus()
    if not gpus:
        return None
    if torch.version.cuda is None:
        return InstallFault(
            f"torch {_version('torch')} is a CPU-only build, but this machine has {', '.join(gpus)}.",
            f"{_BOTH}\n(if that installs the same build, {_OTHER_BUILD})",
        )
    return InstallFault(
        f"torch {_version('torch')}, built for CUDA {torch.version.cuda}, cannot reach {', '.join(gpus)}.",
        f"Update the NVIDIA driver, or install torch for an older CUDA: {_OTHER_BUILD}.",
    )


def _kernel_fault(torch: ModuleType) -> InstallFault | None:
    """A visible GPU that this build does not support, or that does not respond. A full GPU is not a fault."""
    try:
        torch.zeros(1, device="cuda").add_(1).item()
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as error:
        unsupported = "no kernel image" in str(error)
        return InstallFault(
            f"torch {_version('torch')}, built for CUDA {torch.version.cuda}, cannot compute on "
            f"{torch.cuda.get_device_name()}: {_first_line(error)}",
            f"Install a torch that supports this GPU: {_OTHER_BUILD}."
            if unsupported
            else "Check nvidia-smi: another program may hold the GPU, or its driver may need a restart.",
        )
    return None


def _nvidia_gpus() -> list[str]:
    """The NVIDIA GPUs that nvidia-smi lists."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        result = subprocess.run([command, "-L"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.SubprocessError):  # not executable, or its driver hangs
        return []
    return [entry.partition(" (UUID")[0] for entry in result.stdout.splitlines() if entry.startswith("GPU ")]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
