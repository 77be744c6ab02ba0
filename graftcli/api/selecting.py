"""`graftcli.select_images`: select the most useful images of a large collection."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from torch import nn

from graftcli.environment.devices import device_named
from graftcli.errors import UsageError
from graftcli.events import FileSaved, Listener, Warned
from graftcli.images.coverage import Coverage
from graftcli.images.file_formats import suffix_of
from graftcli.images.selection import method_named
from graftcli.images.sources import SourceFiles, open_source
from graftcli.images.sources.list_file import list_json
from graftcli.images.sources.place import is_url, source_text
from graftcli.models.loading.in_memory import spec_of
from graftcli.models.network import Network
from graftcli.runs.image_check import build_teacher, preprocess_of_size, throttled
from graftcli.runs.input_size import built_for_images
from graftcli.runs.scoring import build_options, preprocess_for, preprocess_options
from graftcli.runs.selection import SelectOptions, select
from graftcli.store.atomic import plain, write_bytes, write_json

_LIST = ".list"
_ANY_SIZE = (64, 64)  # used without a teacher, when images are decoded only to find corrupt files


@dataclass(frozen=True)
class Selection:
    """Which images were selected, and how the coverage of the teacher's classes changed."""

    source: str
    by: str
    images: int  # readable images in the source
    broken: tuple[str, ...]
    names: tuple[str, ...]  # of the selected images, the most useful first
    before: Coverage | None  # of all images; None if the method needs no teacher
    after: Coverage | None  # of the selected images
    out: str | None  # the folder or list that was written


def select_images(
    images: str | Path,
    max: int,
    *,
    by: str = "balanced",
    teacher: str | nn.Module | None = None,
    teacher_checkpoint: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    seed: int = 0,
    classes: str | Path | None = None,
    batch: int = 128,
    jobs: int | None = None,
    device: str = "auto",
    img_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    ema: bool | None = None,
    unsafe_load: bool = False,
    trust_code: bool = False,
    listen: Listener = lambda _: None,
) -> Selection:
    """Select the most useful images for a distillation from a large collection.

    Works for any number of images: each is read once, and a bounded number of candidates is kept in memory. Labels are
    never read. Exact duplicates are left out, and so are near duplicates if there are enough other images.

    Parameters:
        images: A folder, .zip, .tar, .parquet, .arrow or .list, many of them, or a URL.
        max: How many images to select.
        by: ``"balanced"``: equally many images of each class that the teacher predicts; ``"diverse"``: images that
            best represent all others in the teacher's feature space; ``"random"``: random images; needs no teacher.
        teacher: Network that predicts the classes and computes the features, as for `distill`.
        teacher_checkpoint: Weights file of the teacher.
        out: A folder, to which the images are copied under names that do not reveal their class, or a .list file that
            lists them and can be used as a source of images. Default: nothing is written.
        overwrite: Replace the list, or add to a folder that holds files.
        seed: Random seed for the choice between equally good images.
        classes: File with the class names in order.
        batch: Images per batch.
        jobs: Threads that decode images. Default: one per core, at most 16.
        device: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
        img_size: Input size. Default: the network's, else that of all images.
        mean: Per-channel mean of the input. Default: the network's.
        std: Per-channel standard deviation of the input. Default: the network's.
        crop_pct: Share of the image that the centre crop keeps. Default: the network's.
        interpolation: Resampling of the resize, such as ``"bicubic"``. Default: the network's.
        num_classes: Number of classes. Default: from the weights, else from the network.
        in_chans: Number of input channels. Default: from the weights, else from the network.
        ema: Take the averaged weights of a checkpoint (True) or the raw ones (False). Default: averaged if present.
        unsafe_load: Unpickle checkpoints that hold more than tensors; this runs code from the file.
        trust_code: Run Python files that a saved network names, even if they changed.
        listen: Called with every event; see ``graftcli.events``.

    Returns:
        The names of the selected images, and the coverage of the teacher's classes before and after.

    Raises:
        UsageError: The method is unknown, needs a teacher, or `out` exists.
        ImagesError: The images are missing or cannot be read.
        CheckpointError: A weights file is missing, damaged or of another network.

    Example:
        >>> graftcli.select_images("val", 4, teacher="resnet34", out="chosen.list").after  # doctest: +SKIP
    """
    method, target = method_named(by), Path(out) if out is not None else None
    if max < 2:
        raise UsageError(f"--max is {max}; at least two images are needed.", "Give a larger number.")
    if method.needs_teacher and teacher is None:
        fix = "Give one with --teacher, or select with --by random."
        raise UsageError(f"--by {by} needs a teacher to predict classes or compute features.", fix)
    if target is not None and not overwrite:
        _check_free(target)
    look = preprocess_options(img_size, mean, std, crop_pct, interpolation)
    network: Network | None = None
    if teacher is not None and method.needs_teacher:
        build_args = build_options(num_classes, in_chans, ema, unsafe_load, trust_code)
        build_sized = partial(build_teacher, spec_of(teacher), teacher_checkpoint, look, build_args)
        network = built_for_images(build_sized, images, listen, jobs=jobs)
    known = preprocess_of_size(look if look.img_size else replace(look, img_size=_ANY_SIZE))
    preprocess = preprocess_for(network, look) if network is not None else known
    assert preprocess is not None  # a size is given
    options = SelectOptions(by, max, seed, batch, jobs, device_named(device), throttled(listen))
    names_file = Path(classes) if classes is not None else None
    with open_source(images) as opened:
        selected = select(opened, network, preprocess, options, names_file)
        names = tuple(opened.entries[index].name for index in selected.indices)
        if target is not None:
            _write(target, images, opened, selected.indices)
            listen(FileSaved(str(target)))
    for image in selected.broken:
        listen(Warned(f"skipped {image.name}: {image.reason}"))
    broken = tuple(f"{image.name}: {image.reason}" for image in selected.broken)
    written = str(target) if target is not None else None
    return Selection(source_text(images), by, selected.images, broken, names, selected.before, selected.after, written)


def _check_free(target: Path) -> None:
    if target.suffix.lower() == _LIST and target.exists():
        raise UsageError(f"`{target}` exists.", "Name another file with --out, or replace it with --overwrite.")
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(f"`{target}` is not empty.", "Name another folder with --out, or add --overwrite.")


def _write(target: Path, source: str | Path, opened: SourceFiles, indices: Sequence[int]) -> None:
    """Write a list of the images, or copies of them in a folder."""
    if target.suffix.lower() == _LIST:
        text = source_text(source)
        if not is_url(text):
            text = os.path.relpath(Path(text).expanduser(), target.absolute().parent)
        write_json(target, list_json(text, [opened.entries[index].name for index in indices]))
        return
    for index in sorted(indices):
        data = opened.entries[index].read()
        write_bytes(target / f"{sha256(data).hexdigest()[:24]}{suffix_of(data)}", data)


def selection_json(selection: Selection) -> dict[str, object]:
    """The selection as JSON, as with `--json`."""
    document: dict[str, object] = plain(asdict(selection))
    return document
