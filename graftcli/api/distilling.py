"""`graftcli.distill` and `graftcli.partial`: the flags of the commands as keyword arguments."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from graftcli.events import Listener
from graftcli.images.in_memory import folder_of
from graftcli.models.loading.in_memory import spec_of
from graftcli.recipe import Recipe
from graftcli.runs import partial_run, running
from graftcli.runs.config import config_fields, config_of
from graftcli.runs.result import Result

Model = str | nn.Module
ImageSource = str | Path | Iterable[Any]

_MODELS, _IMAGES = ("teacher", "student"), ("images", "val_images", "extra_images")
_CALL_ARGUMENTS = ("blocks", "run", "out", "overwrite", "command", "listen")


def distill(
    teacher: Model,
    student: Model,
    images: ImageSource,
    *,
    teacher_checkpoint: str | Path | None = None,
    student_checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    blocks_count: int | None = None,
    split_teacher: Sequence[str] | None = None,
    split_student: Sequence[str] | None = None,
    ema: bool | None = None,
    unsafe_load: bool = False,
    trust_code: bool = False,
    img_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    val_images: ImageSource | None = None,
    extra_images: ImageSource | None = None,
    max_images: int | None = None,
    select: str = "balanced",
    strict: bool = False,
    recipe: str | Path | Recipe = "graft",
    set: Sequence[str] = (),
    steps_scale: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    amp: bool | None = None,
    compile: bool = False,
    cache_gb: float | None = None,
    device_cache_gb: float | None = None,
    images_gb: float | None = None,
    batch: int | None = None,
    jobs: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str | None = None,
    listen: Listener = lambda _: None,
) -> Result:
    """Train a student on a few unlabelled images by grafting its blocks into the teacher, and write it.

    The student's blocks are trained one by one inside the frozen teacher, then together, and all adapters are folded
    away. The same call resumes a run that was interrupted.

    Parameters:
        teacher: Trained network: a timm or torchvision name, ``file.py:factory``, a checkpoint, or an ``nn.Module``.
        student: Network to train, in the same forms, or one derived from the teacher, such as ``"teacher*0.5"``.
        images: Unlabelled images: a folder, .zip, .tar, .parquet, .arrow or .list, several of these files
            (``"shards-{0000..0099}.tar"`` or the folder that holds them), or a URL of any of these. Or an iterable
            (such as a Dataset) of PIL images or tensors; if its items are tuples, their first element is the image.
            Float tensors have values from 0 to 1, before normalisation.
        teacher_checkpoint: Weights file of the teacher; ``"none"`` for random weights. Default: pretrained weights.
        student_checkpoint: Weights file that the student starts from, for recipes with ``init: checkpoint``.
        num_classes: Number of classes. Default: from the weights, else from the network.
        in_chans: Number of input channels. Default: from the weights, else from the network.
        blocks_count: Number of blocks to cut both networks into. Default: a cut wherever both downsample the image.
        split_teacher: Names of the teacher's modules after which it is cut.
        split_student: Names of the student's modules after which it is cut.
        ema: Take the averaged weights of a checkpoint (True) or the raw ones (False). Default: averaged if present.
        unsafe_load: Unpickle checkpoints that hold more than tensors; this runs code from the file.
        trust_code: Run Python files that a saved network names, even if they changed.
        img_size: Input size. Default: from the teacher, else that of all images.
        mean: Per-channel mean of the input. Default: from the teacher.
        std: Per-channel standard deviation of the input. Default: from the teacher.
        crop_pct: Share of the image that the centre crop keeps. Default: from the teacher.
        interpolation: Resampling of the resize, such as ``"bicubic"``. Default: from the teacher.
        val_images: Images on which agreement is measured. Default: a tenth of `images`, if there are 40 or more.
        extra_images: Unlabelled images of any other kind, which half of the training views show (the recipe's
            ``views.extra_share``).
        max_images: Number of training images to select; exact duplicates are left out. Default: all images.
        select: Method of selection: ``"balanced"``, ``"diverse"`` or ``"random"``; see `select_images`.
        strict: Raise on corrupt images instead of skipping them.
        recipe: Name of a recipe, a YAML file, or a ``Recipe``.
        set: Overrides of the recipe, such as ``["stages.graft.lr=1e-3"]``.
        steps_scale: Factor for the number of training steps.
        seed: Random seed.
        device: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
        amp: Train in bfloat16. Default: only on CUDA devices with bfloat16 hardware.
        compile: Train with ``torch.compile``.
        cache_gb: Gigabytes of memory for views and cached teacher features; the rest goes to disk. Default: 0.5.
        device_cache_gb: Gigabytes of an accelerator's memory for images and cached teacher features. Default: half of
            what is free.
        images_gb: Gigabytes of memory for decoded images; if they need more, they are decoded into a file in the
            run's folder. Default: half of the free memory.
        batch: Batch size of every stage. Default: from the recipe.
        jobs: Threads that decode images. Default: one per core, at most 16.
        out: Folder of the run, or a file such as ``student.onnx``. Default: ``runs/TEACHER-STUDENT``.
        overwrite: Replace another run in the folder.
        command: The command line that the model card shows. Default: this call.
        listen: Called with every event; see ``graftcli.events``.

    Returns:
        The result, with the run's folder, its agreement with the teacher, and `model`, the trained student.

    Raises:
        UsageError: An argument, the recipe or the folder is wrong.
        PairError: The networks cannot be cut at matching places.
        ImagesError: The images are missing or cannot be read.
        CheckpointError: A weights file is missing, damaged or of another network.
        GateError: Training diverged twice, or the merged student differs from the trained one.
        MachineError: Memory, disk space or the device is not available, or another process uses the folder.

    Example:
        >>> result = graftcli.distill("resnet34", "resnet18", "10shot", steps_scale=0.1)  # doctest: +SKIP
        >>> result.model(torch.zeros(1, 3, 224, 224)).shape  # doctest: +SKIP
        torch.Size([1, 1000])
    """
    options = run_options(locals())
    return running.distill(
        config_of(options), out=out, overwrite=overwrite, command=command or "graftcli.distill(…)", listen=listen
    )


def partial(
    blocks: str | int | Sequence[int],
    *,
    run: str | Path | None = None,
    teacher: Model | None = None,
    student: Model | None = None,
    images: ImageSource | None = None,
    teacher_checkpoint: str | Path | None = None,
    student_checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    blocks_count: int | None = None,
    split_teacher: Sequence[str] | None = None,
    split_student: Sequence[str] | None = None,
    ema: bool | None = None,
    unsafe_load: bool | None = None,
    trust_code: bool | None = None,
    img_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    val_images: ImageSource | None = None,
    extra_images: ImageSource | None = None,
    max_images: int | None = None,
    select: str | None = None,
    strict: bool | None = None,
    recipe: str | Path | Recipe | None = None,
    set: Sequence[str] | None = None,
    steps_scale: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    amp: bool | None = None,
    compile: bool | None = None,
    cache_gb: float | None = None,
    device_cache_gb: float | None = None,
    images_gb: float | None = None,
    batch: int | None = None,
    jobs: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str | None = None,
    listen: Listener = lambda _: None,
) -> Result:
    """Replace only some blocks of the teacher, and write the hybrid.

    Arguments that are not given are taken from an earlier run. Its trained blocks are reused if training them again
    would give the same weights.

    Parameters:
        blocks: Blocks to replace, numbered from 1 as `plan` does: ``3``, ``[1, 3]``, ``"2-4"`` or ``"last"``.
        run: Earlier run. Default: the newest under ``./runs``; none if `teacher`, `student` and `images` are
            given.
        teacher: As in `distill`. Default: from the earlier run, as for every argument below.
        student: As in `distill`.
        images: As in `distill`.
        teacher_checkpoint: Weights file of the teacher; ``"none"`` for random weights. Default: pretrained weights.
        student_checkpoint: Weights file that the student starts from, for recipes with ``init: checkpoint``.
        num_classes: Number of classes. Default: from the weights, else from the network.
        in_chans: Number of input channels. Default: from the weights, else from the network.
        blocks_count: Number of blocks to cut both networks into. Default: a cut wherever both downsample the image.
        split_teacher: Names of the teacher's modules after which it is cut.
        split_student: Names of the student's modules after which it is cut.
        ema: Take the averaged weights of a checkpoint (True) or the raw ones (False). Default: averaged if present.
        unsafe_load: Unpickle checkpoints that hold more than tensors; this runs code from the file.
        trust_code: Run Python files that a saved network names, even if they changed.
        img_size: Input size. Default: from the teacher, else that of all images.
        mean: Per-channel mean of the input. Default: from the teacher.
        std: Per-channel standard deviation of the input. Default: from the teacher.
        crop_pct: Share of the image that the centre crop keeps. Default: from the teacher.
        interpolation: Resampling of the resize, such as ``"bicubic"``. Default: from the teacher.
        val_images: Images on which agreement is measured. Default: a tenth of `images`, if there are 40 or more.
        extra_images: Unlabelled images of any other kind, which half of the training views show (the recipe's
            ``views.extra_share``).
        max_images: Number of training images to select; exact duplicates are left out. Default: all images.
        select: Method of selection: ``"balanced"``, ``"diverse"`` or ``"random"``; see `select_images`.
        strict: Raise on corrupt images instead of skipping them.
        recipe: Name of a recipe, a YAML file, or a ``Recipe``.
        set: Overrides of the recipe, such as ``["stages.graft.lr=1e-3"]``.
        steps_scale: Factor for the number of training steps.
        seed: Random seed.
        device: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
        amp: Train in bfloat16. Default: only on CUDA devices with bfloat16 hardware.
        compile: Train with ``torch.compile``.
        cache_gb: Gigabytes of memory for views and cached teacher features; the rest goes to disk. Default: 0.5.
        device_cache_gb: Gigabytes of an accelerator's memory for images and cached teacher features. Default: half of
            what is free.
        images_gb: Gigabytes of memory for decoded images; if they need more, they are decoded into a file in the
            run's folder. Default: half of the free memory.
        batch: Batch size of every stage. Default: from the recipe.
        jobs: Threads that decode images. Default: one per core, at most 16.
        out: Folder of the run, or a file such as ``student.onnx``. Default: ``runs/TEACHER-STUDENT-blocks-N``.
        overwrite: Replace another run in the folder.
        command: The command line that the model card shows. Default: this call.
        listen: Called with every event; see ``graftcli.events``.

    Returns:
        The result, with the run's folder and `model`, the hybrid.

    Raises:
        UsageError: An argument, the recipe or the folder is wrong.
        PairError: The networks cannot be cut at matching places.
        ImagesError: The images are missing or cannot be read.
        CheckpointError: A weights file is missing, damaged or of another network.
        GateError: Training diverged twice, or the merged student differs from the trained one.
        MachineError: Memory, disk space or the device is not available, or another process uses the folder.

    Example:
        >>> graftcli.partial(3).blocks  # doctest: +SKIP
        (3,)
    """
    options = run_options(locals())
    numbers = str(blocks) if isinstance(blocks, str | int) else ",".join(map(str, blocks))
    return partial_run.partial(
        numbers,
        config_of(options) if options else None,
        given=config_fields(options),
        run_folder=run,
        out=out,
        overwrite=overwrite,
        command=command or "graftcli.partial(…)",
        listen=listen,
    )


def run_options(arguments: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    """Return the arguments that configure a run; modules become specs, and in-memory images become folders."""
    excluded = (*_CALL_ARGUMENTS, *without)
    options = {name: value for name, value in arguments.items() if value is not None and name not in excluded}
    models = {name: spec_of(options[name]) for name in _MODELS if name in options}
    return {**options, **models, **{name: folder_of(options[name]) for name in _IMAGES if name in options}}
