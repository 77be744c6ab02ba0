"""A frozen copy of the teacher for training: no gradients to its weights, BatchNorm folded into convolutions."""

import copy

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def frozen(piece: fx.GraphModule) -> fx.GraphModule:
    """Return a frozen copy of `piece` with each BatchNorm folded into the convolution before it."""
    result = copy.deepcopy(piece).eval().requires_grad_(False)
    for node in list(result.graph.nodes):
        if (pair := conv_and_norm(result, node)) is not None:
            conv, norm, remainder = pair
            result.set_submodule(str(node.all_input_nodes[0].target), _folded(conv, norm))
            result.set_submodule(str(node.target), remainder)
    return result


def conv_and_norm(piece: fx.GraphModule, node: fx.Node) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.Module] | None:
    """Return the BatchNorm at `node`, the convolution whose only reader it is, and what remains after folding.

    None if the node is not such a BatchNorm. The remainder is the dropout and activation of a BatchNormAct2d.
    """
    from timm.layers import BatchNormAct2d

    norm = _only_call(piece, node)
    if type(norm) not in (nn.BatchNorm2d, BatchNormAct2d) or not isinstance(norm, nn.BatchNorm2d):
        return None
    source = node.all_input_nodes[0]
    conv = _only_call(piece, source)
    if type(conv) is not nn.Conv2d or len(source.users) != 1 or norm.running_mean is None:
        return None
    remainder = [child for name, child in norm.named_children() if name in ("drop", "act")]
    return conv, norm, nn.Sequential(*remainder)


def _only_call(piece: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module that `node` calls, if no other node calls it."""
    if (
        node.op != "call_module"
        or sum(n.op == "call_module" and n.target == node.target for n in piece.graph.nodes) > 1
    ):
        return None
    return piece.get_submodule(str(node.target))


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    result = copy.deepcopy(conv)
    assert norm.running_mean is not None and norm.running_var is not None  # checked by conv_and_norm
    result.weight, result.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return result.requires_grad_(False)
