"""Initialises a student from the teacher's weights: units at even depth, and the most important channels.

Modules correspond by their place in the module tree. In a row of units of one kind, the student's first and last unit
correspond to the teacher's first and last, and the others to units at even distances between. Of a wider teacher layer
the student takes a subset of the channels, and each layer that reads them takes the same subset (`match_channels`).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from graftcli.graft.initialize.channel_matching import fill_unmatched, match_channels, module_pairs
from graftcli.graft.initialize.importance import importance
from graftcli.models.channel_selection import ChannelSelection, reads_all
from graftcli.models.channels.groups import channels
from graftcli.models.cuts.plan import Side


@torch.no_grad()
def inherit(teacher: Side, student: Side, images: Tensor) -> tuple[ChannelSelection, ...]:
    """Copy the weights that fit from the teacher into the student, and return the channels that each layer takes.

    `images` measure the importance of the teacher's channels.
    """
    teacher_module, student_module = teacher.network.module, student.network.module
    teacher_path = _teacher_paths(teacher_module, student_module)
    teacher_channels = channels(teacher.traced)
    importances = importance(teacher_channels, teacher_module, images)
    selections = match_channels(teacher_channels, channels(student.traced), teacher_path, importances)
    by_layer = {selection.layer: selection for selection in selections}
    for path, source_path in teacher_path.items():
        source, target = teacher_module.get_submodule(source_path), student_module.get_submodule(path)
        if _fits(source, target):
            _copy(source, target, path, by_layer)
    return selections


def _teacher_paths(teacher: nn.Module, student: nn.Module) -> dict[str, str]:
    """Return the path of the corresponding teacher module for each student module that has one."""
    return {path: source for source, path in module_pairs(teacher, student)}


def inherited_weights(teacher: nn.Module, student: nn.Module) -> set[int]:
    """Return the ids of the student's parameters that `inherit` copies from the teacher."""
    inherited = set()
    for path, source_path in _teacher_paths(teacher, student).items():
        target = student.get_submodule(path)
        if _fits(teacher.get_submodule(source_path), target):
            inherited |= {id(parameter) for parameter in target.parameters(recurse=False)}
    return inherited


def _copy(source: nn.Module, target: nn.Module, path: str, selections: dict[str, ChannelSelection]) -> None:
    source_tensors = dict(_tensors(source))
    for name, target_tensor in _tensors(target):
        selection = selections.get(path) or selections.get(f"{path}.{name}".lstrip("."))
        tensor = source_tensors[name]
        if selection is None:
            target_tensor.copy_(tensor[tuple(slice(extent) for extent in target_tensor.shape)])
        elif name == "weight" and isinstance(source, nn.Conv2d) and isinstance(target, nn.Conv2d):
            target_tensor.copy_(_kernels(source, target, selection))
        elif name == "weight" and reads_all(target):
            target_tensor.copy_(_select(_select(tensor, 0, selection.outputs), 1, selection.inputs))
        elif tensor.numel() > 1:
            dim = next(dim for dim, extent in enumerate(tensor.shape) if extent > 1)
            target_tensor.copy_(_select(tensor, dim, selection.outputs))
        else:
            target_tensor.copy_(tensor)


def _select(tensor: Tensor, dim: int, indices: Sequence[int]) -> Tensor:
    return tensor.index_select(dim, torch.tensor(indices, device=tensor.device))


def _kernels(source: nn.Conv2d, target: nn.Conv2d, selection: ChannelSelection) -> Tensor:
    """Select the kernels of the selected outputs and inputs; in grouped convolutions, only inputs of the same group."""
    if source.groups == target.groups == 1:
        return _select(_select(source.weight, 0, selection.outputs), 1, selection.inputs)
    target_width, source_width = target.weight.shape[1], source.weight.shape[1]
    kernels = []
    for output, source_output in enumerate(selection.outputs):
        target_group = output * target.groups // target.out_channels
        source_group = source_output * source.groups // source.out_channels
        group_inputs = selection.inputs[target_group * target_width :][:target_width]
        offsets = [channel - source_group * source_width for channel in group_inputs]
        inputs = fill_unmatched([i if 0 <= i < source_width else None for i in offsets], source_width)
        kernels.append(_select(source.weight[source_output], 0, inputs))
    return torch.stack(kernels)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _fits(source: nn.Module, target: nn.Module) -> bool:
    """Whether both layers have the same type and kernel size, and no dimension of `source` is smaller."""
    if type(source) is not type(target):
        return False
    tensors = dict(_tensors(source))
    return all(
        name in tensors
        and tensors[name].ndim == tensor.ndim
        and tensors[name].shape[2:] == tensor.shape[2:]
        and all(a >= b for a, b in zip(tensors[name].shape, tensor.shape, strict=True))
        for name, tensor in _tensors(target)
    )
