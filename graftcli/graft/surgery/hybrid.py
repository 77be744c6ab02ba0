"""Hybrids: networks that are partly teacher and partly student, and their JSON description.

A hybrid is one graph over copies of the two networks' modules. Its keys name the origin of each tensor:
`teacher.layer1.0.conv1.weight`, `student.layer3.0.conv1.weight`, `seams.2.to_student.weight`.

facts(plan, …)  ->  JSON  ->  rebuild(teacher, student, facts)  ->  load_state_dict(strict=True)
"""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import torch
from torch import fx, nn

from graftcli.errors import PairError
from graftcli.graft.surgery.fold import resized
from graftcli.graft.surgery.seams import Adapter, Relayout
from graftcli.models.cuts.plan import Plan, Side
from graftcli.models.cuts.positions import Layout, Position, positions
from graftcli.models.network import Network
from graftcli.models.origin import CutFacts, HybridFacts, JointFacts, Role
from graftcli.models.tracing.split import split
from graftcli.models.tracing.trace import trace

Blocks = Sequence[tuple[Role, fx.GraphModule]]


class Hybrid(fx.GraphModule):
    """A graph over the modules `teacher`, `student` and `seams`; it holds only the modules that it calls."""

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, super().__reduce__()


def _unpickled(reconstruct: Callable[..., fx.GraphModule], arguments: tuple[object, ...]) -> Hybrid:
    module = reconstruct(*arguments)
    return Hybrid(module, module.graph)


@dataclass(frozen=True)
class Joint:
    """An adapter or a layout change between two blocks of a hybrid."""

    cut: int  # between blocks `cut` and `cut` + 1
    name: Literal["to_student", "to_teacher", "both"]
    source: Layout
    target: Layout
    size: tuple[int, int]
    shape: tuple[int, int] | None  # of the adapter's weight [outputs, inputs]

    @property
    def key(self) -> str:
        """The path of the module in the hybrid."""
        return f"seams.{self.cut}.{self.name}"

    def empty(self) -> nn.Module:
        """Make the module; its weight has yet to be loaded."""
        if self.shape is None:
            return Relayout(self.source, self.target, self.size)
        return Adapter(self.shape[1], self.shape[0], self.source, self.target, self.size)


def compose(blocks: Blocks, joints: Mapping[Joint, nn.Module], layers: Mapping[str, nn.Module]) -> Hybrid:
    """Join copies of the blocks and the joints between them into one network; `layers` replace those at their paths."""
    names, modules = zip(*_in_order(blocks, joints), strict=True)
    copies = copy.deepcopy(nn.Sequential(*modules))  # copied in one call, so that shared tensors stay shared
    graph, modules_by_path = fx.Graph(), dict[str, object]()
    value = graph.placeholder("images")
    for name, module in zip(names, copies, strict=True):
        value = _append(graph, value, name, module, modules_by_path)
    graph.output(value)
    hybrid = Hybrid(modules_by_path, graph, "Hybrid")
    for path, layer in layers.items():
        hybrid.set_submodule(path, layer, strict=True)
    return hybrid.eval()


