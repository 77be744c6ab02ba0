"""The bounds of a file of weights, and the refusals of one that exceeds them or is damaged."""

import re
from pathlib import Path
from typing import NoReturn

from graftcli.errors import CheckpointError

MOST_HEADER = 32 << 20  # bytes of a list of tensors: some 200,000 of them
MOST_PICKLE = 128 << 20  # bytes of everything in a checkpoint that is no tensor
DEEPEST = 100  # containers in containers, and dimensions of a tensor
COPY_AGAIN = "Copy or download it again."


def too_much(file: Path, what: str) -> NoReturn:
    """Refuse a file that exceeds a bound; `what` says which one."""
    found = f"`{file}` is refused: {what}."
    raise CheckpointError(found, "Save the weights alone: torch.save(net.state_dict(), …).")


def damaged(file: Path, err: Exception) -> CheckpointError:
    """The refusal of a damaged file, with the first sentence of the error that reading it raised."""
    reason = str(err).rsplit("WeightsUnpickler error: ", 1)[-1].strip() or type(err).__name__
    first = re.split(r"\n|\. ", reason)[0].rstrip(".")[:300]
    return CheckpointError(f"`{file}` is cut short or damaged: {first}.", COPY_AGAIN)
