"""A part of a network, run node by node over many views, so that a layer can be changed before what follows has run."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from graftcli.graft.surgery.seams import Scion


class Interpreter:
    """layers() stops before each module that is called in the part; behind the last one, `values` are what it gives.

    The views come in `chunks`, which bound what a step takes; what nobody reads any more is let go.
    """

    def __init__(self, part: nn.Module, chunks: Sequence[Tensor]) -> None:
        self.part = part
        self.values: list[Any] = list(chunks)
        self.bytes = 0  # of all that was alive at once, at most

    @torch.no_grad()
    def layers(self) -> Iterator[tuple[str, list[Tensor]]]:
        """The path of each module about to be run, and what it reads."""
        for module in _in_order(self.part):
            if isinstance(module, fx.GraphModule):
                yield from self._graph(module)
            else:
                self.values = [module(value) for value in self.values]

    def _graph(self, module: fx.GraphModule) -> Iterator[tuple[str, list[Tensor]]]:
        runs = [fx.Interpreter(module) for _ in self.values]
        nodes = list(module.graph.nodes)
        for run, value in zip(runs, self.values, strict=True):
            run.env[nodes[0]] = value
        self.values = []
        for node in nodes[1:]:
            if node.op == "output":
                self.values = [run.run_node(node) for run in runs]
                return
            if node.op == "call_module" and node.all_input_nodes:
                yield str(node.target), [run.env[node.all_input_nodes[0]] for run in runs]
            for run in runs:
                run.env[node] = run.run_node(node)
            self.bytes = max(self.bytes, sum(map(_alive, runs)))
            for past in runs[0].user_to_last_uses.get(node, []):
                for run in runs:
                    run.env.pop(past, None)


def _in_order(part: nn.Module) -> Iterator[nn.Module]:
    if isinstance(part, Scion):
        yield part.to_student
        yield from _in_order(part.block)
        yield part.to_teacher
    elif isinstance(part, nn.Sequential):
        for child in part:
            yield from _in_order(child)
    else:
        yield part


def _alive(run: fx.Interpreter) -> int:
    held = {value.data_ptr(): value.nbytes for value in run.env.values() if isinstance(value, Tensor)}
    return sum(held.values())
