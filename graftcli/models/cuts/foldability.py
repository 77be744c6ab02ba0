"""Whether a bias-free 1x1 adapter at a position can be folded into the layers before or after it.

Forwards: every layer that reads the tensor is a plain convolution or linear layer, directly or after operations that
commute with a 1x1 convolution. Backwards: such a layer produces the tensor, with no nonlinearity after it. Types are
compared exactly: a weight-standardised convolution derives from nn.Conv2d but cannot be folded into.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from torch import fx, nn

from graftcli.models.cuts.commuting import Axis, axis_after
from graftcli.models.tracing.trace import Traced, holds_layers, trace_inside


@dataclass(frozen=True)
class FoldableLayer:
    """A convolution or linear layer that an adapter can be folded into."""

    path: str
    repeat: int = 1  # consecutive inputs per channel (flattened feature maps)
    batchnorm: str | None = None  # the BatchNorm to fold into the layer first


@dataclass(frozen=True)
class Fold:
    """The layers that the adapter is folded into, or the reason why it cannot be folded."""

    layers: tuple[FoldableLayer, ...] = ()
    blocker: str | None = None

    def __bool__(self) -> bool:
        return self.blocker is None and bool(self.layers)


@dataclass(frozen=True)
class KeptAdapter:
    """An adapter that cannot be folded, or would make the network larger, and stays a layer."""

    cut: int
    adapter: Literal["to_student", "to_teacher", "both"]
    shape: tuple[int, ...]  # of its weight [outputs, inputs]
    reason: str


class _Blocked(Exception):
    """A layer or operation that prevents folding."""


def plain_convolutions() -> set[type[nn.Module]]:
    """The exact types of convolutions that an adapter can be folded into."""
    from timm.layers import Conv2dSame

    return {nn.Conv2d, Conv2dSame}


def plain_linears() -> set[type[nn.Module]]:
    """The exact types of linear layers that an adapter can be folded into."""
    from timm.layers import Linear  # identical except in scripted modules

    return {nn.Linear, Linear}


def forwards(traced: Traced, node: fx.Node, channel_dim: int) -> Fold:
    """The layers that read `node`, if the adapter `to_student` folds into all of them."""
    try:
        layers = _readers(traced, node, Axis(channel_dim), "")
    except _Blocked as blocked:
        return Fold(blocker=f"read by {blocked}")
    return Fold(tuple(dict.fromkeys(layers))) if layers else Fold(blocker="read by no layer")


def backwards(traced: Traced, node: fx.Node, channel_dim: int) -> Fold:
    """The layer that produces `node`, if the adapter `to_teacher` folds into it."""
    try:
        return Fold((_producer(traced, node, Axis(channel_dim), None),))
    except _Blocked as blocked:
        return Fold(blocker=f"produced by {blocked}")


def _calls(traced: Traced, path: str) -> int:
    return sum(node.op == "call_module" and node.target == path for node in traced.graph.nodes)


def _why_not_changeable(traced: Traced, path: str, module: nn.Module) -> str:
    """Why the weights of a layer cannot be changed without other effects; empty if they can."""
    counts = Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))
    if _calls(traced, path) > 1:
        return "used more than once"
    direct_reads = (node.op == "get_attr" and str(node.target).startswith(f"{path}.") for node in traced.graph.nodes)
    if any(traced.holders[parameter] > count for parameter, count in counts.items()) or any(direct_reads):
        return "with shared weights"
    if module._forward_pre_hooks or module._forward_hooks:
        return "with hooks"
    return ""


def _is_plain(traced: Traced, path: str, module: nn.Module, axis: Axis, ndim: int) -> bool:
    """Whether a layer is a plain linear map over the channels, used once, without shared weights."""
    if type(module) in plain_convolutions():
        fits = isinstance(module, nn.Conv2d) and module.groups == 1 and axis == Axis(1)
    else:
        fits = type(module) in plain_linears() and axis.dim == ndim - 1
    return fits and not _why_not_changeable(traced, path, module)


def _readers(traced: Traced, node: fx.Node, axis: Axis, prefix: str) -> list[FoldableLayer]:
    layers: list[FoldableLayer] = []
    ndim = len(traced.shapes[node])
    for user in (user for user in node.users if user not in traced.sizes):
        path, module = str(user.target), traced.module_of(user)
        if module is not None and _is_plain(traced, path, module, axis, ndim):
            layers.append(FoldableLayer(prefix + path, axis.repeat))
        elif (inside := _trace_leaf(traced, user)) is not None:
            layers += _readers(inside, inside.source, axis, f"{prefix}{path}.")
        elif (new_axis := axis_after(traced, user, node, axis)) is not None:
            layers += _readers(traced, user, new_axis, prefix)
        else:
            raise _Blocked(describe(traced, user, prefix))
    return layers


def _trace_leaf(traced: Traced, node: fx.Node) -> Traced | None:
    module = traced.module_of(node)
    if module is None or _why_not_changeable(traced, str(node.target), module):
        return None
    return trace_inside(traced, node)


def _producer(traced: Traced, node: fx.Node, axis: Axis, batchnorm: str | None) -> FoldableLayer:
    path, module = str(node.target), traced.module_of(node)
    if module is not None and _is_plain(traced, path, module, axis, len(traced.shapes[node])):
        return FoldableLayer(path, axis.repeat, batchnorm)
    inputs = [n for n in node.all_input_nodes if n in traced.shapes and n.op != "get_attr"]
    if len(inputs) != 1 or sum(u not in traced.sizes for u in inputs[0].users) != 1 or inputs[0].op == "placeholder":
        raise _Blocked(describe(traced, node, ""))
    if module is not None and _is_linear_batchnorm(module) and batchnorm is None and axis == Axis(1):
        producer = _producer(traced, inputs[0], axis, path)
        if _calls(traced, path) == 1 and str(inputs[0].target) == producer.path:
            return producer
    for dim in range(len(traced.shapes[inputs[0]])):
        if axis_after(traced, node, inputs[0], Axis(dim)) == axis and batchnorm is None:
            return _producer(traced, inputs[0], Axis(dim), batchnorm)
    raise _Blocked(describe(traced, node, ""))


def _is_linear_batchnorm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm with running statistics and without activation."""
    from timm.layers import BatchNormAct2d

    if not isinstance(module, nn.BatchNorm2d) or module.running_var is None:
        return False
    if type(module) is BatchNormAct2d:
        return type(module.drop) is nn.Identity and type(module.act) is nn.Identity
    return type(module) is nn.BatchNorm2d


def describe(traced: Traced, node: fx.Node, prefix: str) -> str:
    """Describe a node: "`layer2.0.norm1` (LayerNorm)", or "`add` in `layer1.2`" if it is no module call."""
    module = traced.module_of(node)
    if module is None:
        return _operation(traced, node, prefix)
    kind, detail = type(module), ""
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        detail = f", {module.groups} groups"
    elif kind in plain_linears() | plain_convolutions():
        detail = f", {_why_not_changeable(traced, str(node.target), module) or 'over another axis'}"
    elif holds_layers(module):
        detail = ", whose layers cannot be traced"
    return f"`{prefix}{traced.paths[node]}` ({kind.__name__}{detail})"


def _operation(traced: Traced, node: fx.Node, prefix: str) -> str:
    scope = traced.paths[node].rpartition(".")[0]
    module = traced.root.get_submodule(scope)
    path = f"{prefix}{scope}".rstrip(".")
    if scope and not list(module.children()):
        return f"`{path}` ({type(module).__name__})"
    name = node.op if node.op == "output" else getattr(node.target, "__name__", str(node.target))
    return f"`{name}` in {f'`{path}`' if path else 'the forward pass'}"
