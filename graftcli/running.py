"""`distill` and `partial`: networks, images and a recipe -> a run's folder with everything in it."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from graftcli import images as pictures
from graftcli.card import Made, save_student, write_weights
from graftcli.devices import device_named
from graftcli.environment.installs import versions
from graftcli.environment.machine import memory, peak_memory, usable_cores
from graftcli.errors import CheckpointError, ImagesError, UsageError
from graftcli.events import Decoded, Listener, Saved, Started, Warned
from graftcli.export.onnx import write_onnx
from graftcli.graft.fit import Precision
from graftcli.graft.run import Outcome, Settings, run, weights_digest
from graftcli.graft.views import plain
from graftcli.measure import size_of
from graftcli.nets import plan as plans
from graftcli.nets.derived import notes
from graftcli.nets.network import Network
from graftcli.nets.pair import Choice
from graftcli.nets.plan import Plan
from graftcli.nets.spec import build
from graftcli.pixels import Fit
from graftcli.recipe import Recipe
from graftcli.recipe_file import load as load_recipe
from graftcli.runs import newest, read_run
from graftcli.scoring import Look, fit_for
from graftcli.store import Store
from graftcli.students.make import Pictured, made_from_teacher, maker
from graftcli.written import plain as as_json

RUNS = Path("runs")
_LOOKED_AT = 64  # images by which a student made from the teacher is chosen


@dataclass(frozen=True)
class Networks:
    """Which two networks, with which weights, cut where."""

    teacher: str
    student: str
    teacher_checkpoint: str | None = None
    student_checkpoint: str | None = None
    num_classes: int | None = None
    in_chans: int | None = None
    ema: bool | None = None
    unsafe_load: bool = False
    choice: Choice = field(default_factory=Choice)


@dataclass(frozen=True)
class How:
    """Which recipe, on what machine."""

    recipe: str = "graft"
    overrides: tuple[str, ...] = ()
    steps_scale: float = 1.0
    batch: int | None = None  # in every stage; None: as the recipe says
    seed: int = 0
    device: str = "auto"
    amp: bool = False
    compile: bool = False
    cache_gb: float | None = None
    jobs: int | None = None
    strict: bool = False


@dataclass(frozen=True)
class Asked:
    """Everything that a run is asked for; `partial` takes it over from an earlier run."""

    networks: Networks
    images: str
    val_images: str | None = None
    look: Look = field(default_factory=Look)
    how: How = field(default_factory=How)


@dataclass(frozen=True)
class Result:
    """What came out of a run, and where it lies."""

    folder: str
    teacher: str
    student: str
    blocks: tuple[int, ...]
    params: tuple[int, int]  # of the teacher, of what came out
    macs: tuple[int, int]
    bytes: tuple[int, int]  # of their weights
    stock: bool
    agreement: float | None  # with the teacher, on held-out images; None where there were none
    held_out: int
    images: int
    merge_errors: tuple[float, float]  # as shares of the largest logit, in float64 and float32
    seconds: float
    peak_memory: int  # bytes
    already_done: bool = False


def distill(
    asked: Asked,
    *,
    out: str | Path | None = None,
    blocks: str | None = None,
    overwrite: bool = False,
    reuse: Path | None = None,
    command: str = "graftcli.distill(…)",
    listen: Listener = lambda _: None,
) -> Result:
    """Train the student (or only its `blocks`, inside the teacher) on a folder of unlabelled images, and write it.

    `reuse` is the folder of an earlier run, whose blocks are taken over where they were trained in the same way.
    """
    how = asked.how
    recipe = _recipe(how)
    teacher = _teacher(asked)
    fit = fit_for(teacher, asked.look, whole=True)
    pictured = cache(lambda: _images(asked.images, fit, how, listen))
    plan = _plan(asked, recipe, teacher, lambda: plain(pictured().pixels[:_LOOKED_AT], fit))
    if plan.teacher.network.weights == "random":
        listen(Warned(f"teacher {plan.teacher.network.name} has random weights: its answers mean nothing"))
    for note in notes(plan.student.network):
        listen(Warned(note))
    chosen = parse_blocks(blocks, len(plan.blocks))
    train = pictured()
    held = _images(asked.val_images, fit, how, listen) if asked.val_images is not None else None
    folder, single = destination(plan, out, chosen)
    settings = _settings(plan, recipe, how, fit, train, held, chosen)
    with Store(folder, settings, overwrite=overwrite, about=_about(asked, command)) as store:
        if store.finished is not None:
            return _read_back(store.finished)
        if reuse is not None:
            _take_over(reuse, folder, settings, chosen)
        fixed = store.fixed(lambda: _fixed(how, train, folder))
        torch.set_num_threads(fixed["threads"])
        precision = Precision(device_named(how.device), how.amp, how.compile)
        inside = Settings(how.seed, precision, fixed["memory"], fixed["disk"], chosen)
        listen(_started(plan, recipe, fit, len(train.pixels), inside, fixed["threads"], store))
        outcome = run(plan, train, fit, recipe, inside, store, listen, held)
        result = _result(plan, folder, chosen, outcome, len(train.pixels))
        made = _made(plan, outcome, fit, recipe, result, command)
        save_student(folder, outcome.merged.module, made)
        if single is not None:
            _write_single(single, outcome, made, train)
            listen(Saved(str(single)))
        store.finish(asdict(result))
    listen(Saved(str(folder)))
    return result


def partial(
    blocks: str,
    asked: Asked | None = None,
    *,
    run_folder: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "graftcli.partial(…)",
    listen: Listener = lambda _: None,
) -> Result:
    """Replace only some blocks of the teacher. Without `asked`, the networks and images are those of `run_folder`, else
    of the newest run under ./runs, whose trained blocks are used again."""
    folder = Path(run_folder) if run_folder is not None else None
    if asked is None:
        folder = folder or newest(RUNS, _is_whole)
        if folder is None:
            raise UsageError(
                "there is no run under ./runs whose networks and images could be taken.",
                "Give --teacher, --student and --images, or a run's folder with --run.",
            )
        asked = asked_of(folder)
    return distill(asked, out=out, blocks=blocks, overwrite=overwrite, reuse=folder, command=command, listen=listen)


def _is_whole(run: Mapping[str, Any]) -> bool:
    """Whether a run was for the whole student: a partial one took over what it was asked for."""
    return len(run["settings"]["blocks"]) == len(run["settings"]["cuts"]["student"]) + 1


def asked_of(folder: Path) -> Asked:
    """What a run was asked for."""
    return TypeAdapter(Asked).validate_python(read_run(folder)["sessions"][-1]["asked"])


def parse_blocks(text: str | None, count: int) -> tuple[int, ...]:
    """`3`, `1,3`, `2-4`, `last`; None stands for all blocks."""
    if text is None:
        return tuple(range(1, count + 1))
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        first, dash, last = (str(count) if end == "last" else end for end in part.partition("-"))
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UsageError(f"--blocks {text!r} names no blocks.", "Give numbers: 3, 1,3, 2-4 or last.")
        found |= set(range(int(first), int(last or first) + 1))
    unknown = sorted(block for block in found if not 1 <= block <= count)
    if unknown or not found:
        raise UsageError(
            f"--blocks {text} names block {', '.join(map(str, unknown)) or 'none'}; these networks have 1 to {count}.",
            "`graftcli plan` shows them.",
        )
    return tuple(sorted(found))


# -- what a run starts from ---------------------------------------------------------------------------------------


def _recipe(how: How) -> Recipe:
    recipe = load_recipe(how.recipe, how.overrides, how.steps_scale)
    if how.batch is None:
        return recipe
    return recipe.model_copy(
        update={"stages": tuple(stage.model_copy(update={"batch": how.batch}) for stage in recipe.stages)}
    )


def _teacher(asked: Asked) -> Network:
    networks = asked.networks
    return build(
        networks.teacher,
        checkpoint=networks.teacher_checkpoint,
        num_classes=networks.num_classes,
        in_chans=networks.in_chans,
        img_size=asked.look.img_size,
        ema=networks.ema,
        unsafe=networks.unsafe_load,
        role="teacher",
    )


def _plan(asked: Asked, recipe: Recipe, teacher: Network, looked_at: Pictured) -> Plan:
    networks = asked.networks
    torch.manual_seed(asked.how.seed)  # the student's first weights are part of what the seed decides
    student = build(
        networks.student,
        checkpoint=_student_weights(networks, recipe),
        ema=networks.ema,
        unsafe=networks.unsafe_load,
        like=teacher,
        role="student",
        derive=maker(looked_at),
    )
    return plans.make(teacher, student, networks.choice)


def _student_weights(networks: Networks, recipe: Recipe) -> str | None:
    if made_from_teacher(networks.student):  # with weights of its own, which are the teacher's
        return networks.student_checkpoint or ("none" if recipe.init == "random" else None)
    if recipe.init == "checkpoint" and networks.student_checkpoint is None:
        raise CheckpointError(
            f"recipe {recipe.name} starts from the student's own weights, and none are given.",
            "Give them with --student-checkpoint, or take --set init=inherit.",
        )
    return None if recipe.init == "pretrained" else networks.student_checkpoint or "none"


def _images(source: str, fit: Fit, how: How, listen: Listener) -> pictures.Images:
    def tell(done: int, total: int) -> None:
        listen(Decoded(done, total))

    found = pictures.load(Path(source), fit, strict=how.strict, jobs=how.jobs, on_progress=tell)
    for broken in found.broken:
        listen(Warned(f"left out: {broken.name}: {broken.reason}"))
    if len(found.pixels) < 2:
        raise ImagesError(f"`{source}` holds {len(found.pixels)} image.", "Two are needed at least.")
    return found


def destination(plan: Plan, out: str | Path | None, chosen: Sequence[int]) -> tuple[Path, Path | None]:
    """The run's folder, and the single file that is wanted beside it."""
    names = "-".join(side.network.name.replace("/", "_") for side in (plan.teacher, plan.student))
    part = "" if len(chosen) == len(plan.blocks) else f"-blocks-{'-'.join(map(str, chosen))}"
    path = Path(out) if out is not None else None
    if path is None or path.suffix in (".safetensors", ".onnx"):
        return RUNS / f"{names}{part}", path
    return path, None


