"""Record the graph of a module with torch.fx, using the leaf modules of timm and torchvision.

The recording maps every node to the module tree. A module that cannot be traced becomes a leaf.
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
from typing import Protocol

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument, Target


@dataclass(frozen=True)
class Recording:
    """A graph, and the place of each node in the module tree."""

    root: nn.Module  # the modules of the network and the constants created in its forward pass
    graph: fx.Graph
    paths: Mapping[fx.Node, str]  # "layer1.0.conv1", or "layer1.0.add" for a node that is no module call
    ends: Mapping[fx.Node, str]  # the outermost module that returns this node
    starts: Mapping[fx.Node, Sequence[str]]  # the modules that begin with this node, outermost first
    returned: Mapping[str, fx.Node]  # module path -> the node that the module returns
    opaque: Mapping[str, str]  # leaf modules that could not be traced -> the reason


class Untraceable(Exception):
    """The forward pass of the network cannot be traced."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def record(root: nn.Module, leaves: Mapping[type[nn.Module], str]) -> Recording:
    """Trace a shallow copy of `root`; module types in `leaves`, and types that cannot be traced, become leaves."""
    opaque = dict(leaves)
    while True:
        tracer = _Tracer(opaque)
        try:
            graph = tracer.trace(copy.copy(root))
        except Exception as error:  # any exception of the network's code on proxies
            if tracer.stopped_in is None or tracer.stopped_in in opaque:
                raise Untraceable(error) from error
            opaque[tracer.stopped_in] = describe_error(error)
            continue
        copied: nn.Module = tracer.root
        return Recording(copied, graph, tracer.paths, tracer.ends, tracer.starts, tracer.returned, tracer.opaque)


class _WithWholeForward(Protocol):
    def whole_forward(self, images: Tensor) -> object: ...


def with_single_input(module: nn.Module) -> nn.Module:
    """The network with the images as its only input; other parameters keep their defaults."""
    original = inspect.unwrap(type(module).forward)
    parameters = list(inspect.signature(original).parameters.values())[1:]
    if [p.kind for p in parameters] in ([inspect.Parameter.POSITIONAL_ONLY], [inspect.Parameter.POSITIONAL_OR_KEYWORD]):
        return module

    def forward(self: _WithWholeForward, images: Tensor) -> object:
        return self.whole_forward(images)

    # the tracer wraps leaf functions in the globals of the forward pass, so the new one needs the original globals
    traceable = types.FunctionType(forward.__code__, original.__globals__, "forward")
    return with_forward(module, {"forward": traceable, "whole_forward": type(module).forward})


def with_forward(module: nn.Module, members: dict[str, object]) -> nn.Module:
    """The same modules and parameters with other class members, such as the forward pass."""
    other = copy.copy(module)
    other.__class__ = type(type(module).__name__, (type(module),), members)
    return other


def describe_error(error: BaseException) -> str:
    """The first line of an exception, with the innermost line of the network's code in its traceback."""
    message = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if isinstance(error, fx.proxy.TraceError) or "Proxy" in message:
        message = "its code depends on tensor values or sizes"  # this is clearer than the message of torch.fx
    folders = (Path(torch.__file__).parent, Path(__file__).parents[1])  # torch and graftcli.models
    skipped = tuple(f"{folder}{os.sep}" for folder in folders)
    frames = traceback.extract_tb(error.__traceback__)
    user_frames = [f for f in frames if not f.filename.startswith(skipped) and f.line]
    return (
        f"{message} ({Path(user_frames[-1].filename).name}:{user_frames[-1].lineno}: {user_frames[-1].line})"
        if user_frames
        else message
    )


def _library_leaves() -> tuple[set[type[nn.Module]], tuple[Callable[..., object], ...]]:
    from timm.layers import Linear, get_notrace_functions, get_notrace_modules
    from torchvision.ops import StochasticDepth

    functions = tuple(f for f in get_notrace_functions() if callable(f))
    return {*get_notrace_modules(), Linear, StochasticDepth}, functions


class _Tracer(fx.Tracer):
    """A torch.fx tracer that records the place of every node in the module tree."""

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
        # modules of torch.nn are leaves (nn.MultiheadAttention too), except containers
        return type(m) in self.leaves or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
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
            self.ends[result.node] = path  # outer modules return later, so the outermost one wins
            self.returned[path] = result.node
        return result

    def create_node(
        self,
        kind: str,
        target: Target,
        args: tuple[Argument, ...],
        kwargs: dict[str, Argument],
        name: str | None = None,
        type_expr: object = None,
    ) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        scope = self._scope[-1] if self._scope else ""
        self.paths[node] = scope if kind == "call_module" else self._unique_path(f"{scope}.{node.name}".lstrip("."))
        if self._opened and kind not in ("placeholder", "get_attr"):
            self.starts[node] = self._opened
            self._opened = []
        return node

    def _unique_path(self, path: str) -> str:
        """The path with a suffix that counts equal names per module; torch.fx counts across the network."""
        base = re.sub(r"_\d+$", "", path)
        self._counts[base] += 1
        return base if self._counts[base] == 1 else f"{base}_{self._counts[base] - 1}"