def _in_order(blocks: Blocks, joints: Mapping[Joint, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    for number, (role, block) in enumerate(blocks, 1):
        yield role, block
        yield from ((joint.key, module) for joint, module in joints.items() if joint.cut == number)


def _append(graph: fx.Graph, value: fx.Node, name: str, module: nn.Module, modules: dict[str, object]) -> fx.Node:
    """Append a module that reads `value` to the graph; everything that it uses is added to `modules` by path."""
    if not isinstance(module, fx.GraphModule):
        modules[name] = module
        return graph.call_module(name, (value,))
    node_map = {next(node for node in module.graph.nodes if node.op == "placeholder"): value}
    result = graph.graph_copy(module.graph, node_map)
    for node, copied in node_map.items():
        if node.op in ("call_module", "get_attr"):
            copied.target = f"{name}.{node.target}"
            modules[copied.target] = attrgetter(str(node.target))(module)
    assert isinstance(result, fx.Node)  # a block returns one tensor
    return result


# -- JSON description ---------------------------------------------------------------------------------------------


def facts(plan: Plan, blocks: Collection[int], joints: Iterable[Joint], layers: Mapping[str, nn.Module]) -> HybridFacts:
    """Describe a hybrid for `rebuild`; `layers` are those whose shape differs from the original."""
    return {
        "input_size": list(plan.teacher.network.input_size),
        "blocks": ["student" if block.index in blocks else "teacher" for block in plan.blocks],
        "cuts": {"teacher": _cut_facts(plan.teacher), "student": _cut_facts(plan.student)},
        "seams": [_joint_facts(joint) for joint in joints],
        "reshaped": {path: list(_shape(layer)) for path, layer in layers.items()},
    }


def _joint_facts(joint: Joint) -> JointFacts:
    return {
        "cut": joint.cut,
        "name": joint.name,
        "source": joint.source,
        "target": joint.target,
        "size": list(joint.size),
        "shape": list(joint.shape) if joint.shape is not None else None,
    }


def _cut_facts(side: Side) -> list[CutFacts]:
    """Describe each cut by its name and its number among the positions of that name, because a layer may run twice."""
    all_positions = positions(side.traced)
    facts: list[CutFacts] = []
    for cut in side.cuts:
        same_name = [position.index for position in all_positions if position.name == cut.name]
        which = same_name.index(cut.index)
        facts.append({"name": cut.name, "which": which, "shape": list(cut.shape), "layout": cut.layout})
    return facts


def _shape(layer: nn.Module) -> torch.Size:
    tensor = layer.running_mean if isinstance(layer, nn.BatchNorm2d) else layer.weight
    assert isinstance(tensor, torch.Tensor)  # layers that adapters are folded into have one
    return tensor.shape


def rebuild(teacher: Network | nn.Module | None, student: Network | nn.Module | None, facts: HybridFacts) -> Hybrid:
    """Rebuild a hybrid from its description over copies of the networks; its weights have yet to be loaded.

    A network that contributes no block may be None.
    """
    networks = {"teacher": teacher, "student": student}
    pieces = {role: _split_again(role, networks[role], facts) for role in sorted(set(facts["blocks"]))}
    blocks = [(role, pieces[role][k]) for k, role in enumerate(facts["blocks"])]
    joints = {joint: joint.empty() for joint in map(_joint, facts["seams"])}
    hybrid = compose(blocks, joints, {})
    for path, shape in facts["reshaped"].items():
        hybrid.set_submodule(path, resized(hybrid.get_submodule(path), shape), strict=True)
    return hybrid


def _joint(fact: JointFacts) -> Joint:
    """Restore a joint; JSON has lists for tuples."""
    size, shape = _pair(fact["size"]), None if fact["shape"] is None else _pair(fact["shape"])
    return Joint(fact["cut"], fact["name"], fact["source"], fact["target"], size, shape)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return first, second


def _split_again(role: Role, network: Network | nn.Module | None, facts: HybridFacts) -> list[fx.GraphModule]:
    if network is None:
        raise PairError(f"this hybrid contains blocks of the {role}.", f"Give the {role} that it was built from.")
    module = network.module if isinstance(network, Network) else network
    images = torch.randn(2, *facts["input_size"], generator=torch.Generator().manual_seed(0))
    traced = trace(module, images)
    all_positions = positions(traced)
    return split(traced, [_find_cut(role, k, all_positions, fact) for k, fact in enumerate(facts["cuts"][role], 1)])


def _find_cut(role: Role, number: int, candidates: Sequence[Position], fact: CutFacts) -> Position:
    """Return the position of a recorded cut; raise if it is missing or has another shape."""
    remedy = f"Give the {role} that the hybrid was built from, in the library version that `run.json` names."
    same_name = [position for position in candidates if position.name == fact["name"]]
    if len(same_name) <= fact["which"]:
        raise PairError(f"cut {number} of the {role}, `{fact['name']}`, does not exist in this {role}.", remedy)
    position: Position = same_name[fact["which"]]
    if (list(position.shape), position.layout) != (fact["shape"], fact["layout"]):
        recorded = f"cut {number} of the {role}, `{position.name}`, was {fact['layout']} of {_format(fact['shape'])}"
        actual = f"in this {role} it is {position.layout} of {_format(position.shape)}"
        raise PairError(f"{recorded}; {actual}.", remedy)
    return position


def _format(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
