"""The teacher as the graft stage runs it: a copy in which nothing is trained and BatchNorm costs nothing."""

import copy

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def frozen(piece: fx.GraphModule) -> fx.GraphModule:
    """A copy of `piece` without gradients to its weights, with BatchNorm folded into the convolutions before it."""
    result = copy.deepcopy(piece).eval().requires_grad_(False)
    for node in list(result.graph.nodes):
        if (pair := conv_and_norm(result, node)) is not None:
            conv, norm, rest = pair
            result.set_submodule(str(node.all_input_nodes[0].target), _folded(conv, norm))
            result.set_submodule(str(node.target), rest)
    return result


def conv_and_norm(piece: fx.GraphModule, node: fx.Node) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.Module] | None:
    """A BatchNorm and the convolution that alone feeds it, with what is left when the BatchNorm is gone."""
    from timm.layers import BatchNormAct2d

    norm = _only_call(piece, node)
    if type(norm) not in (nn.BatchNorm2d, BatchNormAct2d) or not isinstance(norm, nn.BatchNorm2d):
        return None
    before = node.all_input_nodes[0]
    conv = _only_call(piece, before)
    if type(conv) is not nn.Conv2d or len(before.users) != 1 or norm.running_mean is None:
        return None
    rest = [part for name, part in norm.named_children() if name in ("drop", "act")]  # of a BatchNormAct2d
    return conv, norm, nn.Sequential(*rest)


def _only_call(piece: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    if (
        node.op != "call_module"
        or sum(n.op == "call_module" and n.target == node.target for n in piece.graph.nodes) > 1
    ):
        return None
    return piece.get_submodule(str(node.target))


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    result = copy.deepcopy(conv)
    assert norm.running_mean is not None and norm.running_var is not None  # without them it is not folded
    result.weight, result.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return result.requires_grad_(False)
