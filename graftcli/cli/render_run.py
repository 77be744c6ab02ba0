"""A run's events and results -> text and bars on a terminal."""

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


def said(event: events.Event) -> str | None:
    """An event in one line; None for what needs none."""
    match event:
        case events.RunStarted():
            return _settings(event)
        case events.ImagesChecked():
            return checked(event)
        case events.MergeChecked(error64, error32):
            return f"merged: differs by {error64:.1e} in float64, {error32:.1e} in float32, of the largest logit"
        case events.CellStarted(cell, done, total):
            return f"cell {done + 1} of {total}: {cell}"
        case events.Profiled(steps, seconds):
            return f"rehearsed: {steps:,} steps are expected to take {seconds:.0f} s"
        case events.TimeEstimated(steps, seconds):
            return f"expected: about {duration(seconds)} from here, for {steps:,} steps; --steps-scale takes fewer"
        case events.FileSaved(path):
            return f"written: {path}"
        case (
            events.ImagesDecoded()
            | events.SyntheticImages()
            | events.TeacherPass()
            | events.BatchTimed()
            | events.LayersTried()
        ):
            return _counted(event)
        case events.RateChosen() | events.TaskStarted() | events.TaskStep() | events.TaskFinished():
            return _trained(event)
    return None


def _counted(event: events.Counted) -> str:
    match event:
        case events.ImagesDecoded(done, total):
            return f"images: {done} of {total} read"
        case events.SyntheticImages(done, total):
            return f"images: {done} of {total} synthesised"
        case events.TeacherPass(done, total):
            return f"views: the teacher has seen {done} of {total}"
        case events.BatchTimed(batch, done, total):
            return f"latency at {_count(batch)}: {100 * done // total}%"
        case events.LayersTried(done, total):
            return f"int8: {done} of {total} layers tried"


def _trained(event: events.RateChosen | events.TaskStarted | events.TaskStep | events.TaskFinished) -> str:
    match event:
        case events.RateChosen(stage, first, last, factor):
            return f"{stage}: {blocks(first, last)}, at {factor:g} of its rate after short trials"
        case events.TaskStarted(stage, first, last, step, steps):
            again = f", on from step {step}" if step else ""
            return f"{stage}: {blocks(first, last)}, {steps} steps{again}"
        case events.TaskStep(stage, first, last, step, steps, loss, speed):
            return f"{stage}: {blocks(first, last)}, step {step} of {steps}, loss {loss:.4f}, {speed:.0f} images/s"
        case events.TaskFinished(stage, first, last, steps, loss, agreement, seconds):
            like = f", held-out agreement {agreement:.1%}" if agreement is not None else ""
            return f"{stage}: {blocks(first, last)} done, loss {loss:.4f}{like}, {seconds:.0f} s"


def _settings(run: events.RunStarted) -> str:
    """What the run goes by, in three lines."""
    size = "x".join(map(str, run.size))
    mean, std = (" ".join(f"{number:g}" for number in numbers) for numbers in (run.mean, run.std))
    again = ", goes on where it was broken off" if run.resumed else ""
    return "\n".join(
        (
            f"run: {run.teacher} -> {run.student}, {numbers(run.blocks)}, recipe {run.recipe}, seed {run.seed}",
            f"{run.images} images at {size}, crop {run.crop_pct:g}, {run.interpolation}, mean {mean}, std {std}",
            f"{run.device}, {run.threads} threads, {human(run.memory, 'B')} to remember in; {run.folder}{again}",
        )
    )


def checked(event: events.ImagesChecked) -> str:
    """The images of a run in a line, and in another one what to do about their classes."""
    twice = f", {event.duplicates} twice or nearly so" if event.duplicates else ""
    part = f" ({event.shown} of them shown)" if event.shown < event.images else ""
    seen = f"the teacher takes them for {event.covered} of {event.classes} classes{part}"
    said = f"images: {event.images}{twice}; {seen}, median confidence {event.confidence:.0%}"
    return "\n".join([said, *(f"images: {advice}" for advice in event.advice[:1])])


def _count(batch: int) -> str:
    return f"{batch} image{'s' * (batch > 1)}"


def blocks(first: int, last: int) -> str:
    return f"block {first}" if first == last else f"blocks {first}-{last}"


