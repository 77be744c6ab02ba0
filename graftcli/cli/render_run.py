"""Print the progress of a run and results: lines, progress bars and tables."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from graftcli import events
from graftcli.cli.render import ERR, human, line, note, table, warning
from graftcli.report.format import duration, numbers

if TYPE_CHECKING:
    from graftcli.demo.show import DemoResult
    from graftcli.measure import ShareOfImages
    from graftcli.runs.result import Result
    from graftcli.runs.scoring import Evaluation
    from graftcli.store.run_record import Setback


_NAMES: dict[type[events.Event], str] = {
    events.ImagesDecoded: "images",
    events.SyntheticImages: "synthetic images",
    events.TeacherPass: "views",
    events.LayersTried: "layers in int8",
}


def describe(event: events.Event) -> str | None:
    """Describe an event in one line, or in a few; None if it needs no line."""
    match event:
        case events.RunStarted():
            return _settings(event)
        case events.ImagesChecked():
            return _images(event)
        case events.MergeChecked(error64, error32):
            return f"merge error: {error64:.1e} in float64, {error32:.1e} in float32, of the largest logit"
        case events.CellStarted(cell, done, total):
            return f"cell {done + 1} of {total}: {cell}"
        case events.Profiled(steps, seconds):
            return f"profiled: {_count(steps, 'step')} should take {seconds:.0f} s"
        case events.TimeEstimated(steps, seconds):
            return f"estimated time: about {duration(seconds)} for {_count(steps, 'step')}; --steps-scale reduces them"
        case events.FileSaved(path):
            return f"written: {path}"
        case _ if isinstance(event, events.Counted):
            return _counted(event)
        case events.RateChosen() | events.TaskStarted() | events.TaskStep() | events.TaskFinished():
            return _trained(event)
    return None


def _counted(event: events.Counted) -> str:
    match event:
        case events.ImagesDecoded(done, total):
            return f"images: {done} of {total} decoded"
        case events.SyntheticImages(done, total):
            return f"synthetic images: {done} of {total} generated"
        case events.TeacherPass(done, total):
            return f"teacher features: {done} of {total} views cached"
        case events.BatchTimed(batch, done, total):
            return f"latency at {_count(batch, 'image')}: {100 * done // total}%"
        case events.LayersTried(done, total):
            return f"int8: {done} of {total} layers tried"


def _activity(event: events.Counted) -> str:
    """Name the work that an event counts, for a progress bar."""
    return f"latency, {_count(event.batch, 'image')}" if isinstance(event, events.BatchTimed) else _NAMES[type(event)]


def _trained(event: events.RateChosen | events.TaskStarted | events.TaskStep | events.TaskFinished) -> str:
    match event:
        case events.RateChosen(stage, first, last, factor):
            return f"{stage}: {blocks(first, last)}, learning rate scaled by {factor:g} after short trials"
        case events.TaskStarted(stage, first, last, step, steps):
            resumed = f", resuming at step {step}" if step else ""
            return f"{stage}: {blocks(first, last)}, {_count(steps, 'step')}{resumed}"
        case events.TaskStep(stage, first, last, step, steps, loss, speed):
            return f"{stage}: {blocks(first, last)}, step {step} of {steps}, loss {loss:.4f}, {speed:.0f} images/s"
        case events.TaskFinished(stage, first, last, steps, loss, agreement, seconds):
            held_out = f", held-out agreement {agreement:.1%}" if agreement is not None else ""
            return f"{stage}: {blocks(first, last)} done, loss {loss:.4f}{held_out}, {seconds:.0f} s"


def _settings(run: events.RunStarted) -> str:
    size = "x".join(map(str, run.size))
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (run.mean, run.std))
    images, cache = _count(run.images, "image"), f"feature cache: {run.memory / 2**20:,.0f} MiB"
    resuming = ", resuming" if run.resumed else ""
    return "\n".join(
        (
            f"run: {run.teacher} -> {run.student}, {numbers(run.blocks)}, recipe {run.recipe}, seed {run.seed}",
            f"{images} at {size}, crop {run.crop_pct:g}, {run.interpolation}, mean {mean}, std {std}",
            f"{run.device}, {_count(run.threads, 'thread')}, {cache}; {run.folder}{resuming}",
        )
    )


def _images(event: events.ImagesChecked) -> str:
    """Summarise the images of a run in one line, and their first advice in another."""
    duplicates = f" ({_count(event.duplicates, 'duplicate')})" if event.duplicates else ""
    sample = f" on {event.shown} of them" if event.shown < event.images else ""
    predicted = f"teacher predicts {event.covered} of its {event.classes} classes{sample}"
    summary = f"images: {event.images}{duplicates}; {predicted}, median confidence {event.confidence:.0%}"
    return "\n".join([summary, *(f"images: {advice}" for advice in event.advice[:1])])


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def blocks(first: int, last: int) -> str:
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
                note(describe(event) or "")

    def _start_task(self, event: events.TaskStarted) -> None:
        self._done = event.done
        self._bars.update(self._run, total=event.total, completed=event.done + event.step, visible=True)
        name = f"{event.stage} {blocks(event.first, event.last)}"
        self._bars.reset(self._task, total=event.steps, completed=event.step, description=name, status="")


# -- results ------------------------------------------------------------------------------------------------------


def result(run: "Result") -> None:
    """Print the result of a run and its folder."""
    if run.already_done:
        line(f"already done: {run.folder} holds the result of this command")
    names = (run.teacher, f"{run.student}, {numbers(run.blocks)}")
    costs = zip(run.params, run.macs, run.bytes, strict=True)
    rows = [
        (role, name, human(params), human(macs), human(size, "B"))
        for role, name, (params, macs, size) in zip(("teacher", "result"), names, costs, strict=True)
    ]
    numeric = ("parameters", "MACs", "size")
    table("", ("", "network", *numeric), rows, right=numeric)
    line()
    views = f"on views of {_count(run.held_out, 'held-out image')}"
    agreement = f"{run.agreement:.1%} {views}" if run.agreement is not None else "not measured"
    line(f"agreement with the teacher: {agreement}")
    if run.unmerged != (run.params[1], run.macs[1]):
        line(f"before merging the adapters: {human(run.unmerged[0])} parameters and {human(run.unmerged[1])} MACs")
    for adapter in run.kept:
        line(f"adapter {adapter.adapter} at cut {adapter.cut} stays a layer: {adapter.reason}")
    if run.frozen:
        line(f"{numbers(run.frozen)} {'equal' if len(run.frozen) > 1 else 'equals'} the teacher: not trained")
    for setback in run.setbacks:
        line(_setback(setback))
    line(f"merge error: {run.merge_errors[0]:.1e} (float64), {run.merge_errors[1]:.1e} (float32)")
    images = _count(run.images, "image")
    line(f"trained on {images} in {run.seconds:.0f} s, peak memory {human(run.peak_memory, 'B')}")
    line(f"written: {run.folder}")


def _setback(setback: "Setback") -> str:
    """Describe a task that made the student worse, and which share of its weight change is kept."""
    change = f"{setback.before:.1%} before, {setback.after:.1%} after"
    kept = f"{setback.fraction:.0%} of the weight change kept" if setback.fraction else "previous weights restored"
    stopped = f" and stopped at step {setback.stopped}" if setback.stopped is not None else ""
    return f"{setback.unit} made the student worse{stopped}: {change}; {kept}, agreement {setback.kept:.1%}"


def evaluation(scores: "Evaluation") -> None:
    """Print the scores of each model on one folder."""
    for broken in scores.broken:
        warning(f"skipped: {broken}")
    size = "x".join(map(str, scores.preprocess.size))
    crop, interpolation = scores.preprocess.crop_pct, scores.preprocess.interpolation
    line(f"{_count(scores.images, 'image')} at {size}, crop {crop:g}, {interpolation}")
    if scores.rule is not None:
        line(f"classes: {scores.rule}")
    if scores.teacher is not None:
        line(f"teacher: {scores.teacher}")
    columns = ("model", "parameters", "top-1", "top-5", "agreement with teacher", "KL")
    rows = [
        (
            model.name,
            human(model.parameters),
            _rate(model.accuracy.top1 if model.accuracy else None),
            _rate(model.accuracy.top5 if model.accuracy else None),
            _rate(model.likeness.agreement if model.likeness else None),
            f"{model.likeness.kl:.4f}" if model.likeness else "",
        )
        for model in scores.models
    ]
    table("", columns, rows, right=columns[1:])
    for model in scores.models:
        if model.sha256 is not None:
            line(f"weights of {model.name}: sha256 {model.sha256}")


def _rate(share: "ShareOfImages | None") -> str:
    return "" if share is None else f"{share.share:.2%} ({share.low:.1%}-{share.high:.1%})"


def demo(scores: "DemoResult") -> None:
    """Print the scores and files of the demo, and the command for other networks."""
    rows = [
        (
            network.name,
            human(network.parameters),
            _rate(network.accuracy.top1),
            f"{network.seconds:.0f}" if network.seconds is not None else "",
        )
        for network in scores.lines
    ]
    images = scores.lines[0].accuracy.images
    table(f"Accuracy on {images} test digits", ("", "parameters", "accuracy", "seconds"), rows, ("parameters",))
    line()
    line("The student was trained on 100 unlabelled images, 10 per digit. Files:")
    for file in scores.files:
        line(f"  {file}")
    line()
    line("With your own networks and images:")
    line("  graftcli distill --teacher resnet34 --student resnet18 --images ./photos")
