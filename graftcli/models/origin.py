"""The JSON that describes a network: its origin, from which its architecture is rebuilt, and graft.json.

`kind` selects the form of an origin. `loading.documents` bounds the values of a document that was read from a file.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

from graftcli.models.cuts.positions import Layout

Role = Literal["teacher", "student"]
Kwargs = Mapping[str, Any]  # JSON values, for constructors whose parameters are not known here


class PreprocessFacts(TypedDict):
    """`PreprocessDefaults` as JSON."""

    mean: Sequence[float]
    std: Sequence[float]
    crop_pct: float
    interpolation: str
    squash: NotRequired[bool]  # missing in older documents


class _Complete(TypedDict, total=False):
    """The fields that `saved.complete` adds to every origin."""

    name: str
    input_size: Sequence[int]
    num_classes: int
    preprocess: PreprocessFacts


class LibraryOrigin(_Complete):
    """A model of timm or torchvision, by its `name`."""

    kind: Literal["timm", "torchvision"]
    kwargs: Kwargs


class CodeOrigin(_Complete):
    """A factory of user code."""

    kind: Literal["code"]
    where: str  # a file or a package
    call: str
    kwargs: Kwargs
    sha256: str | None  # of a file


class ModuleOrigin(_Complete):
    """A module that was passed from Python, valid in one process."""

    kind: Literal["in-memory"]
    key: str


class SelectionFacts(TypedDict):
    """A `ChannelSelection` as JSON; its channels are text such as `0-2,5`."""

    layer: str
    teacher_layer: str
    outputs: str
    inputs: str
    exact: bool


class ConvolutionFacts(TypedDict):
    """The arguments of a convolution that replaces a layer."""

    in_channels: int
    out_channels: int
    kernel_size: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int] | str
    dilation: Sequence[int]
    groups: int
    padding_mode: str
    bias: bool


class DerivedOrigin(_Complete):
    """A network derived from another one, `base`."""

    kind: Literal["derived"]
    spec: str
    base: "Origin"
    kept: Sequence[SelectionFacts]
    whole: Sequence[str]  # layers that keep all channels although the spec would narrow them
    replaced: Mapping[str, Sequence[ConvolutionFacts]]


Origin = LibraryOrigin | CodeOrigin | ModuleOrigin | DerivedOrigin


class CutFacts(TypedDict):
    """A cut of a hybrid, by its name and its number among the positions of that name."""

    name: str
    which: int
    shape: Sequence[int]
    layout: str


class JointFacts(TypedDict):
    """An adapter or a layout change between two blocks of a hybrid."""

    cut: int
    name: Literal["to_student", "to_teacher", "both"]
    source: Layout
    target: Layout
    size: Sequence[int]
    shape: Sequence[int] | None


class HybridFacts(TypedDict):
    """How a hybrid is put together from the blocks of two networks."""

    input_size: Sequence[int]
    blocks: Sequence[Role]
    cuts: Mapping[Role, Sequence[CutFacts]]
    seams: Sequence[JointFacts]
    reshaped: Mapping[str, Sequence[int]]  # shapes of layers that differ from the original


class InputFacts(PreprocessFacts):
    """The preprocessing and size that a network was trained with."""

    size: Sequence[int]


class _Saved(TypedDict):
    format: int
    teacher: Origin  # bounded only if the network has blocks of it
    student: Origin
    preprocess: InputFacts
    classes: int


class SavedStudent(_Saved):
    """graft.json of a student."""

    kind: Literal["student"]
    hybrid: None


class SavedHybrid(_Saved):
    """graft.json of a hybrid."""

    kind: Literal["hybrid"]
    hybrid: HybridFacts


SavedNetwork = SavedStudent | SavedHybrid