def _settings(
    plan: Plan,
    recipe: Recipe,
    how: How,
    fit: Fit,
    train: pictures.Images,
    held: pictures.Images | None,
    chosen: Sequence[int],
) -> dict[str, Any]:
    """All that decides the result; a run goes on only where it is the same."""
    return {
        "teacher": _identity(plan.teacher.network),
        "student": _identity(plan.student.network),
        "cuts": {"teacher": [c.name for c in plan.teacher.cuts], "student": [c.name for c in plan.student.cuts]},
        "blocks": list(chosen),
        "images": train.digest,
        "val_images": held.digest if held is not None else None,
        "fit": asdict(fit),
        "recipe": recipe.model_dump(mode="json"),
        "seed": how.seed,
        "device": how.device,
        "amp": how.amp,
        "compile": how.compile,
    }


def _identity(network: Network) -> dict[str, Any]:
    return {"name": network.name, "origin": network.origin, "weights": weights_digest(network.module)}


def _about(asked: Asked, command: str) -> dict[str, Any]:
    return {
        "command": command,
        "asked": asdict(replace(asked, images=str(Path(asked.images).absolute()))),
        "versions": versions(),
    }


def _fixed(how: How, train: pictures.Images, folder: Path) -> dict[str, Any]:
    """What depends on the moment: the same again when the run goes on."""
    budget = int(how.cache_gb * 1e9) if how.cache_gb is not None else (memory().free or 2**32) // 4
    return {
        "memory": max(0, budget - train.pixels.numel()),
        "disk": shutil.disk_usage(folder).free // 2,
        "threads": usable_cores(),
    }


