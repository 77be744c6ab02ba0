"""`export`: a run, a file or a model spec -> one file for other tools, checked on real images."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graftcli import images as pictures
from graftcli.errors import UsageError
from graftcli.events import FileSaved, ImagesDecoded, Listener, Warned
from graftcli.formats.options import Exported, ExportOptions, ExportSource, about
from graftcli.formats.parity import MOST_IMAGES, check, examine
from graftcli.formats.write import exported, write
from graftcli.images.labels import class_names
from graftcli.images.pixels import Preprocess
from graftcli.models.loading.model_spec import output_of
from graftcli.models.loading.saved import read_document
from graftcli.runs.config import asked_of
from graftcli.runs.loading import load, network_of, spec_of
from graftcli.runs.repair import repaired
from graftcli.runs.scoring import PreprocessOptions, preprocess_for
from graftcli.store.atomic import TEMPORARY, remove_abandoned
from graftcli.store.model_card import CardFacts, write_weights
from graftcli.store.run_file import RUN_FILE
from graftcli.store.run_record import read_record

_NOISE = 16  # images of it, where there are no others


@dataclass(frozen=True)
class CheckImages:
    """The images that a file is checked and calibrated on; None: those of the run."""

    images: str | Path | None = None
    calib: str | Path | None = None
    look: PreprocessOptions = field(default_factory=PreprocessOptions)
    jobs: int | None = None


@dataclass(frozen=True)
class _Found:
    """A network that was asked for, and what is known of it."""

    module: nn.Module
    made: CardFacts
    base: Path  # where its files go, without their endings
    run: Path | None = None  # the folder of the run that made it
    imagenet: bool = False  # whether it answers with ImageNet's classes, if they are as many


def export(
    model: str | Path,
    form: ExportOptions | None = None,
    *,
    out: str | Path | None = None,
    seen: CheckImages | None = None,
    checkpoint: str | Path | None = None,
    classes: str | Path | None = None,
    overwrite: bool = False,
    listen: Listener = lambda _: None,
    **building: Any,
) -> Exported:
    """Write a run's network, or that of a file or spec, in a form that other tools read; checked on real images first.

    `building` is what `build` takes: num_classes, in_chans, ema, unsafe,
    trust_code.
    """
    form, seen = form or ExportOptions(), seen or CheckImages()
    spec = spec_of(model)
    if checkpoint is None and (own := output_of(spec)) is not None:
        repaired(own, trust_code=bool(building.get("trust_code")), listen=listen)
    found = _found(spec, checkpoint, seen.look, building)
    path = Path(out) if out is not None else found.base.with_name(found.base.name + form.ending)
    if path.exists() and not overwrite:
        raise UsageError(f"`{path}` exists.", "Name another file with --out, or replace it with --overwrite.")
    names = class_names(_classes(found), Path(classes) if classes else None, imagenet=found.imagenet)
    subject = _subject(found, form, seen, names, listen)
    if form.format == "safetensors":
        return _weights(subject, found.made, path, form, listen)
    return write(subject, form, path, listen)


# -- the network --------------------------------------------------------------------------------------------------


def _found(model: str, checkpoint: str | Path | None, look: PreprocessOptions, building: Mapping[str, Any]) -> _Found:
    path = output_of(model) if checkpoint is None else None
    document = read_document(path)[0] if path else {}
    network = network_of(model, checkpoint=checkpoint, img_size=look.img_size, role="model", **building)
    preprocess, hybrid = preprocess_for(network, look), document.get("hybrid")
    made = CardFacts(document.get("teacher", network.origin), network.origin, preprocess, "", 0, "", {}, hybrid)
    if path:
        run = path if (path / RUN_FILE).is_file() else None
        base = path / ("hybrid" if hybrid else "student") if path.is_dir() else path.with_suffix("")
        return _Found(network.module, made, base, run, run is not None and _from_imagenet(run))
    pretrained = network.weights.startswith("pretrained") and network.source in ("timm", "torchvision")
    return _Found(network.module, made, Path(network.name.replace("/", "_")), imagenet=pretrained)


def _from_imagenet(run: Path) -> bool:
    """Whether a run's teacher had the pretrained weights of a name of timm's or torchvision's."""
    networks = asked_of(run).networks
    elsewhere = networks.teacher.startswith(("hf-hub:", "local-dir:")) or Path(networks.teacher).exists()
    kind = read_record(run)["settings"]["teacher"]["origin"]["kind"]
    return networks.teacher_checkpoint is None and not elsewhere and kind in ("timm", "torchvision")


def _classes(found: _Found) -> int:
    return int(found.made.student["num_classes"])


# -- the images ---------------------------------------------------------------------------------------------------


def _subject(
    found: _Found, form: ExportOptions, seen: CheckImages, classes: tuple[str, ...] | None, listen: Listener
) -> ExportSource:
    preprocess, made = found.made.preprocess, found.made
    shown = _images(found, seen, listen)
    calibration = _read(seen.calib, preprocess, seen, listen, most=MOST_IMAGES) if seen.calib is not None else None
    if shown is None and calibration is not None:
        shown = calibration
    digest = read_record(found.run)["settings"]["images"] if found.run is not None else None
    if digest is not None and seen.images is None and shown is not None and shown.digest != digest:
        listen(Warned("the images are no longer those that the run was trained on"))
    blocks = made.hybrid["blocks"] if made.hybrid else None
    teacher = made.teacher["name"] if made.teacher is not made.student else None
    facts = about(teacher, made.student["name"], blocks, digest, classes)
    return ExportSource(
        module=found.module,
        preprocess=preprocess,
        images=shown.pixels if shown is not None else _noise(preprocess),
        calibration=calibration.pixels if calibration is not None else None,
        noise=shown is None,
        facts=facts,
    )


def _images(found: _Found, seen: CheckImages, listen: Listener) -> pictures.Images | None:
    """The images that were given, else those of the run, where they still are; else none."""
    preprocess = found.made.preprocess
    if seen.images is not None:
        return _read(seen.images, preprocess, seen, listen, most=MOST_IMAGES)
    if found.run is None:
        return None
    own = asked_of(found.run).images
    if not Path(own).exists():
        listen(Warned(f"the run's images are gone from `{own}`"))
        return None
    return _read(own, preprocess, seen, listen)


def _read(
    source: str | Path, preprocess: Preprocess, seen: CheckImages, listen: Listener, most: int | None = None
) -> pictures.Images:
    def tell(done: int, total: int) -> None:
        listen(ImagesDecoded(done, total))

    loaded = pictures.load(Path(source), preprocess, jobs=seen.jobs, most=most, on_progress=tell)
    for broken in loaded.broken:
        listen(Warned(f"left out: {broken.name}: {broken.reason}"))
    return loaded


def _noise(preprocess: Preprocess) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(
        0, 256, (_NOISE, preprocess.channels, *preprocess.size), dtype=torch.uint8, generator=generator
    )


# -- safetensors --------------------------------------------------------------------------------------------------


def _weights(subject: ExportSource, made: CardFacts, path: Path, form: ExportOptions, listen: Listener) -> Exported:
    """The weights and what graftcli needs to load them, in one file, which was loaded before it got its name."""
    remove_abandoned(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.check{TEMPORARY}")
    exam = examine(subject, form)
    try:
        write_weights(beside, subject.module, made)
        again = load(beside)
        with torch.no_grad():
            match = exam.taken(lambda images: np.asarray(again(torch.from_numpy(images))))
        check(match, form, subject.noise)
        size = beside.stat().st_size
        beside.replace(path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    listen(FileSaved(str(path)))
    return exported(path, form, size, match, subject)
