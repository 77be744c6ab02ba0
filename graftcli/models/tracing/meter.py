"""Measure a graph: one forward pass that records the shape, the cost and the sign of every value."""

from typing import Self

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker


class _NoModuleTracker(ModuleTracker):
    """Disables FlopCounterMode's module tracker, which fails when a module reads a weight."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


_VALUE_READERS = (
    "item",
    "tolist",
    "numpy",
    "equal",
    "allclose",
    "is_nonzero",
    torch.equal,
    torch.allclose,
    torch.is_nonzero,
)


class Meter(fx.Interpreter):
    """Runs a graph once and records the shape, the MACs and the sign of every node."""

    def __init__(self, root: nn.Module, graph: fx.Graph, batch: int) -> None:
        super().__init__(root, graph=graph)
        self.batch = batch
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.sizes: dict[fx.Node, Argument] = {}
        self.macs: dict[fx.Node, int] = {}
        self.nonnegative: set[fx.Node] = set()
        self.value_dependent: set[fx.Node] = set()  # non-tensor values that may depend on pixel values

    def run_node(self, n: fx.Node) -> object:
        """Run a node and record its value."""
        if n.op in ("placeholder", "output", "get_attr"):
            result = super().run_node(n)
        else:
            counter = FlopCounterMode(display=False)
            counter.mod_tracker = _NoModuleTracker()
            with counter:
                result = super().run_node(n)
            self.macs[n] = counter.get_total_flops() // (2 * self.batch)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
            if result.is_floating_point() and bool((result >= 0).all()):
                self.nonnegative.add(n)
        elif _is_non_tensor(result) and self._depends_on_values(n):
            self.value_dependent.add(n)
        elif _is_non_tensor(result):
            self.sizes[n] = result
        return result

    def _depends_on_values(self, node: fx.Node) -> bool:
        """Whether a value may depend on pixel values."""
        return (
            node.op == "call_module"
            or node.target in _VALUE_READERS
            or not self.value_dependent.isdisjoint(node.all_input_nodes)
        )


def _is_non_tensor(value: object) -> bool:
    """Whether a value is a number, string, dtype, device or slice, or a tuple of them."""
    if isinstance(value, tuple | list):
        return all(map(_is_non_tensor, value))
    return isinstance(value, int | float | bool | str | torch.dtype | torch.device | slice | None)
