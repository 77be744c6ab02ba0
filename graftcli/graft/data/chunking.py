"""The number of views per forward pass of the teacher."""

from collections.abc import Sequence

import torch

# bytes of the teacher's largest feature map per forward pass; on a CPU, maps that fit in its caches are faster
_CHUNK_BYTES = {"cpu": 2**23}
_CHUNK_BYTES_ELSEWHERE = 2**28


def chunk_size(shapes: Sequence[tuple[int, ...]], device: torch.device) -> int:
    """Return the views per forward pass of the teacher: 8 to 64 on a CPU, up to 256 elsewhere."""
    largest = 4 * max(torch.Size(shape).numel() for shape in shapes)
    most = 64 if device.type == "cpu" else 256
    return max(8, min(most, _CHUNK_BYTES.get(device.type, _CHUNK_BYTES_ELSEWHERE) // largest))
