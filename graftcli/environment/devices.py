"""Devices: `--device auto | cpu | cuda | cuda:1 | mps`, their memory and their precision."""

import torch

from graftcli.errors import UsageError


def device_named(name: str) -> torch.device:
    """The device with this name; `auto` is the first GPU, else the CPU."""
    if name == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name} is unknown.", "Give auto, cpu, cuda, cuda:1 or mps.") from error
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(
        device.type, 0
    )
    if (device.index or 0) >= count:
        raise UsageError(
            f"--device {name} is not available: this machine has {count} {device.type} devices.",
            "Give --device auto or cpu; `graftcli env` lists the devices.",
        )
    return device


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is the precision to train in by default: on CUDA devices with hardware support for it."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def free_memory(device: torch.device) -> int:
    """The free memory of an accelerator in bytes; 0 if torch does not report it, as on a CPU."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0
