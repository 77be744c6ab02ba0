"""network -> graph: what is computed, in which order, by which module, on what shapes.

The graph is run once on real numbers: `run(graph)(x) == network(x)` holds bit for bit, or there is no graph.
"""

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from graftcli.errors import PairError
from graftcli.models.tracing.chain import as_chain, stages
from graftcli.models.tracing.tracer import Recording, Untraceable, in_words, of_images_alone, record

_WHOLE = "the forward pass around it cannot be traced"


@dataclass(frozen=True)
class Traced(Recording):
    """A network's graph, and what one real forward pass showed of it."""

    module: nn.Module
    shapes: Mapping[fx.Node, tuple[int, ...]]  # of tensors, the batch included
    sizes: Mapping[fx.Node, Any]  # what is known without the numbers of the images: shapes, and what comes from them
    macs: Mapping[fx.Node, int]  # multiply-adds for one image
    example: Tensor  # the images of that pass
    finite: bool  # whether its answer was made of numbers, and not of NaN and infinity

    @property
    def nodes(self) -> list[fx.Node]:
        return list(self.graph.nodes)

    @property
    def source(self) -> fx.Node:
        return next(node for node in self.nodes if node.op == "placeholder")

    @cached_property
    def holders(self) -> Counter[int]:
        """How many modules hold a parameter as their own, by its id."""
        return Counter(id(p) for m in self.root.modules() for p in m.parameters(recurse=False))

    def module_of(self, node: fx.Node) -> nn.Module | None:
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def end_name(self, node: fx.Node) -> str:
        """What a person would call the place just after this node."""
        return self.ends.get(node, self.paths[node])

    def span_names(self, nodes: Sequence[fx.Node]) -> tuple[str, str]:
        """What a person would call the first and the last of some nodes: the outermost modules that lie inside them."""
        inside, last = set(nodes), nodes[-1]
        opened = (path for path in self.starts.get(nodes[0], ()) if self.returned.get(path) in inside)
        begun = {path for node in nodes for path in self.starts.get(node, ())}
        closed = sorted((path for path, node in self.returned.items() if node is last and path in begun), key=len)
        return next(opened, self.paths[nodes[0]]), next(iter(closed), self.paths[last])


def trace(module: nn.Module, example: Tensor, *, classifier: bool = True) -> Traced:
    """The graph of `module` in eval mode, proved on `example` (two images or more).

    What is no classifier but a part of one is traced as it is or not at all: its code may take another way on others.
    """
    module.eval()
    with torch.no_grad():
        expected = _forward(module, example)
        if classifier:
            _check_scores(module, example, expected)
        reasons: list[str] = []
        for recording in _recordings(module, example, expected if classifier else None, reasons):
            meter = _Meter(fx.GraphModule(recording.root, recording.graph), example.shape[0])
            try:
                result = meter.run(example.clone())
            except Exception as error:  # whatever a network's own code raises on a graph that took the wrong turn
                reasons.append(in_words(error))
                continue
            if isinstance(result, Tensor) and same(result, expected):
                return meter.traced(recording, module, example, bool(expected.isfinite().all()))
            reasons.append(
                "the graph of its forward pass gives another result than the network itself"
                " (is there a hook, a replaced forward, or code that looks at the numbers?)"
            )
        _check_repeatable(module, example, expected)
    raise PairError(
        f"`{type(module).__name__}` cannot be traced: {reasons[0]}.",
        "Move that code into a module of its own (it is then kept whole),"
        " or write the forward pass as a chain of stages.",
    )


