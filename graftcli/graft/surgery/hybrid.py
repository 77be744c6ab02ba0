"""Hybrids: networks that are partly teacher and partly student, saved and made again.

A hybrid is one graph over copies of the two networks' modules. Its keys say where each tensor comes from:
`teacher.layer1.0.conv1.weight`, `student.layer3.0.conv1.weight`, `seams.2.to_student.weight`.

facts(plan, …)  ->  JSON  ->  rebuild(teacher, student, facts)  ->  load_state_dict(strict=True)
"""

import copy
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import fx, nn

from graftcli.errors import PairError
from graftcli.graft.surgery.fold import resized
from graftcli.graft.surgery.seams import Adapter, Relayout
from graftcli.models.cuts.plan import Plan, Side
from graftcli.models.cuts.positions import Layout, Position, positions
from graftcli.models.network import Network
from graftcli.models.tracing.split import split
from graftcli.models.tracing.trace import trace

Role = Literal["teacher", "student"]
Blocks = Sequence[tuple[Role, fx.GraphModule]]


class Hybrid(fx.GraphModule):
    """A graph over `teacher`, `student` and `seams`; it holds only what it uses."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, super().__reduce__()


def _unpickled(make: Callable[..., fx.GraphModule], content: tuple[Any, ...]) -> Hybrid:
    module = make(*content)
    return Hybrid(module, module.graph)


@dataclass(frozen=True)
class Joint:
    """What a hybrid has between two of its blocks: an adapter, or a change of the layout alone."""

    cut: int  # between blocks `cut` and `cut` + 1
    name: Literal["to_student", "to_teacher", "both"]
    source: Layout
    target: Layout
    size: tuple[int, int]
    shape: tuple[int, int] | None  # of the adapter's weight [outputs, inputs]

    @property
    def key(self) -> str:
        return f"seams.{self.cut}.{self.name}"

    def empty(self) -> nn.Module:
        """A module of this kind, its weight to be loaded."""
        if self.shape is None:
            return Relayout(self.source, self.target, self.size)
        return Adapter(self.shape[1], self.shape[0], self.source, self.target, self.size)


def compose(blocks: Blocks, joints: Mapping[Joint, nn.Module], layers: Mapping[str, nn.Module]) -> Hybrid:
    """Copies of the blocks with the joints between them, as one network; `layers` stand for those at their paths."""
    names, modules = zip(*_in_order(blocks, joints), strict=True)
    own = copy.deepcopy(nn.Sequential(*modules))  # together: what two blocks share stays shared
    graph, held = fx.Graph(), dict[str, Any]()
    value = graph.placeholder("images")
    for name, part in zip(names, own, strict=True):
        value = _append(graph, value, name, part, held)
    graph.output(value)
    hybrid = Hybrid(held, graph, "Hybrid")
    for path, layer in layers.items():
        hybrid.set_submodule(path, layer, strict=True)
    return hybrid.eval()


def _in_order(blocks: Blocks, joints: Mapping[Joint, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    for number, (role, block) in enumerate(blocks, 1):
        yield role, block
        yield from ((joint.key, module) for joint, module in joints.items() if joint.cut == number)


def _append(graph: fx.Graph, value: fx.Node, name: str, part: nn.Module, held: dict[str, Any]) -> fx.Node:
    """The part at the graph's end, reading `value`; what it uses is written down in `held` by path."""
    if not isinstance(part, fx.GraphModule):
        held[name] = part
        return graph.call_module(name, (value,))
    known = {next(node for node in part.graph.nodes if node.op == "placeholder"): value}
    result = graph.graph_copy(part.graph, known)
    for node, copied in known.items():
        if node.op in ("call_module", "get_attr"):
            copied.target = f"{name}.{node.target}"
            held[copied.target] = attrgetter(str(node.target))(part)
    assert isinstance(result, fx.Node)  # a block returns one tensor
    return result


