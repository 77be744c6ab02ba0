"""Rewrite a network that cannot be traced as a chain of its top-level stages, if it is one.

Observed in one forward pass: each stage reads the output of the previous stage, after one of a few simple operations.
The caller checks that the chain computes the same function.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from graftcli.models.tracing.tracer import with_forward

# Operations allowed between two stages.
_GLUE: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    lambda x: torch.flatten(x, 1),
    lambda x: torch.relu(x),
    lambda x: x.mean((2, 3)),  # global average pooling
    lambda x: x.mean((1, 2)),  # global average pooling, channels-last
    lambda x: x.mean(1),  # mean over tokens
    lambda x: x[:, 0],  # the class token
)
_Link = tuple[Callable[[Tensor], Tensor], str]  # (operation before a stage, name of the stage)
_Call = tuple[str, object, object]  # (name of a stage, input, output)


def as_chain(module: nn.Module, example: Tensor, expected: Tensor) -> nn.Module | None:
    """The same modules with the chain of stages as forward pass, or None if the network is no chain."""
    links = _links([*_calls(module, example), ("", expected, expected)], example)
    if links is None or len(links) < 2:
        return None

    def forward(self: nn.Module, images: Tensor) -> Tensor:
        for glue, name in links:
            images = glue(images)
            images = self.get_submodule(name)(images) if name else images
        return images

    return with_forward(module, {"forward": forward})


def stages(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The top-level modules with a forward pass; ModuleLists and ModuleDicts are replaced by their contents."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from stages(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _calls(module: nn.Module, example: Tensor) -> list[_Call]:
    """The inputs and outputs of the stages, in order of execution; cloned, because later code may modify them."""
    calls: list[_Call] = []

    def listener(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        return lambda _, inputs, output: calls.append((name, _copy(inputs[0] if inputs else None), _copy(output)))

    hooks = [child.register_forward_hook(listener(name)) for name, child in stages(module)]
    try:
        module(example)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _copy(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value


def _links(calls: Sequence[_Call], value: object) -> list[_Link] | None:
    links: list[_Link] = []
    for name, stage_input, output in calls:
        glue = next((g for g in _GLUE if _makes(g, value, stage_input)), None)
        if glue is None:
            return None
        links.append((glue, name))
        value = output
    return links


def _makes(glue: Callable[[Tensor], Tensor], value: object, stage_input: object) -> bool:
    if not isinstance(value, Tensor) or not isinstance(stage_input, Tensor):
        return False
    try:
        return torch.equal(glue(value), stage_input)
    except (RuntimeError, IndexError):
        return False
