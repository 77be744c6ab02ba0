"""Runs part of a network node by node over many views, so that a layer can be changed before later layers run."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from graftcli.graft.surgery.seams import Scion


class Interpreter:
    """Runs a module on chunks of views; `layers()` pauses before each submodule call.

    After the last one, `values` holds the outputs. Each node runs on one chunk at a time, and features are freed after
    their last use.
    """

    def __init__(self, module: nn.Module, chunks: Sequence[Tensor]) -> None:
        self.module = module
        self.values: list[Tensor] = list(chunks)
        self.bytes = 0  # peak size of the features that are alive at once

    @torch.no_grad()
    def layers(self) -> Iterator[tuple[str, list[Tensor]]]:
        """Yield the path of each submodule that is about to run, and its inputs."""
        for module in _in_order(self.module):
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
            for unused in runs[0].user_to_last_uses.get(node, []):
                for run in runs:
                    run.env.pop(unused, None)


def _in_order(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, Scion):
        yield module.to_student
        yield from _in_order(module.block)
        yield module.to_teacher
    elif isinstance(module, nn.Sequential):
        for child in module:
            yield from _in_order(child)
    else:
        yield module


def _alive(run: fx.Interpreter) -> int:
    """Return the bytes of the tensors that a run holds; views of one tensor count once."""
    sizes = {value.data_ptr(): value.nbytes for value in run.env.values() if isinstance(value, Tensor)}
    return sum(sizes.values())