def _started(
    plan: Plan, recipe: Recipe, fit: Fit, images: int, settings: Settings, threads: int, store: Store
) -> Started:
    return Started(
        teacher=plan.teacher.network.name,
        student=plan.student.network.name,
        recipe=recipe.name,
        blocks=settings.blocks or (),
        images=images,
        size=fit.size,
        crop_pct=fit.crop_pct,
        interpolation=fit.interpolation,
        mean=fit.mean,
        std=fit.std,
        device=str(settings.how.device),
        threads=threads,
        memory=settings.memory,
        seed=settings.seed,
        folder=str(store.folder),
        resumed=store.resumed,
    )


def _take_over(earlier: Path, folder: Path, settings: Mapping[str, Any], chosen: Sequence[int]) -> None:
    """Blocks that an earlier run trained each alone, in the same way, are finished here too."""
    theirs, ours = read_run(earlier)["settings"], as_json(settings)
    if any(theirs.get(key) != ours[key] for key in ours if key not in ("blocks", "recipe")):
        return
    alike = _alike(theirs["recipe"], ours["recipe"])
    alone = [stage["name"] for stage in alike if stage["train"] == "blocks"]
    for name in (f"{stage}-{block}.safetensors" for stage in alone for block in chosen):
        source, target = earlier / "blocks" / name, folder / "blocks" / name
        if source.exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _alike(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The stages with which both recipes begin, where they begin from the same weights and the same views."""
    if theirs == ours:
        return list(ours["stages"])
    if any(theirs[key] != ours[key] for key in ("init", "adapters", "views")) or ours["views"]["count"] is None:
        return []  # without a count, as many views are made as the longest stage can see
    pairs = zip(theirs["stages"], ours["stages"], strict=False)
    return [stage for stage, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]


# -- what comes out -----------------------------------------------------------------------------------------------


def _result(plan: Plan, folder: Path, chosen: tuple[int, ...], outcome: Outcome, images: int) -> Result:
    return Result(
        folder=str(folder),
        teacher=plan.teacher.network.name,
        student=plan.student.network.name,
        blocks=chosen,
        params=(plan.teacher.params, outcome.merged.params),
        macs=(plan.teacher.macs, outcome.merged.macs),
        bytes=(size_of(plan.teacher.network.module), size_of(outcome.merged.module)),
        stock=outcome.merged.stock,
        agreement=outcome.agreement,
        held_out=outcome.held_out,
        images=images,
        merge_errors=outcome.errors,
        seconds=outcome.seconds,
        peak_memory=peak_memory(),
    )


def _read_back(document: Mapping[str, Any]) -> Result:
    """The result of a run that was done before."""
    return replace(TypeAdapter(Result).validate_python(dict(document)), already_done=True)


def _made(plan: Plan, outcome: Outcome, fit: Fit, recipe: Recipe, result: Result, command: str) -> Made:
    """What the folder's files tell of the network."""
    agreement = f"{result.agreement:.1%} of {result.held_out} held-out images" if result.agreement is not None else None
    return Made(
        teacher=plan.teacher.network.origin,
        student=plan.student.network.origin,
        fit=fit,
        recipe=recipe.name,
        images=result.images,
        command=command,
        numbers={
            "parameters": result.params[1],
            "parameters of the teacher": result.params[0],
            "MACs": result.macs[1],
            "MACs of the teacher": result.macs[0],
            "agreement with the teacher": agreement,
        },
        hybrid=outcome.merged.facts,
    )


def _write_single(single: Path, outcome: Outcome, made: Made, train: pictures.Images) -> None:
    if single.suffix == ".onnx":
        write_onnx(outcome.merged.module, plain(train.pixels[:7], made.fit), single)
    else:
        write_weights(single, outcome.merged.module, made)
