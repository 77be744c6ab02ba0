"""The registry of losses between the student's outputs and the teacher's. To add a loss, add an entry.

torch is imported when a loss is computed, so that recipes can be read without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_MIN_SCALE = 1e-12


@dataclass(frozen=True)
class Loss:
    """A loss that recipes can name.

    Parameters:
        about: what it measures, for the reference of recipes.
        compute: the function of the student's output, the teacher's output and the temperature (None if it takes none).
            It returns a mean over the batch, so that processes that share a batch can add up their parts.
        scale: a function of the teacher's output whose mean over the batch divides the loss.
        temperature: the default temperature; None if the loss takes none.
        is_of_logits: whether it compares distributions over classes only, not feature maps.
        is_of_layers: whether stages with `train: layers` can use it, which minimise a squared error.
    """

    about: str
    compute: "Callable[[Tensor, Tensor, float | None], Tensor]"
    temperature: float | None = None
    scale: "Callable[[Tensor], Tensor] | None" = None
    is_of_logits: bool = False
    is_of_layers: bool = False

    def value(
        self,
        student: "Tensor",
        teacher: "Tensor",
        temperature: float | None = None,
        average: "Callable[[Tensor], Tensor]" = lambda value: value,
    ) -> "Tensor":
        """The loss of a batch, or this process's part of it; `average` takes the mean of `scale` over all processes."""
        loss = self.compute(student, teacher, temperature)
        return loss if self.scale is None else loss / average(self.scale(teacher)).clamp_min(_MIN_SCALE)


def norm_l2(student: "Tensor", teacher: "Tensor", temperature: float | None = None) -> "Tensor":
    """Shen et al., Eq. 7: the squared distance of the normalised logits, averaged over the images."""
    import torch.nn.functional as F

    return (F.normalize(student, dim=1) - F.normalize(teacher, dim=1)).square().sum(1).mean()


def squared_error(student: "Tensor", teacher: "Tensor", temperature: float | None = None) -> "Tensor":
    """The mean of |student - teacher|^2."""
    return (student - teacher).square().mean()


def mean_square(teacher: "Tensor") -> "Tensor":
    """The mean of |teacher|^2."""
    return teacher.square().mean()


def softened_kl(student: "Tensor", teacher: "Tensor", temperature: float | None) -> "Tensor":
    """T^2 KL(teacher / T || student / T), averaged over the images (Hinton et al. 2015)."""
    import torch.nn.functional as F

    assert temperature is not None  # the recipe sets a default
    soft = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(*soft, reduction="batchmean", log_target=True)


LOSSES = {
    "norm-l2": Loss("squared distance of the normalised logits", norm_l2),
    # 0 for equal outputs, 1 for outputs of zeros
    "mse": Loss(
        "squared error relative to the mean square of the teacher's output",
        squared_error,
        scale=mean_square,
        is_of_layers=True,
    ),
    "kl": Loss("KL divergence at a temperature", softened_kl, temperature=4.0, is_of_logits=True),
}
