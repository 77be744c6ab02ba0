"""Build a network that a document describes, within the bounds of its weights file."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from graftcli.errors import CheckpointError, GraftError
from graftcli.models.loading.documents import FIX


class _Bounded(TorchDispatchMode):
    """Refuse tensors that are out of proportion to the weights file."""

    def __init__(self, document: Path, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.document, self.bytes, self.tensors = document, limit, _MAX_TENSORS

    def __torch_dispatch__(
        self,
        func: OpOverload[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func.overloadpacket in _ALLOCATORS and args and isinstance(args[0], list | tuple | torch.Size):
            self.bytes -= 4 * math.prod(int(side) for side in args[0])
            self.tensors -= 1
            if min(self.bytes, self.tensors) < 0:
                raise self._refusal("more tensors than its weights fill")
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.nbytes > _MAX_TENSOR_BYTES and not result.is_meta:
            raise self._refusal(f"a tensor of {result.nbytes / 2**20:,.0f} MiB")
        return result

    def _refusal(self, content: str) -> CheckpointError:
        return CheckpointError(f"`{self.document}` describes a network that cannot be built: it has {content}.", FIX)


_aten = torch.ops.aten
_ALLOCATORS = {_aten.empty, _aten.zeros, _aten.ones, _aten.full, _aten.rand, _aten.randn, _aten.empty_strided}
_MAX_TENSORS = 100_000
_MAX_TENSOR_BYTES = 2**29  # largest tensor in bytes, activations during tracing included
_SLACK = 2**28  # bytes allowed beyond the weights


@contextmanager
def building(document: Path, weights: int) -> Iterator[None]:
    """A context to build a document's network: errors become one CheckpointError; tensors must fit `weights` bytes."""
    try:
        with _Bounded(document, 8 * (weights or _SLACK) + _SLACK):
            yield
    except GraftError:
        raise
    except (Exception, RecursionError) as err:
        reason = " ".join(f"{type(err).__name__}: {err}".split())[:200]
        raise CheckpointError(f"`{document}` describes a network that cannot be built: {reason}.", FIX) from err
