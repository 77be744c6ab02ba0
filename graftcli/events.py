"""Progress events of a run, one frozen dataclass each. The library sends them to a listener, which displays them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Event:
    """Base class of all events."""


@dataclass(frozen=True)
class Warned(Event):
    """A warning for the user; the run continues."""

    text: str


@dataclass(frozen=True)
class ImagesDecoded(Event):
    """`done` of `total` images have been decoded."""

    done: int
    total: int


@dataclass(frozen=True)
class RunStarted(Event):
    """The resolved settings of a run, except the values in the recipe."""

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
    memory: int  # bytes of RAM for cached teacher features, before they spill to disk
    seed: int
    folder: str
    resumed: bool


@dataclass(frozen=True)
class EarlierRunChosen(Event):
    """`partial` takes its defaults from `folder`, the newest run, which was last active `seconds` ago."""

    folder: str
    seconds: float


@dataclass(frozen=True)
class InputSizeFound(Event):
    """`network` declares no input size, so the common size of the images is used."""

    network: str
    size: tuple[int, int]  # height, width


@dataclass(frozen=True)
class ImagesChecked(Event):
    """Statistics of the images: the teacher ran on `shown` of them and predicts `covered` of its classes."""

    images: int
    broken: int
    duplicates: int  # exact and near duplicates
    shown: int
    classes: int
    covered: int
    confidence: float  # median over the images
    advice: tuple[str, ...]


@dataclass(frozen=True)
class SyntheticImages(Event):
    """`done` of `total` synthetic images have been generated."""

    done: int
    total: int


@dataclass(frozen=True)
class StoredPart:
    """One part of what a run stores: images, computed views, features after a block, or logits."""

    what: Literal["images", "views", "features", "logits"]
    block: int | None  # of features
    bytes: int
    place: Literal["device", "memory", "disk", "recompute"]  # "recompute" if it is not stored


@dataclass(frozen=True)
class MemoryPlanned(Event):
    """Where each part is stored, announced before the teacher's pass over `views` views."""

    views: int
    parts: tuple[StoredPart, ...]


@dataclass(frozen=True)
class TeacherPass(Event):
    """The teacher has processed `done` of `total` views."""

    done: int
    total: int


@dataclass(frozen=True)
class BatchTimed(Event):
    """`done` of `total` latency measurements at one batch size have run."""

    batch: int
    done: int
    total: int


@dataclass(frozen=True)
class TaskStarted(Event):
    """Training of blocks first..last (numbered from 1) starts; `step` is above 0 when it resumes."""

    stage: str
    first: int
    last: int
    step: int
    steps: int
    done: int  # completed steps of the whole run
    total: int  # steps of the whole run


@dataclass(frozen=True)
class RateChosen(Event):
    """Short trials of a task have chosen the factor for its learning rate."""

    stage: str
    first: int
    last: int
    factor: float


@dataclass(frozen=True)
class TaskStep(Event):
    """One step of the task that trains blocks `first` to `last`."""

    stage: str
    first: int
    last: int
    step: int
    steps: int
    loss: float
    images_per_second: float


@dataclass(frozen=True)
class TaskFinished(Event):
    """A task is trained; `agreement` is the share of held-out views with the teacher's prediction."""

    stage: str
    first: int
    last: int
    steps: int
    loss: float
    agreement: float | None
    seconds: float


@dataclass(frozen=True)
class MergeChecked(Event):
    """The adapters are merged; each error is the largest logit difference as a share of the largest logit."""

    error64: float
    error32: float


@dataclass(frozen=True)
class LayersTried(Event):
    """`done` of `total` layers have been tried in int8, one at a time."""

    done: int
    total: int


@dataclass(frozen=True)
class CellStarted(Event):
    """A cell of a comparison starts after `done` completed ones."""

    cell: str
    done: int
    total: int


@dataclass(frozen=True)
class Profiled(Event):
    """A few steps of each task have been timed: `steps` steps in total are expected to take `seconds`."""

    steps: int
    seconds: float


@dataclass(frozen=True)
class TimeEstimated(Event):
    """Rough estimate from the speed of the first views: the remaining `steps` steps take about `seconds`."""

    steps: int
    seconds: float


@dataclass(frozen=True)
class FileSaved(Event):
    """A file was written."""

    path: str


Counted = ImagesDecoded | SyntheticImages | TeacherPass | BatchTimed | LayersTried
Listener = Callable[[Event], None]
