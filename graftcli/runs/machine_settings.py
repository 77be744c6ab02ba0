"""The settings of a run that depend on the machine, and those of the engine."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from graftcli.distributed.world import SINGLE, World
from graftcli.environment.devices import free_memory
from graftcli.environment.machine import memory, usable_cores
from graftcli.graft.backend.precision import Precision
from graftcli.graft.settings import EngineSettings
from graftcli.runs.config import TrainOptions
from graftcli.runs.prepare import PreparedRun
from graftcli.store.run_record import FixedSettings

# bytes of RAM for cached teacher features; more are written to disk, where the page cache still speeds up reading
_MEMORY_FIRST_BYTES = 2**29


def engine_settings(prepared: PreparedRun, fixed: FixedSettings, world: World = SINGLE) -> EngineSettings:
    """Return the settings of the engine; `fixed` are those that were fixed when the run started."""
    options = prepared.config.how
    precision = Precision(torch.device(fixed.device), prepared.amp, options.compile)
    settings = engine_settings_of(options, fixed, precision)
    return replace(settings, world=world, blocks=prepared.blocks)


def on_device(fixed: FixedSettings, device: torch.device) -> FixedSettings:
    """Return the settings for a process with this device; a run stays on the kind of device on which it started."""
    is_same_kind = device.type == torch.device(fixed.device).type
    return fixed.model_copy(update={"device": str(device)}) if is_same_kind else fixed


def engine_settings_of(how: TrainOptions, fixed: FixedSettings, precision: Precision) -> EngineSettings:
    """Return the settings of the engine for all blocks, in one process."""
    return EngineSettings(
        seed=how.seed,
        precision=precision,
        memory=fixed.memory,
        device_memory=fixed.device_memory,
        disk=fixed.disk,
        memory_first=fixed.at_once,
    )


def fixed_settings(prepared: PreparedRun, folder: Path, world: World = SINGLE) -> FixedSettings:
    """Return the settings that depend on the machine; they are stored, so that a resumed run has the same.

    The processes on one machine share its cores, memory and disk.
    """
    pixels = 0 if prepared.train.store else prepared.train.pixels.numel()
    return machine_settings(prepared.config.how, prepared.device, folder, pixels, world)


def machine_settings(
    how: TrainOptions, device: torch.device, folder: Path, pixels: int, world: World = SINGLE
) -> FixedSettings:
    """Divide memory, disk and cores for a run whose images take `pixels` bytes of memory."""
    budget = int(how.cache_gb * 1e9) if how.cache_gb is not None else (memory().free or 2**32) // 4
    return FixedSettings(
        memory=max(0, budget // world.local_size - pixels),
        device_memory=int(how.device_cache_gb * 1e9) if how.device_cache_gb is not None else free_memory(device) // 2,
        disk=shutil.disk_usage(folder).free // 2 // world.local_size,
        at_once=_MEMORY_FIRST_BYTES if how.cache_gb is None else None,
        threads=max(1, usable_cores() // world.local_size),
        device=str(device),
    )
