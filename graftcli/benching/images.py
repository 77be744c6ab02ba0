"""The images of a benchmark: given ones, those of a run, or noise."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from graftcli.errors import ImagesError
from graftcli.events import ImagesDecoded, Listener, Warned
from graftcli.images import Images
from graftcli.images import load as load_images
from graftcli.images.pixels import Preprocess
from graftcli.runs.config import RunConfig
from graftcli.runs.scoring import Model, read_labels


@dataclass(frozen=True)
class LoadedImages:
    """The images on which all candidates are measured."""

    pixels: Tensor
    source: str | None  # None for noise
    labels: Tensor | None = None
    rule: str | None = None  # how folder names are mapped to classes
    short_side: int | None = None  # median size of the images in pixels, if they are not noise


def load_bench_images(
    images: str | Path | None,
    classes: str | Path | None,
    runs: dict[str, RunConfig],
    preprocess: Preprocess,
    reference: Model,
    max_images: int | None,
    jobs: int | None,
    listen: Listener,
) -> LoadedImages:
    """Return the given images with their labels, else the images of the first run, else noise."""

    def on_progress(done: int, total: int) -> None:
        listen(ImagesDecoded(done, total))

    def decode(source: str | Path) -> Images:
        return load_images(Path(source), preprocess, jobs=jobs, max_images=max_images, on_progress=on_progress)

    if images is not None:
        decoded = decode(images)
        if (labels := read_labels(images, decoded, reference, classes)) is None:
            return LoadedImages(decoded.pixels, str(images), short_side=decoded.short_side)
        return LoadedImages(decoded.pixels, str(images), labels.indices, labels.rule, decoded.short_side)
    for config in list(runs.values())[:1]:
        source = config.val_images or config.images
        try:
            return LoadedImages(decode(source).pixels, source)
        except ImagesError as error:
            listen(Warned(f"the images of the run are missing, so agreement is not measured: {error.message}"))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (8, preprocess.channels, *preprocess.size), dtype=torch.uint8, generator=generator)
    return LoadedImages(noise, None)
