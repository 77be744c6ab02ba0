"""A network whose forward pass cannot be traced -> the chain of its top-level stages, if it is one.

Seen from outside, on one pass: each stage's input is the output of the one before, but for what may stand between two
stages. Whether the chain is the same function is for the caller to prove.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graftcli.models.tracing.tracer import with_forward

# What stands between two stages of a network that is a chain, beside nothing at all.
_GLUE: tuple[Callable[[Any], Any], ...] = (
    lambda x: x,
    lambda x: torch.flatten(x, 1),
    lambda x: torch.relu(x),
    lambda x: x.mean((2, 3)),  # over the map
    lambda x: x.mean((1, 2)),  # over a channels-last map
    lambda x: x.mean(1),  # over the tokens
    lambda x: x[:, 0],  # the class token
)
_Link = tuple[Callable[[Any], Any], str]  # what stands before a stage, and the stage's name
_Call = tuple[str, Any, Any]  # a stage's name, its input, its output


def as_chain(module: nn.Module, example: Tensor, expected: Tensor) -> nn.Module | None:
    """The same modules under a forward pass that is the chain of stages, or None where there is none."""
    links = _links([*_calls(module, example), ("", expected, expected)], example)
    if links is None or len(links) < 2:
        return None

    def forward(self: nn.Module, images: Any) -> Any:
        for glue, name in links:
            images = glue(images)
            images = self.get_submodule(name)(images) if name else images
        return images

    return with_forward(module, {"forward": forward})


def stages(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The top-level modules that run themselves; what a list or a dict of modules holds stands for it."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from stages(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _calls(module: nn.Module, example: Tensor) -> list[_Call]:
    """What each stage was given and gave, in the order they ran; copies, for later code may write into them."""
    calls: list[_Call] = []

    def listener(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, inputs, output: calls.append((name, _copy(inputs[0] if inputs else None), _copy(output)))

    hooks = [child.register_forward_hook(listener(name)) for name, child in stages(module)]
    try:
        module(example)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _links(calls: Sequence[_Call], value: Any) -> list[_Link] | None:
    links: list[_Link] = []
    for name, given, output in calls:
        glue = next((g for g in _GLUE if _makes(g, value, given)), None)
        if glue is None:
            return None
        links.append((glue, name))
        value = output
    return links


def _makes(glue: Callable[[Any], Any], value: Any, given: Any) -> bool:
    try:
        made = glue(value)
    except (RuntimeError, IndexError, TypeError, AttributeError):
        return False
    return isinstance(made, Tensor) and isinstance(given, Tensor) and torch.equal(made, given)
