"""Print the progress and the result of a run: lines, progress bars and tables."""

import re
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from graftcli import events
from graftcli.cli.render import ERR, human, line, note, table, warning
from graftcli.report.format import agreement, duration, loading, numbers

if TYPE_CHECKING:
    from graftcli.runs.result import Result
    from graftcli.store.run_record import Setback


_NAMES: dict[type[events.Event], str] = {
    events.ImagesDecoded: "images",
    events.SyntheticImages: "synthetic images",
    events.TeacherPass: "views",
    events.LayersTried: "layers in int8",
}


def describe(event: events.Event) -> str:
    """Describe an event in one or a few lines; events without a text here are shown by name and fields."""
    match event:
        case events.EarlierRunChosen() | events.InputSizeFound() | events.RunStarted() | events.ImagesChecked():
            return _begun(event)
        case events.MergeChecked(error64, error32):
            return f"merge error: {error64:.1e} in float64, {error32:.1e} in float32, of the largest logit"
        case events.CellStarted(cell, done, total):
            return f"cell {done + 1} of {total}: {cell}"
        case events.Profiled(steps, seconds):
            return f"profiled: {count(steps, 'step')} should take {seconds:.0f} s"
        case events.TimeEstimated(steps, seconds):
            return f"estimated time: about {duration(seconds)} for {count(steps, 'step')}; --steps-scale reduces them"
        case events.FileSaved(path):
            return f"written: {path}"
        case _ if isinstance(event, events.Counted):
            return _counted(event)
        case events.MemoryPlanned(views, parts):
            return f"{count(views, 'view')}; " + ", ".join(map(stored, parts))
        case events.RateChosen() | events.TaskStarted() | events.TaskStep() | events.TaskFinished():
            return _trained(event)
        case _:
            facts = (f"{name.replace('_', ' ')} {value}" for name, value in asdict(event).items())
            return f"{_name(event)}: {', '.join(facts)}"


_PLACES = {"device": "on the device", "memory": "in memory", "disk": "on disk", "recompute": "recomputed"}


def stored(part: events.StoredPart) -> str:
    """Describe what is stored, how large it is, and where."""
    name = part.what if part.block is None else f"features {part.block}"
    return f"{name} {human(part.bytes)}B {_PLACES[part.place]}"


def _name(event: events.Event) -> str:
    """The name of an event's class in words, such as "teacher pass"."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(event).__name__).lower()


def _counted(event: events.Counted) -> str:
    match event:
        case events.ImagesDecoded(done, total):
            return f"images: {done} of {total} decoded"
        case events.SyntheticImages(done, total):
            return f"synthetic images: {done} of {total} generated"
        case events.TeacherPass(done, total):
            return f"teacher features: {done} of {total} views cached"
        case events.BatchTimed(batch, done, total):
            return f"latency at {count(batch, 'image')}: {100 * done // total}%"
        case events.LayersTried(done, total):
            return f"int8: {done} of {total} layers tried"


def _activity(event: events.Counted) -> str:
    """Name the work that an event counts, for a progress bar."""
    if isinstance(event, events.BatchTimed):
        return f"latency, {count(event.batch, 'image')}"
    return _NAMES.get(type(event), _name(event))


def _trained(event: events.RateChosen | events.TaskStarted | events.TaskStep | events.TaskFinished) -> str:
    match event:
        case events.RateChosen(stage, first, last, factor):
            return f"{stage}: {blocks(first, last)}, learning rate scaled by {factor:g} after short trials"
        case events.TaskStarted(stage, first, last, step, steps):
            resumed = f", resuming at step {step}" if step else ""
            return f"{stage}: {blocks(first, last)}, {count(steps, 'step')}{resumed}"
        case events.TaskStep(stage, first, last, step, steps, loss, speed):
            return f"{stage}: {blocks(first, last)}, step {step} of {steps}, loss {loss:.4f}, {speed:.0f} images/s"
        case events.TaskFinished(stage, first, last, steps, loss, agreement, seconds):
            held_out = f", held-out agreement {agreement:.1%}" if agreement is not None else ""
            return f"{stage}: {blocks(first, last)} done, loss {loss:.4f}{held_out}, {seconds:.0f} s"


def _begun(
    event: events.EarlierRunChosen | events.InputSizeFound | events.RunStarted | events.ImagesChecked,
) -> str:
    match event:
        case events.EarlierRunChosen(folder, seconds):
            return f"from {folder}, the newest run ({duration(seconds)} ago); --run names another"
        case events.InputSizeFound(network, (height, width)):
            return (
                f"input size: {height}x{width}, that of the images; {network} names none, and --img-size sets another"
            )
        case events.RunStarted():
            return _settings(event)
        case events.ImagesChecked():
            return _images(event)


def _settings(run: events.RunStarted) -> str:
    size = "x".join(map(str, run.size))
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (run.mean, run.std))
    images, cache = count(run.images, "image"), f"feature cache: {run.memory / 2**20:,.0f} MiB"
    resuming = ", resuming" if run.resumed else ""
    return "\n".join(
        (
            f"run: {run.teacher} -> {run.student}, {numbers(run.blocks)}, recipe {run.recipe}, seed {run.seed}",
            f"{images} at {size}, crop {run.crop_pct:g}, {run.interpolation}, mean {mean}, std {std}",
            f"{run.device}, {count(run.threads, 'thread')}, {cache}; {run.folder}{resuming}",
        )
    )


def _images(event: events.ImagesChecked) -> str:
    """Summarise the images of a run in one line, and their first advice in another."""
    duplicates = f" ({count(event.duplicates, 'duplicate')})" if event.duplicates else ""
    sample = f" on {event.shown} of them" if event.shown < event.images else ""
    predicted = f"teacher predicts {event.covered} of its {event.classes} classes{sample}"
    summary = f"images: {event.images}{duplicates}; {predicted}, median confidence {event.confidence:.0%}"
    return "\n".join([summary, *(f"images: {advice}" for advice in event.advice[:1])])


def count(number: int, noun: str) -> str:
    """Format a number of things, such as "1 step" or "1,000 steps"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def blocks(first: int, last: int) -> str:
    """The name of a range of blocks."""
    return f"block {first}" if first == last else f"blocks {first}-{last}"


