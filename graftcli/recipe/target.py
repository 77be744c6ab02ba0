"""The schema of a training target: which value is compared, by which loss."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field
from pydantic import ValidationInfo as Info
from pydantic import field_validator as rule

from graftcli.losses import LOSSES
from graftcli.recipe.values import POSITIVE, Positive, RecipeModel

if TYPE_CHECKING:
    LossName = str
else:
    LossName = Literal[tuple(LOSSES)]
_WITH_TEMPERATURE = " or ".join(
    f"`loss: {name}` (default: {loss.temperature:g})" for name, loss in LOSSES.items() if loss.temperature is not None
)


class Target(RecipeModel):
    """A training target and its loss. Where channels differ, `output` and `features` are compared through the seam.

    Parameters:
        at: `output` is the output of the last trained block at its cut, `outputs` that of each trained block. For the
            network's last block both mean `features`: the last feature map before pooling or before one map per class.
            `logits` are the logits of the hybrid. `head` are the logits of a unit with the last block; all other units
            ignore it.
    """

    at: Literal["logits", "output", "outputs", "features", "head"]
    loss: LossName
    temperature: Positive | None = Field(default=None, description=f"{POSITIVE}, only with {_WITH_TEMPERATURE}")
    weight: Positive = Field(default=1.0, description=POSITIVE)

    @rule("loss")
    @classmethod
    def _some_need_logits(cls, loss: str, info: Info) -> str:
        if LOSSES[loss].is_of_logits and info.data.get("at") in ("output", "outputs", "features"):
            raise ValueError(
                f"found {loss}, which needs logits: use it with `at: logits` or head; with {info.data['at']} use mse"
            )
        return loss

    @rule("temperature")
    @classmethod
    def _some_have_a_temperature(cls, temperature: float | None, info: Info) -> float | None:
        if (name := info.data.get("loss")) is None:
            return temperature
        default = LOSSES[name].temperature
        if temperature is not None and default is None:
            having = " and ".join(name for name, loss in LOSSES.items() if loss.temperature is not None)
            raise ValueError(
                f"found {temperature}, but the loss is {name} and only {having} has a temperature: remove it"
            )
        return default if temperature is None else temperature
