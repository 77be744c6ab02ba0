"""`graftcli plan`: where two networks are cut and joined, and what each block saves."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

from graftcli.cli import options as o
from graftcli.cli import render, render_plan

_CUTS = "Cuts"


def split_names(text: str | None) -> list[str] | None:
    """Split comma-separated names."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


@contextmanager
def one_thread() -> Iterator[None]:
    """Use a single thread: for a few images, the overhead of more threads exceeds their gain."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


BlocksCount = Annotated[
    int | None,
    o.option(
        "--blocks-count",
        min=2,
        metavar="N",
        rich_help_panel=_CUTS,
        help="Number of blocks. Default: chosen automatically.",
    ),
]
SplitTeacher = Annotated[
    str | None,
    o.option(
        "--split-teacher",
        metavar="A,B,C",
        rich_help_panel=_CUTS,
        help="Cut the teacher after these modules; `graftcli inspect --all` lists the candidates.",
    ),
]
SplitStudent = Annotated[
    str | None,
    o.option("--split-student", metavar="A,B,C", rich_help_panel=_CUTS, help="Cut the student after these modules."),
]


Processes = Annotated[
    int | None,
    o.option("--processes", min=1, metavar="N", help="Show what each of N processes started by torchrun would train."),
]
Memory = Annotated[
    bool, o.option("--memory", metavar="", help="Show what a run on this machine would store, and where.")
]
Recipe = Annotated[
    str,
    o.option("--recipe", metavar="NAME|FILE", help="Recipe of --processes and --memory; see `graftcli recipes ls`."),
]


def plan(
    teacher: o.Teacher,
    student: o.Student,
    teacher_checkpoint: o.TeacherCheckpoint = None,
    student_checkpoint: o.StudentCheckpoint = None,
    num_classes: o.NumClasses = None,
    in_chans: o.InChans = None,
    img_size: o.ImageSize = None,
    blocks_count: BlocksCount = None,
    split_teacher: SplitTeacher = None,
    split_student: SplitStudent = None,
    ema: o.Ema = None,
    unsafe_load: o.UnsafeLoad = False,
    trust_code: o.TrustCode = False,
    processes: Processes = None,
    memory: Memory = False,
    recipe: Recipe = "graft",
    cache_gb: o.CacheGb = None,
    as_json: o.Json = False,
) -> None:
    """Show where teacher and student are cut and joined, and what each block saves.

    Needs neither weights nor images. Exits with 3 if the networks cannot be paired. With --processes, also show how
    the work of a recipe is divided; with --memory, what a run would store and where.

    Examples:
      graftcli plan --teacher resnet34 --student resnet18
      graftcli plan --teacher resnet50 --student mobilenetv3_large_100 --img-size 192
      graftcli plan --teacher my_net.py:build --teacher-checkpoint best.pth --student resnet18
      graftcli plan --teacher resnet50 --student prune:l1=0.3
      graftcli plan --teacher resnet34 --student resnet18 --processes 4
      graftcli plan --teacher deit_small_patch16_224 --student deit_tiny_patch16_224 --blocks-count 6
    """
    import graftcli
    from graftcli.models.cuts.plan import as_json as document

    with one_thread():
        paired = graftcli.plan(
            teacher,
            student,
            teacher_checkpoint=teacher_checkpoint,
            student_checkpoint=student_checkpoint,
            num_classes=num_classes,
            in_chans=in_chans,
            img_size=img_size,
            ema=ema,
            unsafe_load=unsafe_load,
            trust_code=trust_code,
            blocks_count=blocks_count,
            split_teacher=split_names(split_teacher),
            split_student=split_names(split_student),
        )
        planned = graftcli.memory(paired, recipe=recipe, cache_gb=cache_gb) if memory else None
        divided = None if processes is None else graftcli.shares(paired, processes, recipe=recipe)
    if as_json:
        shown = document(paired)
        more = {"processes": divided, "memory": planned}
        render.document(shown | {name: asdict(part) for name, part in more.items() if part is not None})
    else:
        render_plan.plan(paired)
        if divided is not None:
            render_plan.shares(divided)
        if planned is not None:
            render_plan.memory(planned)
