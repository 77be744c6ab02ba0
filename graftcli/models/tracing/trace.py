"""Trace a network to a graph, with the module and the shape of every node.

The graph is run once on real inputs and must give the output of the network, bit for bit; otherwise tracing fails.
"""

import inspect
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument

from graftcli.errors import PairError
from graftcli.models.tracing.chain import as_chain, stages
from graftcli.models.tracing.meter import Meter
from graftcli.models.tracing.tracer import Recording, Untraceable, describe_error, record, with_single_input

_CALLER_UNTRACEABLE = "the forward pass that calls it cannot be traced"


@dataclass(frozen=True)
class Traced(Recording):
    """The graph of a network, with measurements from one forward pass."""

    module: nn.Module
    shapes: Mapping[fx.Node, tuple[int, ...]]  # shapes of tensors, including the batch
    sizes: Mapping[fx.Node, Argument]  # values that depend only on shapes, not on pixel values
    macs: Mapping[fx.Node, int]  # multiply-accumulates per image
    nonnegative: Collection[fx.Node]  # nodes whose values are zero or more, such as after a ReLU
    example: Tensor  # the input of that forward pass
    finite: bool  # whether the output has no NaN and no infinity

    @property
    def nodes(self) -> list[fx.Node]:
        """The nodes in order of execution."""
        return list(self.graph.nodes)

    @property
    def source(self) -> fx.Node:
        """The node of the images."""
        return next(node for node in self.nodes if node.op == "placeholder")

    @cached_property
    def holders(self) -> Counter[int]:
        """The number of modules that hold a parameter, by the id of the parameter."""
        return Counter(id(p) for m in self.root.modules() for p in m.parameters(recurse=False))

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls; None if it calls none."""
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def end_name(self, node: fx.Node) -> str:
        """A readable name for the position after this node."""
        return self.ends.get(node, self.paths[node])

    def span_names(self, nodes: Sequence[fx.Node]) -> tuple[str, str]:
        """Readable names for the first and last of some nodes: the outermost modules that lie inside the range."""
        inside, last = set(nodes), nodes[-1]
        opened = (path for path in self.starts.get(nodes[0], ()) if self.returned.get(path) in inside)
        started = {path for node in nodes for path in self.starts.get(node, ())}
        closed = sorted((path for path, node in self.returned.items() if node is last and path in started), key=len)
        return next(opened, self.paths[nodes[0]]), next(iter(closed), self.paths[last])


def trace(module: nn.Module, example: Tensor, *, classifier: bool = True) -> Traced:
    """Trace `module` in eval mode and verify the graph on `example` (at least two images).

    With `classifier=False`, for submodules, the output is not checked and there is no fallback to a chain of stages.
    """
    module.eval()
    with torch.no_grad():
        expected = _forward(module, example)
        if classifier:
            _check_scores(module, example, expected)
        reasons: list[str] = []
        for recording in _recordings(module, example, expected if classifier else None, reasons):
            meter = Meter(recording.root, recording.graph, example.shape[0])
            try:
                result = meter.run(example.clone())
            except Exception as error:  # any exception of the network's code in a wrong graph
                reasons.append(describe_error(error))
                continue
            if isinstance(result, Tensor) and identical(result, expected):
                return Traced(
                    **vars(recording),
                    module=module,
                    shapes=meter.shapes,
                    sizes=meter.sizes,
                    macs=meter.macs,
                    nonnegative=meter.nonnegative,
                    example=example,
                    finite=bool(expected.isfinite().all()),
                )
            reasons.append(
                "the graph of its forward pass gives a different output than the network"
                " (check for hooks, a replaced forward, or code that depends on tensor values)"
            )
        _check_repeatable(module, example, expected)
    raise PairError(
        f"`{type(module).__name__}` cannot be traced: {reasons[0]}.",
        "Move that code into a separate module (it then becomes a leaf of the graph),"
        " or write the forward pass as a chain of stages.",
    )


def _recordings(module: nn.Module, example: Tensor, expected: Tensor | None, reasons: list[str]) -> Iterator[Recording]:
    """Record the forward pass; if `expected` is given, then the chain of top-level stages, first traced into, then as
    leaf modules."""
    try:
        yield record(with_single_input(module), {})
    except Untraceable as error:
        reasons.append(describe_error(error.reason))
    chain = as_chain(module, example, expected) if expected is not None else None
    if chain is None:
        return
    for leaves in ({}, {type(stage): _CALLER_UNTRACEABLE for _, stage in stages(module)}):
        try:
            yield record(chain, leaves)
        except Untraceable as error:
            reasons.append(describe_error(error.reason))


def identical(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal bit for bit, with NaN in the same entries."""
    nan = first.isnan()
    return torch.equal(nan, second.isnan()) and torch.equal(first[~nan], second[~nan])


def trace_inside(traced: Traced, node: fx.Node) -> Traced | None:
    """Trace a leaf module of `traced` on the shapes measured there; None if that is impossible."""
    module = traced.module_of(node)
    inputs = node.all_input_nodes
    if module is None or not holds_layers(module) or node.args != tuple(inputs) or len(inputs) != 1 or node.kwargs:
        return None
    try:
        noise = torch.randn(traced.shapes[inputs[0]], generator=torch.Generator().manual_seed(0))
        return trace(module, noise, classifier=False)
    except (PairError, KeyError):
        return None


def holds_layers(module: nn.Module) -> bool:
    """Whether a module contains convolutions or linear layers as submodules."""
    return any(isinstance(m, nn.Conv2d | nn.Linear) for m in module.modules() if m is not module)


# -- checks ------------------------------------------------------------------------------------------------------


def _forward(module: nn.Module, example: Tensor) -> Tensor:
    """Run one forward pass; refuse networks that do not map one image tensor to one output tensor."""
    _check_input(module, example)
    name = type(module).__name__
    try:
        result = module(example.clone())
    except Exception as error:  # any exception of the network's code
        raise PairError(
            f"`{name}` does not run on images of {'x'.join(map(str, example.shape[1:]))}: {describe_error(error)}.",
            "Give another --img-size or --in-chans: the image may be too small or have the wrong number of channels.",
        ) from error
    if not isinstance(result, Tensor):
        raise PairError(
            f"`{name}` returns a {type(result).__name__}, not one tensor of logits.",
            "Wrap it in a module that returns only the logits.",
        )
    return result


def _check_input(module: nn.Module, example: Tensor) -> None:
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise PairError(
            f"`{name}` is a TorchScript module: its compiled forward pass cannot be cut.",
            "Give its Python code as file.py:factory, and its weights as the checkpoint.",
        )
    signature = inspect.signature(module.forward)
    try:
        signature.bind(example)
    except TypeError as error:
        raise PairError(
            f"`{name}` does not take images as its only input: forward{signature}, {error}.",
            "Wrap it in a module whose forward takes only the images.",
        ) from error


def _check_scores(module: nn.Module, example: Tensor, result: Tensor) -> None:
    if result.dim() != 2 or result.shape[0] != example.shape[0]:
        shape = "x".join(map(str, result.shape)) or "no dimensions"
        raise PairError(
            f"`{type(module).__name__}` returns a tensor of shape {shape} for {example.shape[0]} images,"
            " not one row of logits per image.",
            "Give a classifier; build a backbone with its head (--num-classes).",
        )


def _check_repeatable(module: nn.Module, example: Tensor, expected: Tensor) -> None:
    if not identical(module(example.clone()), expected):
        raise PairError(
            f"`{type(module).__name__}` gives different outputs for the same images in eval mode.",
            "Check for dropout or noise that ignores `self.training`, such as F.dropout without `training=`.",
        )
