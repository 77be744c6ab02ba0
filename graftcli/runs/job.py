"""What the processes of a job do together before a run starts: prepare it, and compare what they have prepared."""

from pathlib import Path

from graftcli.distributed.world import World
from graftcli.errors import MachineError, few
from graftcli.events import Listener
from graftcli.graft.training.stages import check_batches
from graftcli.runs.config import RunConfig
from graftcli.runs.prepare import PreparedRun, prepare_run
from graftcli.runs.run_images import pixel_place
from graftcli.runs.run_settings import run_settings


def prepare_together(
    config: RunConfig, blocks: str | None, pixel_folder: Path, world: World, listen: Listener
) -> PreparedRun:
    """Prepare a run in the first process and then in the others; raise unless all have prepared the same run."""
    place = pixel_place(pixel_folder, config.how, world)

    def prepare() -> PreparedRun:
        prepared = prepare_run(config, blocks, listen, place)
        check_batches(prepared.schedule, world)
        return prepared

    prepared = world.in_turn(prepare)
    if world.size > 1:
        _check_equal(prepared, world)
    return prepared


def _check_equal(prepared: PreparedRun, world: World) -> None:
    """Raise if a process sees other files or another kind of device than the first: it would wait for ever."""
    facts = {**run_settings(prepared).model_dump(), "device": prepared.device.type}
    first = world.broadcast(facts)

    def compare() -> None:
        if different := [name for name, value in facts.items() if value != first[name]]:
            found = f"this process and the first one have prepared different runs: they differ in {few(different)}."
            raise MachineError(found, "Give all machines the same images, networks, packages and devices.")

    world.together(compare)