class Bars:
    """A listener that shows two progress bars: the whole run and the current task."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=ERR,
        )
        self._run = self._bars.add_task("whole run", total=None, status="", visible=False)
        self._task = self._bars.add_task("images", total=None, status="")
        self._done = 0  # steps of the completed tasks

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, event: events.Event) -> None:
        """Draw an event."""
        match event:
            case events.Warned(text):
                warning(text)
            case _ if isinstance(event, events.Counted):
                self._bars.update(self._task, description=_activity(event), completed=event.done, total=event.total)
            case events.TaskStarted():
                self._start_task(event)
            case events.TaskStep():
                status = f"loss {event.loss:.4f}, {event.images_per_second:.0f} images/s"
                self._bars.update(self._task, completed=event.step, status=status)
                self._bars.update(self._run, completed=self._done + event.step)
            case _:
                note(describe(event))

    def _start_task(self, event: events.TaskStarted) -> None:
        self._done = event.done
        self._bars.update(self._run, total=event.total, completed=event.done + event.step, visible=True)
        name = f"{event.stage} {blocks(event.first, event.last)}"
        self._bars.reset(self._task, total=event.steps, completed=event.step, description=name, status="")


# -- results ------------------------------------------------------------------------------------------------------


def result(run: "Result") -> None:
    """Print the result of a run and its folder."""
    if run.already_done:
        line(f"already done: {run.folder} contains the result of this command")
    names = (run.teacher, f"{run.student}, {numbers(run.blocks)}")
    costs = zip(run.params, run.macs, run.bytes, strict=True)
    rows = [
        (role, name, human(params), human(macs), human(size, "B"))
        for role, name, (params, macs, size) in zip(("teacher", "result"), names, costs, strict=True)
    ]
    numeric = ("parameters", "MACs", "size")
    table("", ("", "network", *numeric), rows, right=numeric)
    line()
    agreed = agreement(run.agreement, run.held_out) if run.agreement is not None else "not measured; see --val-images"
    line(f"agreement with the teacher: {agreed}")
    if run.unmerged != (run.params[1], run.macs[1]):
        line(f"before merging the adapters: {human(run.unmerged[0])} parameters and {human(run.unmerged[1])} MACs")
    for adapter in run.kept:
        line(f"adapter {adapter.adapter} at cut {adapter.cut} stays a layer: {adapter.reason}")
    if run.frozen:
        line(f"{numbers(run.frozen)} {'equal' if len(run.frozen) > 1 else 'equals'} the teacher: not trained")
    for setback in run.setbacks:
        line(_setback(setback))
    line(f"merge error: {run.merge_errors[0]:.1e} (float64), {run.merge_errors[1]:.1e} (float32)")
    images = count(run.images, "image")
    line(f"trained on {images} in {run.seconds:.0f} s, peak memory {human(run.peak_memory, 'B')}")
    line(f"the result {loading(run.kind, stock=run.stock)}")
    line(f"written: {run.folder}")


def _setback(setback: "Setback") -> str:
    """Describe a task that made the student worse, and the share of its weight change that is kept."""
    change = f"{setback.before:.1%} before, {setback.after:.1%} after"
    kept = f"{setback.fraction:.0%} of the weight change kept" if setback.fraction else "previous weights restored"
    stopped = f" and stopped at step {setback.stopped}" if setback.stopped is not None else ""
    return f"{setback.unit} made the student worse{stopped}: {change}; {kept}, agreement {setback.kept:.1%}"
