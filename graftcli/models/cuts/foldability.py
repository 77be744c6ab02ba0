"""Who reads a tensor, who made it, and whether a bias-free 1x1 at that place can vanish into them.

Forwards, when every reader is a plain convolution or linear layer, reached directly or through operations that
commute with a 1x1. Backwards, when such a layer made the tensor with nothing nonlinear after it. Types are exact: a
weight-standardised convolution derives from nn.Conv2d and is none.
"""

from collections import Counter
from dataclasses import dataclass

from torch import fx, nn

from graftcli.models.cuts.commuting import Axis, through
from graftcli.models.tracing.trace import Traced, holds_layers, trace_inside


@dataclass(frozen=True)
class FoldableLayer:
    """A convolution or linear layer into which a 1x1 can be multiplied."""

    path: str
    repeat: int = 1  # how many inputs in a row belong to one channel (flattened maps)
    batchnorm: str | None = None  # the BatchNorm that has to be folded into the layer first


@dataclass(frozen=True)
class Fold:
    """Either the layers that take the adapter in, or the reason why none do."""

    layers: tuple[FoldableLayer, ...] = ()
    blocker: str | None = None

    def __bool__(self) -> bool:
        return self.blocker is None and bool(self.layers)


class _Blocked(Exception):
    """A layer or operation that a 1x1 does not pass."""


def plain_convolutions() -> set[type[nn.Module]]:
    from timm.layers import Conv2dSame

    return {nn.Conv2d, Conv2dSame}


def plain_linears() -> set[type[nn.Module]]:
    from timm.layers import Linear  # the same, but for scripted modules

    return {nn.Linear, Linear}


def forwards(traced: Traced, node: fx.Node, channel_dim: int) -> Fold:
    """The layers that read `node`, if `to_student` can be folded into all of them."""
    try:
        layers = _readers(traced, node, Axis(channel_dim), "")
    except _Blocked as blocked:
        return Fold(blocker=f"read by {blocked}")
    return Fold(tuple(dict.fromkeys(layers))) if layers else Fold(blocker="nothing reads it")


def backwards(traced: Traced, node: fx.Node, channel_dim: int) -> Fold:
    """The layer that made `node`, if `to_teacher` can be folded into it."""
    try:
        return Fold((_maker(traced, node, Axis(channel_dim), None),))
    except _Blocked as blocked:
        return Fold(blocker=f"made by {blocked}")


def _calls(traced: Traced, path: str) -> int:
    return sum(node.op == "call_module" and node.target == path for node in traced.graph.nodes)


def _obstacle(traced: Traced, path: str, module: nn.Module) -> str:
    """Why the weights of a layer cannot be changed for one reader or maker alone; empty where they can."""
    own = Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))
    if _calls(traced, path) > 1:
        return "used more than once"
    bare = (node.op == "get_attr" and str(node.target).startswith(f"{path}.") for node in traced.graph.nodes)
    if any(traced.holders[one] > count for one, count in own.items()) or any(bare):
        return "with weights that are used elsewhere too"
    if module._forward_pre_hooks or module._forward_hooks:
        return "with hooks"
    return ""


def _is_plain(traced: Traced, path: str, module: nn.Module, axis: Axis, ndim: int) -> bool:
    """A layer that is linear in the channels alone, used once and with weights of its own."""
    if type(module) in plain_convolutions():
        fits = isinstance(module, nn.Conv2d) and module.groups == 1 and axis == Axis(1)
    else:
        fits = type(module) in plain_linears() and axis.dim == ndim - 1
    return fits and not _obstacle(traced, path, module)


def _readers(traced: Traced, node: fx.Node, axis: Axis, prefix: str) -> list[FoldableLayer]:
    found: list[FoldableLayer] = []
    ndim = len(traced.shapes[node])
    for user in (user for user in node.users if user not in traced.sizes):
        path, module = str(user.target), traced.module_of(user)
        if module is not None and _is_plain(traced, path, module, axis, ndim):
            found.append(FoldableLayer(prefix + path, axis.repeat))
        elif (inner := _looked_into(traced, user)) is not None:
            found += _readers(inner, inner.source, axis, f"{prefix}{path}.")
        elif (moved := through(traced, user, node, axis)) is not None:
            found += _readers(traced, user, moved, prefix)
        else:
            raise _Blocked(describe(traced, user, prefix))
    return found


def _looked_into(traced: Traced, node: fx.Node) -> Traced | None:
    module = traced.module_of(node)
    if module is None or _obstacle(traced, str(node.target), module):
        return None
    return trace_inside(traced, node)


def _maker(traced: Traced, node: fx.Node, axis: Axis, batchnorm: str | None) -> FoldableLayer:
    path, module = str(node.target), traced.module_of(node)
    if module is not None and _is_plain(traced, path, module, axis, len(traced.shapes[node])):
        return FoldableLayer(path, axis.repeat, batchnorm)
    before = [n for n in node.all_input_nodes if n in traced.shapes and n.op != "get_attr"]
    if len(before) != 1 or sum(u not in traced.sizes for u in before[0].users) != 1 or before[0].op == "placeholder":
        raise _Blocked(describe(traced, node, ""))
    if module is not None and is_linear_batchnorm(module) and batchnorm is None and axis == Axis(1):
        maker = _maker(traced, before[0], axis, path)
        if _calls(traced, path) == 1 and str(before[0].target) == maker.path:
            return maker
    for dim in range(len(traced.shapes[before[0]])):
        if through(traced, node, before[0], Axis(dim)) == axis and batchnorm is None:
            return _maker(traced, before[0], Axis(dim), batchnorm)
    raise _Blocked(describe(traced, node, ""))


def is_linear_batchnorm(module: nn.Module) -> bool:
    """A BatchNorm with running statistics and with nothing nonlinear inside."""
    from timm.layers import BatchNormAct2d

    if not isinstance(module, nn.BatchNorm2d) or module.running_var is None:
        return False
    if type(module) is BatchNormAct2d:
        return type(module.drop) is nn.Identity and type(module.act) is nn.Identity
    return type(module) is nn.BatchNorm2d


def describe(traced: Traced, node: fx.Node, prefix: str) -> str:
    """A node in words: "`layer2.0.norm1` (LayerNorm)", or "`add` in `layer1.2`" where no module of its own does it."""
    module = traced.module_of(node)
    if module is None:
        return _operation(traced, node, prefix)
    kind, why = type(module), ""
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        why = f", {module.groups} groups"
    elif kind in plain_linears() | plain_convolutions():
        why = f", {_obstacle(traced, str(node.target), module) or 'of another axis'}"
    elif holds_layers(module):
        why = ", which hides the layers it holds"
    return f"`{prefix}{traced.paths[node]}` ({kind.__name__}{why})"


def _operation(traced: Traced, node: fx.Node, prefix: str) -> str:
    scope = traced.paths[node].rpartition(".")[0]
    inside = traced.root.get_submodule(scope)
    place = f"{prefix}{scope}".rstrip(".")
    if scope and not list(inside.children()):
        return f"`{place}` ({type(inside).__name__})"
    name = node.op if node.op == "output" else getattr(node.target, "__name__", str(node.target))
    return f"`{name}` in {f'`{place}`' if place else 'the forward pass'}"
