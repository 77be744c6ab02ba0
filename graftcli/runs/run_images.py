"""The images of a run: a selection if `--max-images` is given, decoded into memory or into a file."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from graftcli.distributed.world import World
from graftcli.environment.devices import device_named
from graftcli.environment.machine import memory
from graftcli.errors import ImagesError
from graftcli.events import ImagesDecoded, Listener, Warned
from graftcli.graft.engine import weights_digest
from graftcli.images import Images
from graftcli.images.loading import load_opened
from graftcli.images.pixels import Preprocess
from graftcli.images.sources import SourceFiles, open_source
from graftcli.models.network import Network
from graftcli.runs.config import RunConfig, TrainOptions
from graftcli.runs.image_check import throttled
from graftcli.runs.selection import SelectOptions, remembered, select
from graftcli.store.pixel_decoding import DecodeOptions
from graftcli.store.pixel_process import state_of
from graftcli.store.pixel_store import pixel_bytes, stored_images

_UNKNOWN_ROOM = 2**32  # bytes of memory for images if the free memory is unknown
_SELECTED = "pixels-chosen.selected"  # stores the selection, so that a resumed run does not repeat the teacher pass


@dataclass(frozen=True)
class PixelPlace:
    """Where a run keeps its decoded images: in memory if they fit in `room` bytes, else in files in `folder`."""

    folder: Path
    room: float


def pixel_place(folder: Path, options: TrainOptions, world: World) -> PixelPlace:
    """Return where all processes of a job keep the images: the first one measures the memory that they share."""
    return PixelPlace(folder, world.of_first(lambda: _room(options, world.local_size)))


def training_images(
    config: RunConfig, teacher: Network, preprocess: Preprocess, listen: Listener, place: PixelPlace | None = None
) -> Images:
    """Decode the training images of a run; with `max_images`, those that the teacher selects."""

    def selected(opened: SourceFiles) -> SourceFiles:
        return _selected(opened, config.how, teacher, preprocess, listen, place)

    return images_of(config.images, preprocess, config.how, listen, place, selected)


def forget_selection(pixel_folder: Path) -> None:
    """Remove the stored selection of a finished run."""
    with suppress(OSError):
        (pixel_folder / _SELECTED).unlink()
        pixel_folder.rmdir()


def images_of(
    source: str,
    preprocess: Preprocess,
    options: TrainOptions,
    listen: Listener,
    place: PixelPlace | None = None,
    choose: Callable[[SourceFiles], SourceFiles] = lambda opened: opened,
) -> Images:
    """Decode the images of a source; corrupt files are skipped with a warning.

    They are kept in memory, or in files if they do not fit in the room of `place`.
    """

    def on_progress(done: int, total: int) -> None:
        listen(ImagesDecoded(done, total))

    def warn(text: str) -> None:
        listen(Warned(text))

    strict, jobs = options.strict, options.jobs
    with open_source(source) as opened:
        opened = choose(opened)
        if place is not None and pixel_bytes(len(opened.entries), preprocess) > place.room:
            decoding = DecodeOptions(jobs, strict=strict, on_progress=on_progress, warn=warn)
            images = stored_images(place.folder, source, opened, preprocess, decoding)
        else:
            images = load_opened(source, opened, preprocess, strict=strict, jobs=jobs, on_progress=on_progress)
    for broken in images.broken:
        listen(Warned(f"skipped {broken.name}: {broken.reason}"))
    return images


def _room(options: TrainOptions, processes: int) -> float:
    """Return the bytes of memory for the decoded images of each of the processes on this machine."""
    if options.images_gb is not None:
        return options.images_gb * 1e9
    return (memory().free or 2 * _UNKNOWN_ROOM) / 2 / processes


def _selected(
    opened: SourceFiles,
    options: TrainOptions,
    teacher: Network,
    preprocess: Preprocess,
    listen: Listener,
    place: PixelPlace | None,
) -> SourceFiles:
    """Select `max_images` of the images, or return the selection that an earlier session made."""
    if options.max_images is None or len(opened.entries) <= options.max_images:
        return opened
    how = SelectOptions(
        options.select,
        options.max_images,
        options.seed,
        jobs=options.jobs,
        device=device_named(options.device),
        on_progress=throttled(listen),
    )

    def make() -> tuple[int, ...]:
        found = select(opened, teacher, preprocess, how, None)
        teacher.module.to("cpu")
        if options.strict and found.broken:
            listed = "\n".join(f"  {one.name}: {one.reason}" for one in found.broken)
            raise ImagesError(f"{len(found.broken)} images cannot be read:\n{listed}", "Fix or remove them.")
        for one in found.broken:
            listen(Warned(f"skipped {one.name}: {one.reason}"))
        return found.indices

    if place is None:
        return opened.chosen(make())
    facts = [state_of(opened.entries), repr(preprocess), weights_digest(teacher.module), how.by, how.count, how.seed]
    return opened.chosen(remembered(place.folder / _SELECTED, facts, make))