def _recordings(module: nn.Module, example: Tensor, answer: Tensor | None, reasons: list[str]) -> Iterator[Recording]:
    """Of the forward pass; else, where the answer is given, of the chain of top-level stages that gives it too, looked
    into, then with each one kept whole."""
    try:
        yield record(of_images_alone(module), {})
    except Untraceable as stop:
        reasons.append(in_words(stop.reason))
    chain = as_chain(module, example, answer) if answer is not None else None
    if chain is None:
        return
    for whole in ({}, {type(stage): _WHOLE for _, stage in stages(module)}):
        try:
            yield record(chain, whole)
        except Untraceable as stop:
            reasons.append(in_words(stop.reason))


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Bit for bit the same numbers; random weights may give none (NaN), and then at the same places."""
    missing = ours.isnan()
    return torch.equal(missing, theirs.isnan()) and torch.equal(ours[~missing], theirs[~missing])


def trace_inside(traced: Traced, node: fx.Node) -> Traced | None:
    """The graph of a module that `traced` keeps whole, on the shapes it saw; None where there is nothing to see."""
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
    """Whether there are convolutions or linear layers inside a module that is none itself."""
    return any(isinstance(m, nn.Conv2d | nn.Linear) for m in module.modules() if m is not module)


# -- what is no classifier of images ------------------------------------------------------------------------------


def _forward(module: nn.Module, example: Tensor) -> Tensor:
    """One real forward pass; what is not one tensor of scores out of one tensor of images is refused here."""
    _check_input(module, example)
    name = type(module).__name__
    try:
        result = module(example.clone())
    except Exception as error:  # whatever a network's own code raises
        raise PairError(
            f"`{name}` does not run on images of {'x'.join(map(str, example.shape[1:]))}: {in_words(error)}.",
            "Give another --img-size or --in-chans: the image may be too small for this network, or of another shape"
            " than it wants.",
        ) from error
    if not isinstance(result, Tensor):
        raise PairError(
            f"`{name}` answers with a {type(result).__name__}, not with one tensor of scores.",
            "Wrap it in a module that returns the logits alone.",
        )
    return result


def _check_input(module: nn.Module, example: Tensor) -> None:
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise PairError(
            f"`{name}` is TorchScript: its forward pass is compiled and cannot be cut.",
            "Give the Python code that it was made from, as file.py:factory, and its weights as the checkpoint.",
        )
    signature = inspect.signature(module.forward)
    try:
        signature.bind(example)
    except TypeError as error:
        raise PairError(
            f"`{name}` does not take the images as its only input: forward{signature}, {error}.",
            "Wrap it in a module whose forward takes the images alone.",
        ) from error


def _check_scores(module: nn.Module, example: Tensor, result: Tensor) -> None:
    if result.dim() != 2 or result.shape[0] != example.shape[0]:
        shape = "x".join(map(str, result.shape)) or "no dimensions"
        raise PairError(
            f"`{type(module).__name__}` answers {example.shape[0]} images with a tensor of {shape},"
            " not with one row of scores each.",
            "Give a classifier: if this is a backbone, build it with its head (--num-classes).",
        )


def _check_repeatable(module: nn.Module, example: Tensor, expected: Tensor) -> None:
    if not same(module(example.clone()), expected):
        raise PairError(
            f"`{type(module).__name__}` answers the same images differently each time, although it is in eval mode.",
            "Look for dropout or noise that ignores `self.training`, as F.dropout without `training=self.training`.",
        )


# -- one pass on real numbers -------------------------------------------------------------------------------------


class _NoModules(ModuleTracker):
    """The counter's tracker of modules, switched off: it stumbles where a weight is what a module reads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


_READING = ("item", "tolist", "numpy", "equal", "allclose", "is_nonzero", torch.equal, torch.allclose, torch.is_nonzero)


class _Meter(fx.Interpreter):
    """Runs a graph once and writes down the shape and the work of every node."""

    def __init__(self, module: fx.GraphModule, batch: int) -> None:
        super().__init__(module)
        self.batch = batch
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.sizes: dict[fx.Node, Any] = {}
        self.macs: dict[fx.Node, int] = {}
        self.numbers: set[fx.Node] = set()  # values beside tensors that may depend on what the images hold

    def traced(self, recording: Recording, module: nn.Module, example: Tensor, finite: bool) -> Traced:
        seen = {"shapes": self.shapes, "sizes": self.sizes, "macs": self.macs}
        facts: dict[str, Any] = {**vars(recording), **seen, "module": module, "example": example, "finite": finite}
        return Traced(**facts)

    def run_node(self, n: fx.Node) -> Any:
        if n.op in ("placeholder", "output", "get_attr"):
            result = super().run_node(n)
        else:
            counter = FlopCounterMode(display=False)
            counter.mod_tracker = _NoModules()
            with counter:
                result = super().run_node(n)
            self.macs[n] = counter.get_total_flops() // (2 * self.batch)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
        elif _is_plain(result) and self._reads_numbers(n):
            self.numbers.add(n)
        elif _is_plain(result):
            self.sizes[n] = result
        return result

    def _reads_numbers(self, node: fx.Node) -> bool:
        """Whether a value depends on more than the size of the images."""
        return node.op == "call_module" or node.target in _READING or not self.numbers.isdisjoint(node.all_input_nodes)


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, a device, or a tuple of such: what a graph computes beside its tensors."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, int | float | bool | str | torch.dtype | torch.device | slice | None)
