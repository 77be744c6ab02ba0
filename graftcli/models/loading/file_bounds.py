"""Size limits for weights files, and the errors for files that exceed them or are damaged."""

import re
from pathlib import Path
from typing import NoReturn

from graftcli.errors import CheckpointError

MAX_HEADER = 32 << 20  # bytes of a tensor index: about 200,000 tensors
MAX_PICKLE = 128 << 20  # bytes of a checkpoint without its tensors
MAX_DEPTH = 100  # nesting depth of containers; dimensions of a tensor
COPY_AGAIN = "Copy or download it again."


def raise_over_limit(file: Path, what: str) -> NoReturn:
    """Raise the error for a file that exceeds a limit; `what` describes the limit."""
    message = f"`{file}` exceeds a limit: {what}."
    raise CheckpointError(message, "Save only the weights: torch.save(net.state_dict(), …).")


def damaged(file: Path, err: Exception) -> CheckpointError:
    """The error for a damaged file, with the first sentence of `err`."""
    reason = str(err).rsplit("WeightsUnpickler error: ", 1)[-1].strip() or type(err).__name__
    first = re.split(r"\n|\. ", reason)[0].rstrip(".")[:300]
    return CheckpointError(f"`{file}` is truncated or damaged: {first}.", COPY_AGAIN)