# -- as JSON, and back --------------------------------------------------------------------------------------------


def facts(
    plan: Plan, blocks: Collection[int], joints: Iterable[Joint], layers: Mapping[str, nn.Module]
) -> dict[str, Any]:
    """What `rebuild` needs beside the two networks; `layers` are those whose shape is another than the network's."""
    found = {
        "input_size": list(plan.teacher.network.input_size),
        "blocks": ["student" if block.index in blocks else "teacher" for block in plan.blocks],
        "cuts": {"teacher": _cut_facts(plan.teacher), "student": _cut_facts(plan.student)},
        "seams": [asdict(joint) for joint in joints],
        "reshaped": {path: list(_shape(layer)) for path, layer in layers.items()},
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))  # lists for tuples, as they are when read back
    return plain


def _cut_facts(side: Side) -> list[dict[str, Any]]:
    """Each cut by its name, and by which of the places of that name it is: a layer may run more than once."""
    places = positions(side.traced)
    found = []
    for cut in side.cuts:
        same = [place.index for place in places if place.name == cut.name]
        found.append({"name": cut.name, "which": same.index(cut.index), "shape": list(cut.shape), "layout": cut.layout})
    return found


def _shape(layer: nn.Module) -> torch.Size:
    tensor = layer.running_mean if isinstance(layer, nn.BatchNorm2d) else layer.weight
    assert isinstance(tensor, torch.Tensor)  # what takes an adapter in has it
    return tensor.shape


def rebuild(
    teacher: Network | nn.Module | None, student: Network | nn.Module | None, facts: Mapping[str, Any]
) -> Hybrid:
    """The hybrid of these facts over copies of the networks, whose weights mean nothing until they are loaded.

    A network that no block comes from may be None.
    """
    networks = {"teacher": teacher, "student": student}
    roles: list[Role] = facts["blocks"]
    pieces = {role: _cut_again(role, networks[role], facts) for role in sorted(set(roles))}
    blocks = [(role, pieces[role][k]) for k, role in enumerate(roles)]
    joints = {joint: joint.empty() for joint in map(_joint, facts["seams"])}
    hybrid = compose(blocks, joints, {})
    for path, shape in facts["reshaped"].items():
        hybrid.set_submodule(path, resized(hybrid.get_submodule(path), shape), strict=True)
    return hybrid


def _joint(fact: Mapping[str, Any]) -> Joint:
    """A joint again: JSON has lists for tuples."""
    tuples: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fact.items()}
    return Joint(**tuples)


def _cut_again(role: str, network: Network | nn.Module | None, facts: Mapping[str, Any]) -> list[fx.GraphModule]:
    if network is None:
        raise PairError(f"the network holds blocks of the {role}.", f"Give the {role} that it was made with.")
    module = network.module if isinstance(network, Network) else network
    images = torch.randn(2, *facts["input_size"], generator=torch.Generator().manual_seed(0))
    traced = trace(module, images)
    places = positions(traced)
    return split(traced, [_same_place(role, k, places, fact) for k, fact in enumerate(facts["cuts"][role], 1)])


def _same_place(role: str, number: int, places: Sequence[Position], fact: Mapping[str, Any]) -> Position:
    """The place of a recorded cut, which has to be what it was."""
    mend = f"Give the {role} that the network was made with, in the version of its library that `run.json` names."
    same = [place for place in places if place.name == fact["name"]]
    if len(same) <= fact["which"]:
        raise PairError(f"cut {number} of the {role}, `{fact['name']}`, is no place of this {role}.", mend)
    place: Position = same[fact["which"]]
    if (list(place.shape), place.layout) != (fact["shape"], fact["layout"]):
        found = f"cut {number} of the {role}, `{place.name}`, was {fact['layout']} of {_times(fact['shape'])}"
        raise PairError(f"{found}; this {role} has {place.layout} of {_times(place.shape)}.", mend)
    return place


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
