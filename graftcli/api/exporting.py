"""`graftcli.export`: export a network to one file, and check the file on real images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftcli.errors import UsageError
from graftcli.events import ImagesDecoded, Listener, Warned
from graftcli.formats.options import DEFAULT_FORMAT, Exported, ExportOptions, ExportSource, source_facts
from graftcli.formats.parity import MAX_IMAGES
from graftcli.formats.write import write
from graftcli.images import Images
from graftcli.images import load as load_images
from graftcli.images.labels import class_names
from graftcli.images.pixels import Preprocess
from graftcli.models.loading.model_spec import output_of
from graftcli.models.loading.saved import read_document
from graftcli.models.network import Network, size_notes
from graftcli.models.weights import WeightsOrigin
from graftcli.runs.config import recorded_config
from graftcli.runs.input_size import built_for_images, small_images
from graftcli.runs.loading import network_of, spec_of
from graftcli.runs.repair import repair
from graftcli.runs.scoring import PreprocessOptions, build_options, preprocess_for, preprocess_options
from graftcli.store.model_card import CardFacts
from graftcli.store.run_file import RUN_FILE, read_record

_NOISE_IMAGES = 16  # number of noise images to check the file on if there are no real images


@dataclass(frozen=True)
class CheckImages:
    """The images that a file is checked and calibrated on; None means those of the run."""

    images: str | Path | None = None
    calib: str | Path | None = None
    options: PreprocessOptions = field(default_factory=PreprocessOptions)
    jobs: int | None = None


@dataclass(frozen=True)
class _LoadedModel:
    """The network to export."""

    module: nn.Module
    facts: CardFacts
    base: Path  # default path of the export, without suffix
    run: Path | None = None  # folder of its run
    imagenet: bool = False  # whether its classes may be those of ImageNet, if their number matches


def export(
    model: str | Path,
    *,
    format: str = DEFAULT_FORMAT,
    precision: str = "fp32",
    static: bool = False,
    dynamic_size: bool = False,
    opset: int | None = None,
    bake_preprocess: str | None = None,
    min_agreement: float | None = None,
    images: str | Path | None = None,
    calib: str | Path | None = None,
    classes: str | Path | None = None,
    checkpoint: str | Path | None = None,
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
    jobs: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    listen: Listener = lambda _: None,
) -> Exported:
    """Export a network or a hybrid to a file for other tools; the file is first compared with PyTorch on real images.

    Parameters:
        model: A run, a file that graftcli wrote, or a model spec.
        format: Name of the file format, such as ``"pt2"``; `graftcli export --help` lists them.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``; ONNX only.
        static: Fix the batch size to 1.
        dynamic_size: Allow any image size.
        opset: ONNX opset. Default: the oldest that graftcli supports.
        bake_preprocess: Include normalisation in the file, so that it takes uint8 pixels in the layout ``"nhwc"`` or
            ``"nchw"``.
        min_agreement: Required share of images with the same prediction as in PyTorch. Default: 1 for fp32, 0.99 for
            fp16, 0.95 for int8.
        images: Images to check the file on. Default: the run's.
        calib: Calibration images for int8. Default: same as `images`.
        classes: File with the class names in order.
        checkpoint: Weights file of a model spec.
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
        jobs: Threads that decode images. Default: one per core, at most 16.
        out: The file. Default: in the run's folder.
        overwrite: Replace an existing file.
        listen: Called with every event; see ``graftcli.events``.

    Returns:
        The path of the file, its size, and how closely its outputs match PyTorch.

    Raises:
        UsageError: An argument is wrong, or the file exists.
        GateError: The file differs from PyTorch; it is not written.

    Example:
        >>> graftcli.export("runs/small", precision="int8").size  # doctest: +SKIP
    """
    export_options = ExportOptions(
        format,
        precision,  # type: ignore[arg-type]  # ExportOptions checks the names
        static,
        dynamic_size,
        opset,
        bake_preprocess,  # type: ignore[arg-type]
        min_agreement,
    )
    options = preprocess_options(img_size, mean, std, crop_pct, interpolation)
    build_args = build_options(num_classes, in_chans, ema, unsafe_load, trust_code)
    check_images = CheckImages(images, calib, options, jobs)
    spec = spec_of(model)
    if checkpoint is None and (output := output_of(spec)) is not None:
        repair(output, trust_code=trust_code, listen=listen)
    loaded = _load_model(spec, checkpoint, check_images, build_args, listen)
    path = Path(out) if out is not None else loaded.base.with_name(loaded.base.name + export_options.suffix)
    if path.exists() and not overwrite:
        raise UsageError(f"`{path}` exists.", "Name another file with --out, or replace it with --overwrite.")
    names = class_names(_classes(loaded), Path(classes) if classes else None, imagenet=loaded.imagenet)
    source = _export_source(loaded, check_images, names, listen)
    return write(source, export_options, path, listen)


# -- the network --------------------------------------------------------------------------------------------------


def _load_model(
    model: str,
    checkpoint: str | Path | None,
    check_images: CheckImages,
    build_args: Mapping[str, Any],
    listen: Listener,
) -> _LoadedModel:
    options, images = check_images.options, check_images.images or check_images.calib

    def build(size: tuple[int, int] | None) -> Network:
        size = size or options.img_size
        return network_of(model, checkpoint=checkpoint, img_size=size, role="model", **build_args)

    path = output_of(model) if checkpoint is None else None
    document = read_document(path)[0] if path else None
    network = build(None) if images is None else built_for_images(build, images, listen, jobs=check_images.jobs)
    for note in size_notes(network):
        listen(Warned(note))
    preprocess, hybrid = preprocess_for(network, options), document["hybrid"] if document else None
    teacher = document["teacher"] if document else network.origin
    facts = CardFacts(teacher, network.origin, preprocess, "", 0, "", {}, hybrid)
    if path:
        run = path if (path / RUN_FILE).is_file() else None
        base = path / ("hybrid" if hybrid else "student") if path.is_dir() else path.with_suffix("")
        return _LoadedModel(network.module, facts, base, run, run is not None and _has_imagenet_classes(run))
    pretrained = network.weights.origin is WeightsOrigin.PRETRAINED and network.source in ("timm", "torchvision")
    return _LoadedModel(network.module, facts, Path(network.name.replace("/", "_")), imagenet=pretrained)


def _has_imagenet_classes(run: Path) -> bool:
    """Whether the teacher of a run had the pretrained weights of timm or torchvision."""
    networks = recorded_config(run).networks
    is_path_or_hub = networks.teacher.startswith(("hf-hub:", "local-dir:")) or Path(networks.teacher).exists()
    kind = read_record(run).settings.teacher.origin["kind"]
    return networks.teacher_checkpoint is None and not is_path_or_hub and kind in ("timm", "torchvision")


def _classes(loaded: _LoadedModel) -> int:
    return int(loaded.facts.student["num_classes"])


# -- the images ---------------------------------------------------------------------------------------------------


def _export_source(
    loaded: _LoadedModel, check_images: CheckImages, classes: tuple[str, ...] | None, listen: Listener
) -> ExportSource:
    card, preprocess, calibration = loaded.facts, loaded.facts.preprocess, None
    images = _images_to_check(loaded, check_images, listen)
    if check_images.calib is not None:
        calibration = _decode(check_images.calib, preprocess, check_images, listen, max_images=MAX_IMAGES)
    if images is None and calibration is not None:
        images = calibration
    if images is not None and (check_images.images or check_images.calib):
        for hint in small_images(images.short_side, preprocess, check_images.options.img_size):
            listen(Warned(hint))
    digest = read_record(loaded.run).settings.images if loaded.run is not None else None
    if digest is not None and check_images.images is None and images is not None and images.digest != digest:
        listen(Warned("the images differ from those that the run was trained on"))
    blocks = card.hybrid["blocks"] if card.hybrid else None
    teacher = card.teacher["name"] if card.teacher is not card.student else None
    facts = source_facts(teacher, card.student["name"], blocks, digest, classes)
    return ExportSource(
        module=loaded.module,
        preprocess=preprocess,
        images=images.pixels if images is not None else _noise(preprocess),
        calibration=calibration.pixels if calibration is not None else None,
        noise=images is None,
        facts=facts,
        card=card,
    )


def _images_to_check(loaded: _LoadedModel, check_images: CheckImages, listen: Listener) -> Images | None:
    """Return the given images, else those of the run if they still exist, else None."""
    preprocess = loaded.facts.preprocess
    if check_images.images is not None:
        return _decode(check_images.images, preprocess, check_images, listen, max_images=MAX_IMAGES)
    if loaded.run is None:
        return None
    source = recorded_config(loaded.run).images
    if not Path(source).exists():
        listen(Warned(f"the images of the run are missing from `{source}`"))
        return None
    return _decode(source, preprocess, check_images, listen)


def _decode(
    source: str | Path,
    preprocess: Preprocess,
    check_images: CheckImages,
    listen: Listener,
    max_images: int | None = None,
) -> Images:
    def on_progress(done: int, total: int) -> None:
        listen(ImagesDecoded(done, total))

    images = load_images(
        Path(source), preprocess, jobs=check_images.jobs, max_images=max_images, on_progress=on_progress
    )
    for broken in images.broken:
        listen(Warned(f"skipped {broken.name}: {broken.reason}"))
    return images


def _noise(preprocess: Preprocess) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(
        0, 256, (_NOISE_IMAGES, preprocess.channels, *preprocess.size), dtype=torch.uint8, generator=generator
    )
