"""module -> graph, by torch.fx with timm's and torchvision's own leaf rules.

The recording knows which module every node stands in, begins and ends. A module that stops the tracer is kept whole.
"""

import copy
import inspect
import os
import re
import traceback
import types
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn


@dataclass(frozen=True)
class Recording:
    """A graph, and where each of its nodes stands in the module tree."""

    root: nn.Module  # what the graph refers to: the network's own modules, and the constants that its code made
    graph: fx.Graph
    paths: Mapping[fx.Node, str]  # "layer1.0.conv1", or "layer1.0.add" where no module did it
    ends: Mapping[fx.Node, str]  # the outermost module that returns this node
    starts: Mapping[fx.Node, Sequence[str]]  # the modules that begin with this node, the outermost first
    returned: Mapping[str, fx.Node]  # what each module returned, by its path
    opaque: Mapping[str, str]  # modules that are kept whole, and why


class Untraceable(Exception):
    """The forward pass of the network itself stopped the tracer."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def record(root: nn.Module, whole: Mapping[type[nn.Module], str]) -> Recording:
    """The graph of `root`, a shallow copy of which it refers to. Types in `whole` are kept whole, and so is each type
    that stops the tracer."""
    opaque = dict(whole)
    while True:
        tracer = _Tracer(opaque)
        try:
            graph = tracer.trace(copy.copy(root))
        except Exception as error:  # whatever a network's own code makes of the tracer's stand-ins
            if tracer.stopped_in is None or tracer.stopped_in in opaque:
                raise Untraceable(error) from error
            opaque[tracer.stopped_in] = in_words(error)
            continue
        held: nn.Module = tracer.root
        return Recording(held, graph, tracer.paths, tracer.ends, tracer.starts, tracer.returned, tracer.opaque)


def of_images_alone(module: nn.Module) -> nn.Module:
    """The same network with its images as the only input, so that what else it could be given has its default."""
    whole = inspect.unwrap(type(module).forward)
    own = list(inspect.signature(whole).parameters.values())[1:]
    if [p.kind for p in own] in ([inspect.Parameter.POSITIONAL_ONLY], [inspect.Parameter.POSITIONAL_OR_KEYWORD]):
        return module

    def forward(self: Any, images: Any) -> Any:
        return self.whole_forward(images)

    # the tracer wraps leaf functions in the globals of the forward pass, so it has to be shown the network's own
    seen = types.FunctionType(forward.__code__, whole.__globals__, "forward")
    return with_forward(module, {"forward": seen, "whole_forward": type(module).forward})


def with_forward(module: nn.Module, members: dict[str, Any]) -> nn.Module:
    """The same modules and parameters under another forward pass."""
    other = copy.copy(module)
    other.__class__ = type(type(module).__name__, (type(module),), members)
    return other


def in_words(error: BaseException) -> str:
    """The first line of an exception, and the innermost line of the network's own code that it came from."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if isinstance(error, fx.proxy.TraceError) or "Proxy" in said:
        said = "its code depends on the numbers or the sizes that pass through it"  # torch.fx has its own words for it
    rooms = (Path(torch.__file__).parent, Path(__file__).parents[1])  # torch and graftcli's own code
    foreign = tuple(f"{room}{os.sep}" for room in rooms)
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not f.filename.startswith(foreign) and f.line]
    return f"{said} ({Path(theirs[-1].filename).name}:{theirs[-1].lineno}: {theirs[-1].line})" if theirs else said


def _library_leaves() -> tuple[set[type[nn.Module]], tuple[Callable[..., Any], ...]]:
    from timm.layers import Linear, get_notrace_functions, get_notrace_modules
    from torchvision.ops import StochasticDepth

    functions = tuple(f for f in get_notrace_functions() if callable(f))
    return {*get_notrace_modules(), Linear, StochasticDepth}, functions


class _Tracer(fx.Tracer):
    """torch.fx's tracer that remembers which module every node stands in, begins and ends."""

    def __init__(self, opaque: Mapping[type[nn.Module], str]) -> None:
        leaves, functions = _library_leaves()
        super().__init__(autowrap_functions=functions, param_shapes_constant=True)
        self.leaves = {*leaves, *opaque}
        self.reasons = opaque
        self.opaque: dict[str, str] = {}
        self.paths: dict[fx.Node, str] = {}
        self.ends: dict[fx.Node, str] = {}
        self.starts: dict[fx.Node, list[str]] = {}
        self.returned: dict[str, fx.Node] = {}
        self.stopped_in: type[nn.Module] | None = None
        self._counts: Counter[str] = Counter()
        self._scope: list[str] = []
        self._opened: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # nn.MultiheadAttention and nn.TransformerEncoderLayer are torch's own and leaves; containers are looked into
        return type(m) in self.leaves or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        self._scope.append(path)
        self._opened.append(path)
        if type(m) in self.reasons:
            self.opaque[path] = self.reasons[type(m)]
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.stopped_in is None:
                self.stopped_in = type(m)
            raise
        finally:
            self._scope.pop()
            self._opened = [p for p in self._opened if p != path]
        if isinstance(result, fx.Proxy) and f"{self.paths.get(result.node, '')}.".startswith(f"{path}."):
            self.ends[result.node] = path  # outer modules return later, so the outermost one stays
            self.returned[path] = result.node
        return result

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: Any = None, type_expr: Any = None
    ) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        scope = self._scope[-1] if self._scope else ""
        self.paths[node] = scope if kind == "call_module" else self._fresh(f"{scope}.{node.name}".lstrip("."))
        if self._opened and kind not in ("placeholder", "get_attr"):
            self.starts[node] = self._opened
            self._opened = []
        return node

    def _fresh(self, path: str) -> str:
        """The path with the number of its kind in its module: torch.fx numbers through the whole network."""
        base = re.sub(r"_\d+$", "", path)
        self._counts[base] += 1
        return base if self._counts[base] == 1 else f"{base}_{self._counts[base] - 1}"
