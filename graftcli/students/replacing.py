"""Changes that replace whole layers: factorized convolutions and dropped units."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from graftcli.models.channel_selection import ChannelSelection
from graftcli.students.narrowing import selections_without
from graftcli.students.student_kind import Changes


def factorized(module: nn.Module, replaced: Mapping[str, nn.Sequential]) -> Changes:
    """The changes that replace these convolutions by their factorizations."""
    count = len(replaced)
    note = f"{count} convolution{'s' * (count > 1)} factorized"
    return Changes(_selections_beside(module, replaced), replaced, notes=(note,))


def dropped(module: nn.Module, names: Sequence[str]) -> Changes:
    """The changes that replace these units by identities."""
    replaced = {name: nn.Sequential() for name in names}
    return Changes(_selections_beside(module, replaced), replaced, notes=(f"without {', '.join(names)}",))


def _selections_beside(module: nn.Module, replaced: Mapping[str, nn.Sequential]) -> tuple[ChannelSelection, ...]:
    """Selections of all channels; replaced convolutions are marked inexact, and dropped layers are left out."""
    selections = []
    for selection in selections_without(module, ()):
        layers = next(
            (layers for path, layers in replaced.items() if f"{selection.layer}.".startswith(f"{path}.")), None
        )
        if layers is None or len(layers):
            selections.append(replace(selection, exact=layers is None))
    return tuple(selections)
