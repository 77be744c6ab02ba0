"""Where the weights of a network come from."""

from dataclasses import dataclass
from enum import Enum


class WeightsOrigin(Enum):
    """The kinds of weights that a network can have; the values are how they are described."""

    RANDOM = "random"
    PRETRAINED = "pretrained ({})"  # their URL or name
    CHECKPOINT = "{}"  # the file, and how many of its tensors were used
    CODE = "set by its factory"
    MODULE = "of the module"
    TEACHER = "the teacher's"
    RUN = "{}: written by graftcli"


@dataclass(frozen=True)
class Weights:
    """The origin of a network's weights, the file or name, and what was changed."""

    origin: WeightsOrigin
    name: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_random(self) -> bool:
        """Whether no weights were given."""
        return self.origin is WeightsOrigin.RANDOM

    def __str__(self) -> str:
        """A description: "random", "pretrained (IMAGENET1K_V1)", "resnet56.th: 277 of 277 tensors"."""
        return "; ".join([self.origin.value.format(self.name), *self.notes])
