"""What can happen in a run, one frozen dataclass each. The engine tells a listener, who decides what to draw."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    pass


@dataclass(frozen=True)
class Warned(Event):
    """Something that the user should know although the run goes on."""

    text: str


@dataclass(frozen=True)
class ImagesDecoded(Event):
    """So many of the images have been read."""

    done: int
    total: int


@dataclass(frozen=True)
class RunStarted(Event):
    """What the run goes by, resolved: all but the recipe's own numbers."""

    teacher: str
    student: str
    recipe: str
    blocks: tuple[int, ...]
    images: int
    size: tuple[int, int]  # height, width
    crop_pct: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str
    threads: int
    memory: int  # bytes for what is remembered, before the disk is used
    seed: int
    folder: str
    resumed: bool


@dataclass(frozen=True)
class ImagesChecked(Event):
    """What a run's images are: `shown` of them to the teacher, which takes them for `covered` of its classes."""

    images: int
    broken: int
    duplicates: int  # images that are the same as another one, or nearly
    shown: int
    classes: int
    covered: int
    confidence: float  # the median
    advice: tuple[str, ...]


@dataclass(frozen=True)
class SyntheticImages(Event):
    """So many of the synthetic images are made."""

    done: int
    total: int


@dataclass(frozen=True)
class TeacherPass(Event):
    """The teacher has seen so many of the views."""

    done: int
    total: int


@dataclass(frozen=True)
class BatchTimed(Event):
    """So much of the measuring at one batch is done."""

    batch: int
    done: int
    total: int


@dataclass(frozen=True)
class TaskStarted(Event):
    """A unit of a stage is trained from here: blocks first..last, numbered from 1; `step` is above 0 after a resume."""

    stage: str
    first: int
    last: int
    step: int
    steps: int
    done: int  # steps of the whole run that lie behind
    total: int  # steps of the whole run


@dataclass(frozen=True)
class RateChosen(Event):
    """Short trials of a unit have shown with which factor of its rate it is trained."""

    stage: str
    first: int
    last: int
    factor: float


@dataclass(frozen=True)
class TaskStep(Event):
    stage: str
    first: int
    last: int
    step: int
    steps: int
    loss: float
    images_per_second: float


@dataclass(frozen=True)
class TaskFinished(Event):
    """A unit of a stage is trained; `agreement` is the share of held-out views with the teacher's answer."""

    stage: str
    first: int
    last: int
    steps: int
    loss: float
    agreement: float | None
    seconds: float


@dataclass(frozen=True)
class MergeChecked(Event):
    """The seams are folded away; the largest differences of the logits, as a share of the largest logit."""

    error64: float
    error32: float


@dataclass(frozen=True)
class LayersTried(Event):
    """So many of a network's layers have been tried in int8, each alone."""

    done: int
    total: int


@dataclass(frozen=True)
class CellStarted(Event):
    """The next cell of a comparison is begun: `done` of its cells lie behind."""

    cell: str
    done: int
    total: int


@dataclass(frozen=True)
class Profiled(Event):
    """A few steps of each unit have been timed: so many steps in all are to end within so many seconds."""

    steps: int
    seconds: float


@dataclass(frozen=True)
class TimeEstimated(Event):
    """Roughly, from the pace of the first looks: from there on so many steps are to end within so many seconds."""

    steps: int
    seconds: float


@dataclass(frozen=True)
class FileSaved(Event):
    path: str


Counted = ImagesDecoded | SyntheticImages | TeacherPass | BatchTimed | LayersTried
Listener = Callable[[Event], None]
