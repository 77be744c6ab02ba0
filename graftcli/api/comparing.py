"""`graftcli.compare`: the flags of the command as keyword arguments."""

from collections.abc import Sequence
from pathlib import Path

from graftcli.api.distilling import ImageSource, Model, run_options
from graftcli.comparison.budget import Budget
from graftcli.comparison.grid import Grid
from graftcli.comparison.running import run_comparison
from graftcli.events import Listener
from graftcli.images.in_memory import folder_of
from graftcli.models.loading.in_memory import spec_of
from graftcli.report.comparison import Comparison
from graftcli.runs.config import config_of

_GRID_ARGUMENTS = ("student", "images", "recipe", "shots", "draws", "blocks", "test", "classes", "steps", "seconds")


def compare(
    teacher: Model,
    student: Model | Sequence[Model],
    images: ImageSource | Sequence[str | Path],
    *,
    recipe: str | Sequence[str] = "graft",
    shots: Sequence[int] = (),
    draws: int = 1,
    blocks: Sequence[str] = (),
    test: str | Path | None = None,
    classes: str | Path | None = None,
    steps: int | None = None,
    seconds: float | None = None,
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
    strict: bool = False,
    set: Sequence[str] = (),
    steps_scale: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    amp: bool | None = None,
    compile: bool = False,
    cache_gb: float | None = None,
    device_cache_gb: float | None = None,
    batch: int | None = None,
    jobs: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str | None = None,
    listen: Listener = lambda _: None,
) -> Comparison:
    """Train several recipes and students on the same teacher, images and budget, and compare them in one table.

    Each combination of recipe, student, shots and draw is a cell: an ordinary run. The same call resumes, and reuses
    finished cells.

    Parameters:
        teacher: Trained network, as for `distill`.
        student: One or more students, as for `distill`.
        images: A folder to draw from, a pattern of existing draws such as ``"{shots}shot-draw{draw}"``, or several
            folders, each a draw.
        recipe: One or more recipes.
        shots: Images per class to draw, or in total if there are no class folders. Default: all images.
        draws: Number of draws for each number of shots, each with its own seed.
        blocks: Blocks to replace, as for `partial`, or ``"each"`` for every block separately. Default: all blocks.
        test: Labelled images on which the cells are scored. Default: agreement on held-out images.
        classes: File with the class names in order. Default: from the folder names.
        steps: Training steps of each cell, divided among its tasks in the proportions of its recipe.
        seconds: Training time of each cell; a short profiling run sets its number of steps.
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
        strict: Raise on corrupt images instead of skipping them.
        set: Overrides of the recipe, such as ``["stages.graft.lr=1e-3"]``.
        steps_scale: Factor for the number of training steps.
        seed: Random seed of training and of the draws.
        device: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
        amp: Train in bfloat16. Default: only on CUDA devices with bfloat16 hardware.
        compile: Train with ``torch.compile``.
        cache_gb: Gigabytes of memory for views and cached teacher features; the rest goes to disk. Default: 0.5.
        device_cache_gb: Gigabytes of an accelerator's memory for images and cached teacher features. Default: half of
            what is free.
        batch: Batch size of every stage. Default: from the recipe.
        jobs: Threads that decode images. Default: one per core, at most 16.
        out: Folder of the comparison. Default: ``runs/compare``.
        overwrite: Retrain cells that were trained with other settings.
        command: The command line that the report shows. Default: this call.
        listen: Called with every event; see ``graftcli.events``.

    Returns:
        The table, with each cell's accuracy, agreement, steps, seconds and memory.

    Raises:
        UsageError: An argument, the recipe or the folder is wrong.
        PairError: The networks cannot be cut at matching places.
        ImagesError: The images are missing or cannot be read.
        CheckpointError: A weights file is missing, damaged or of another network.

    Example:
        >>> table = graftcli.compare("resnet34", "resnet18", "photos", recipe=["graft", "kd"])  # doctest: +SKIP
        >>> [line.method for line in table.lines]  # doctest: +SKIP
        ['graft', 'kd']
    """
    options = run_options(locals(), without=_GRID_ARGUMENTS)
    students = [student] if not isinstance(student, list | tuple) else student
    grid = Grid(
        recipes=(recipe,) if isinstance(recipe, str) else tuple(recipe),
        students=tuple(map(spec_of, students)),
        images=tuple(map(str, images)) if isinstance(images, list | tuple) else (str(folder_of(images)),),
        shots=tuple(shots),
        draws=draws,
        blocks=tuple(blocks),
    )
    return run_comparison(
        config_of(options),
        grid,
        budget=Budget(steps, seconds),
        test=test,
        classes=classes,
        out=out,
        overwrite=overwrite,
        command=command or "graftcli.compare(…)",
        listen=listen,
    )