class Bars:
    """A bar for the whole run and one for the task at hand."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
            console=ERR,
        )
        self._whole = self._bars.add_task("whole run", total=None, told="", visible=False)
        self._now = self._bars.add_task("images", total=None, told="")
        self._behind = 0

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
            case events.ImagesDecoded(done, total):
                self._bars.update(self._now, description="images", completed=done, total=total)
            case events.SyntheticImages(done, total):
                self._bars.update(self._now, description="synthetic images", completed=done, total=total)
            case events.TeacherPass(done, total):
                self._bars.update(self._now, description="views", completed=done, total=total)
            case events.BatchTimed(batch, done, total):
                self._bars.update(self._now, description=f"latency, {_count(batch)}", completed=done, total=total)
            case events.LayersTried(done, total):
                self._bars.update(self._now, description="layers in int8", completed=done, total=total)
            case events.TaskStarted():
                self._begin(event)
            case events.TaskStep():
                told = f"loss {event.loss:.4f}, {event.images_per_second:.0f} images/s"
                self._bars.update(self._now, completed=event.step, told=told)
                self._bars.update(self._whole, completed=self._behind + event.step)
            case _:
                note(said(event) or "")

    def _begin(self, event: events.TaskStarted) -> None:
        self._behind = event.done
        self._bars.update(self._whole, total=event.total, completed=event.done + event.step, visible=True)
        name = f"{event.stage} {blocks(event.first, event.last)}"
        self._bars.reset(self._now, total=event.steps, completed=event.step, description=name, told="")


# -- results ------------------------------------------------------------------------------------------------------


def result(found: "Result") -> None:
    """Print what came out of a run, and where it lies."""
    if found.already_done:
        line(f"done before: {found.folder} holds the result of this very command")
    on = f"on views of {found.held_out} held-out images"
    agreement = f"{found.agreement:.1%} {on}" if found.agreement is not None else "not measured"
    rows = [
        (role, name, human(params), human(macs), human(size, "B"))
        for role, name, params, macs, size in zip(
            ("teacher", "result"),
            (found.teacher, f"{found.student}, {numbers(found.blocks)}"),
            found.params,
            found.macs,
            found.bytes,
            strict=True,
        )
    ]
    heads = ("parameters", "MACs", "size")
    table("", ("", "network", *heads), rows, right=heads)
    line()
    line(f"agreement with the teacher: {agreement}")
    if found.unmerged != (found.params[1], found.macs[1]):
        before = f"{human(found.unmerged[0])} parameters and {human(found.unmerged[1])} MACs"
        line(f"before its adapters were folded away: {before}")
    for kept in found.kept:
        line(f"adapter {kept}")
    if found.frozen:
        line(f"{numbers(found.frozen)} {'equal' if len(found.frozen) > 1 else 'equals'} the teacher: not trained")
    for setback in found.setbacks:
        change = f"{setback.before:.1%} before, {setback.after:.1%} after"
        kept = f"{setback.fraction:.0%} of its change is kept" if setback.fraction else "the weights before it are kept"
        ended = f", ended at step {setback.stopped}" if setback.stopped is not None else ""
        line(f"{setback.unit} lowered the agreement{ended}: {change}; {kept}, {setback.kept:.1%}")
    line(f"merged: differs by {found.merge_errors[0]:.1e} (float64) and {found.merge_errors[1]:.1e} (float32)")
    line(f"trained on {found.images} images, {found.seconds:.0f} s, at most {human(found.peak_memory, 'B')} of memory")
    line(f"written: {found.folder}")


def evaluation(found: "Evaluation") -> None:
    """Print each model's score on one folder."""
    for broken in found.broken:
        warning(f"left out: {broken}")
    size = "x".join(map(str, found.preprocess.size))
    line(f"{found.images} images at {size}, crop {found.preprocess.crop_pct:g}, {found.preprocess.interpolation}")
    if found.rule is not None:
        line(f"classes: {found.rule}")
    if found.teacher is not None:
        line(f"teacher: {found.teacher}")
    columns = ("model", "parameters", "top-1", "top-5", "agrees with teacher", "KL")
    rows = [
        (
            model.name,
            human(model.parameters),
            _rate(model.accuracy.top1 if model.accuracy else None),
            _rate(model.accuracy.top5 if model.accuracy else None),
            _rate(model.likeness.agreement if model.likeness else None),
            f"{model.likeness.kl:.4f}" if model.likeness else "",
        )
        for model in found.models
    ]
    table("", columns, rows, right=columns[1:])
    for model in found.models:
        if model.sha256 is not None:
            line(f"weights of {model.name}: sha256 {model.sha256}")


def _rate(found: "ShareOfImages | None") -> str:
    return "" if found is None else f"{found.share:.2%} ({found.low:.1%}-{found.high:.1%})"


def demo(shown: "DemoResult") -> None:
    """Print what the demo made, and what to type for one's own network."""
    rows = [
        (
            found.name,
            human(found.parameters),
            _rate(found.accuracy.top1),
            f"{found.seconds:.0f}" if found.seconds is not None else "",
        )
        for found in shown.lines
    ]
    images = shown.lines[0].accuracy.images
    table(
        f"Scored on {images} digits that none of them saw",
        ("", "parameters", "right", "seconds"),
        rows,
        ("parameters",),
    )
    line()
    line("The student saw 100 images, ten a digit, and no label. What was made:")
    for file in shown.files:
        line(f"  {file}")
    line()
    line("With your own network and images:")
    line("  graftcli distill --teacher resnet34 --student resnet18 --images ./photos")
