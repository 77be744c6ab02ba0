"""`graftcli.plan` and `graftcli.inspect`: examine networks before training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.automatic_cuts import cuts, equal_work_cuts
from graftcli.models.cuts.pairing import CutOptions
from graftcli.models.cuts.plan import Plan, count_parameters
from graftcli.models.cuts.positions import Position, positions
from graftcli.models.loading.build import build
from graftcli.models.loading.in_memory import spec_of
from graftcli.models.network import Network
from graftcli.models.tracing.trace import Traced, trace
from graftcli.students.make import is_derived_from_teacher, student_maker

if TYPE_CHECKING:
    from graftcli.events import MemoryPlanned
    from graftcli.recipe import Recipe
    from graftcli.runs.shares import Shares

ImgSize = int | tuple[int, int] | None
Model = str | nn.Module


def plan(
    teacher: Model | Network,
    student: Model | Network,
    *,
    teacher_checkpoint: str | Path | None = None,
    student_checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: ImgSize = None,
    ema: bool | None = None,
    unsafe_load: bool = False,
    trust_code: bool = False,
    blocks_count: int | None = None,
    split_teacher: Sequence[str] | None = None,
    split_student: Sequence[str] | None = None,
) -> Plan:
    """Cut teacher and student at matching places; no weights are downloaded and no images are needed.

    Parameters:
        teacher: Model spec as for `distill`, an ``nn.Module``, or a ``Network``.
        student: The same, or a student derived from the teacher, such as ``"teacher*0.5"``.
        teacher_checkpoint: Weights file of the teacher.
        student_checkpoint: Weights file of the student.
        num_classes: Number of classes. Default: from the weights, else from the network.
        in_chans: Number of input channels. Default: from the weights, else from the network.
        img_size: Input size. Default: the teacher's.
        ema: Take the averaged weights of a checkpoint (True) or the raw ones (False). Default: averaged if present.
        unsafe_load: Unpickle checkpoints that hold more than tensors; this runs code from the file.
        trust_code: Run Python files that a saved network names, even if they changed.
        blocks_count: Number of blocks. Default: a cut wherever both networks downsample the image.
        split_teacher: Names of the teacher's modules after which it is cut.
        split_student: Names of the student's modules after which it is cut.

    Returns:
        The plan: blocks, cuts and seams, with parameters and multiply-adds of each block.

    Raises:
        PairError: The networks cannot be cut at matching places.

    Example:
        >>> plan = graftcli.plan("torchvision:resnet34", "torchvision:resnet18")
        >>> len(plan.blocks), plan.student.params
        (4, 11689512)
    """
    teacher, student = (m if isinstance(m, Network) else spec_of(m) for m in (teacher, student))
    if isinstance(teacher, str):
        teacher = build(
            teacher,
            checkpoint=teacher_checkpoint or "none",
            num_classes=num_classes,
            in_chans=in_chans,
            img_size=img_size,
            ema=ema,
            unsafe=unsafe_load,
            trust_code=trust_code,
            role="teacher",
        )
    if isinstance(student, str):
        student = build(
            student,
            checkpoint=student_checkpoint or (None if is_derived_from_teacher(student) else "none"),
            ema=ema,
            unsafe=unsafe_load,
            trust_code=trust_code,
            like=teacher,
            role="student",
            derive=student_maker(),
        )
    by_hand = [None if names is None else tuple(names) for names in (split_teacher, split_student)]
    return plans.make(teacher, student, CutOptions(blocks_count, *by_hand))


def shares(plan: Plan, processes: int, *, recipe: "str | Path | Recipe" = "graft") -> "Shares":
    """Show which process trains what when several processes share a run.

    Parameters:
        plan: What `plan` returns.
        processes: Number of processes, as torchrun would start them.
        recipe: Name of a recipe, a YAML file, or a ``Recipe``.

    Returns:
        The work of each stage, with the process that does it.

    Raises:
        UsageError: The recipe is wrong.

    Example:
        >>> plan = graftcli.plan("torchvision:resnet34", "torchvision:resnet18")
        >>> [share.rank for share in graftcli.shares(plan, 2).stages[1]]
        [0, 1, 0, 1]
    """
    from graftcli.recipe import Recipe
    from graftcli.recipe.file import load as load_recipe
    from graftcli.runs.shares import shares_of  # which imports what only training needs

    return shares_of(plan, recipe if isinstance(recipe, Recipe) else load_recipe(str(recipe)), processes)


def memory(
    plan: Plan,
    *,
    recipe: "str | Path | Recipe" = "graft",
    device: str = "auto",
    amp: bool | None = None,
    cache_gb: float | None = None,
    device_cache_gb: float | None = None,
) -> "MemoryPlanned":
    """Show where a run on this machine would store the cached teacher features of all views, and their size.

    Parameters:
        plan: What `plan` returns.
        recipe: Name of a recipe, a YAML file, or a ``Recipe``.
        device: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
        amp: Train in bfloat16. Default: only on CUDA devices with bfloat16 hardware.
        cache_gb: Gigabytes of memory for views and cached teacher features; the rest goes to disk. Default: 0.5.
        device_cache_gb: Gigabytes of an accelerator's memory for images and cached teacher features. Default: half of
            what is free.

    Returns:
        The number of views, and each stored value with its size and place.

    Raises:
        UsageError: The recipe or the device is wrong.

    Example:
        >>> plan = graftcli.plan("torchvision:resnet34", "torchvision:resnet18")
        >>> [part.what for part in graftcli.memory(plan, device="cpu").parts]
        ['features', 'features', 'features', 'features', 'logits']
    """
    from graftcli.recipe import Recipe
    from graftcli.recipe.file import load as load_recipe
    from graftcli.runs.config import TrainOptions
    from graftcli.runs.shares import memory_of  # which imports what only training needs

    how = TrainOptions(device=device, amp=amp, cache_gb=cache_gb, device_cache_gb=device_cache_gb)
    return memory_of(plan, recipe if isinstance(recipe, Recipe) else load_recipe(str(recipe)), how)


@dataclass(frozen=True)
class Inspection:
    """One network and the places where it can be cut."""

    network: Network
    traced: Traced
    cuts: tuple[Position, ...]  # at downsampling layers, else at equal shares of the MACs
    by_work: bool  # whether the cuts are at equal shares of the MACs

    @property
    def params(self) -> int:
        """The number of parameters."""
        return count_parameters(self.network.module)

    @property
    def positions(self) -> list[Position]:
        """All positions where the network can be cut."""
        return positions(self.traced)


def inspect(
    spec: Model,
    *,
    checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: ImgSize = None,
    ema: bool | None = None,
    unsafe_load: bool = False,
    trust_code: bool = False,
    blocks_count: int = 4,
) -> Inspection:
    """Trace one network and find where it can be cut; no trained weights are needed.

    Parameters:
        spec: Model spec or ``nn.Module``, as for `distill`.
        checkpoint: Weights file, from which the number of classes and channels is read.
        num_classes: Number of classes. Default: from the weights, else from the network.
        in_chans: Number of input channels. Default: from the weights, else from the network.
        img_size: Input size. Default: the network's.
        ema: Take the averaged weights of a checkpoint (True) or the raw ones (False). Default: averaged if present.
        unsafe_load: Unpickle checkpoints that hold more than tensors; this runs code from the file.
        trust_code: Run Python files that a saved network names, even if they changed.
        blocks_count: Number of blocks, for a network that never downsamples the image.

    Returns:
        The network with its cuts, parameters and multiply-adds.

    Example:
        >>> [cut.name for cut in graftcli.inspect("torchvision:resnet18").cuts]
        ['layer1', 'layer2', 'layer3']
    """
    network = build(
        spec_of(spec),
        checkpoint=checkpoint or "none",
        role="model",
        num_classes=num_classes,
        in_chans=in_chans,
        img_size=img_size,
        ema=ema,
        unsafe=unsafe_load,
        trust_code=trust_code,
    )
    traced = trace(network.module, plans.example(network))
    natural = cuts(traced)
    return Inspection(network, traced, tuple(natural or equal_work_cuts(traced, blocks_count)), not natural)
