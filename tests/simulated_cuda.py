"""A stand-in for a CUDA device: tensors on "cuda:0" whose numbers are computed on the CPU.

As on a real device, an operation that mixes tensors of two devices raises. Operations that make the host wait for the
device are recorded, so that a test can forbid them. Numbers are real, so a run "on cuda" can be compared with one on
the CPU. torch's FakeTensorMode has no numbers, so that code that reads a loss would fail.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
CUDA = torch.device("cuda:0")
_SIMULATED = ("cuda", "meta")

_READS = {  # operations whose result, or the shape of it, depends on the values of a tensor
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.unique_dim.default,
    aten._unique2.default,
    aten.repeat_interleave.Tensor,
}
_COPIES = {aten._to_copy.default, aten.copy_.default}


class MixedDevices(RuntimeError):
    """An operation on tensors of two devices."""


class OnCuda(Tensor):
    """A tensor that is on the simulated device; `numbers` has its values, on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls: "type[OnCuda]", numbers: Tensor) -> "OnCuda":
        shell = torch.empty_strided(numbers.shape, numbers.stride(), dtype=numbers.dtype, device="meta")
        self = Tensor._make_subclass(cls, shell, False, dispatch_device=True, device_for_backend_keys=CUDA)
        self.numbers = numbers
        return self

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's own stub lacks `func`
        cls,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        return _run(func, args, dict(kwargs or {}))

    # torch swaps the parameters of a module for tensors of classes that have these
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["numbers"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], _: None, __: object, ___: object) -> "OnCuda":
        return OnCuda(inner["numbers"])


class SimulatedCuda(TorchDispatchMode):
    """Inside the context, `cuda` is the simulated device. `waits` are the operations that made the host wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: list[str] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        if _waits(func, args, kwargs or {}):
            self.waits.append(str(func))
        return _run(func, args, dict(kwargs or {}))


@contextmanager
def simulated_cuda() -> Iterator[SimulatedCuda]:
    """Simulate a CUDA device inside the context."""
    with (
        patch("torch.cuda._lazy_init"),
        patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        patch("torch.cuda.is_bf16_supported", return_value=True),
        patch(
            "torch.__future__._swap_module_params_on_conversion", True
        ),  # `param.data = …` would keep the old numbers
        SimulatedCuda() as mode,
    ):
        yield mode


def _waits(func: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the host waits for the device to run this operation."""
    on_cuda = [t for t in tree_leaves((args, kwargs)) if isinstance(t, OnCuda)]
    if func in _COPIES:
        target = kwargs.get("device") if func is aten._to_copy.default else args[0].device
        source = args[0] if func is aten._to_copy.default else args[1]
        non_blocking = kwargs.get("non_blocking", False) or (func is aten.copy_.default and len(args) > 2 and args[2])
        crosses = target is not None and (torch.device(target).type in _SIMULATED) != isinstance(source, OnCuda)
        return bool(crosses and not (non_blocking and not isinstance(source, OnCuda)))
    if func in (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default) and on_cuda:
        return any(i is not None and (i.dtype == torch.bool or not isinstance(i, OnCuda)) for i in args[1])
    return func in _READS and bool(on_cuda)


def _run(func: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    if func is torch.ops.prim.device.default:
        return torch.device("meta")  # for torch's own code, which would look for a CUDA driver; see OnCuda.device
    leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    on_cuda = [t for t in leaves if isinstance(t, OnCuda)]
    if on_cuda and func not in _COPIES:
        _check(func, args, leaves)
    device = kwargs.get("device")
    if device is not None:
        kwargs["device"] = torch.device("cpu")
    is_on_cuda = torch.device(device).type in _SIMULATED if device is not None else bool(on_cuda)
    if func is aten.copy_.default:
        is_on_cuda = isinstance(args[0], OnCuda)
    inner_args, inner_kwargs = tree_map(_numbers, (args, kwargs))
    result = func(*inner_args, **inner_kwargs)
    known: dict[int, Tensor] = {id(t.numbers): t for t in on_cuda}
    known |= {id(t): t for t in leaves if not isinstance(t, OnCuda)}

    def outer(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        if func is aten._to_copy.default:
            return OnCuda(value) if is_on_cuda else value
        return known.get(id(value)) if id(value) in known else OnCuda(value) if is_on_cuda else value

    return tree_map(outer, result)


def _check(func: object, args: tuple[Any, ...], leaves: list[Tensor]) -> None:
    """Raise where a real device would: tensors of both devices, except numbers and the indices of `index`."""
    if func in (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default):
        leaves = [t for t in tree_leaves((args[0], args[2:])) if isinstance(t, Tensor)]
    strays = [tuple(t.shape) for t in leaves if not isinstance(t, OnCuda) and t.ndim > 0]
    if strays and any(isinstance(t, OnCuda) for t in leaves):
        raise MixedDevices(f"{func}: tensors of {strays} are on the CPU, others on cuda:0")


def _numbers(value: object) -> object:
    return value.numbers if isinstance(value, OnCuda) else value
