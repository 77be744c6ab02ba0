"""Merging: the adapters go into the networks' own layers. New modules, never the caller's.

    merge(plan, seams).exact(x) == graft(plan, seams, all blocks)(x)

in float64, and `check` measures by how much it is not.
"""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from graftcli.errors import GateError
from graftcli.graft.surgery.fold_plan import AdapterSite, FoldedLayer, FoldOption, LayerCopies, betweens, side_of, ways
from graftcli.graft.surgery.hybrid import Joint, Role, compose, facts
from graftcli.graft.surgery.seams import Adapter, Scion, Seam, check_blocks, graft
from graftcli.models.cuts.plan import Plan, count_parameters, example

EXACT_LIMIT = 1e-9  # of the largest logit, in float64
ROUNDED_LIMIT = 1e-4  # the same for the weights that are written, in float32


@dataclass(frozen=True)
class KeptAdapter:
    """An adapter that stays as a layer of its own."""

    cut: int
    adapter: str
    shape: tuple[int, ...]  # of its weight [outputs, inputs]
    reason: str


@dataclass(frozen=True)
class Merged:
    """The network that is written, and what became of the adapters."""

    module: nn.Module  # float32, on the CPU
    exact: nn.Module  # the same before it was rounded: float64
    stock: bool  # whether it is the student's architecture and nothing else
    folded: tuple[FoldedLayer, ...]
    kept: tuple[KeptAdapter, ...]
    params: int
    macs: int  # for one image
    unmerged_params: int
    unmerged_macs: int
    facts: Mapping[str, Any] | None  # from which `hybrid.rebuild` makes it again; None where it is stock


def merge(plan: Plan, seams: Sequence[Seam]) -> Merged:
    """The whole student: in its stock architecture, unless an adapter has no layer to go into."""
    return merge_hybrid(plan, seams, range(1, len(plan.blocks) + 1))


def merge_hybrid(plan: Plan, seams: Sequence[Seam], blocks: Collection[int]) -> Merged:
    """The teacher with the student's `blocks` in it; an adapter is folded where neither parameters nor MACs grow."""
    check_blocks(plan, blocks)
    unmerged = copy.deepcopy(graft(plan, seams, blocks)).cpu().eval()
    work = _work(unmerged, plan)
    done = _fold(betweens(plan, seams, blocks), LayerCopies(plan), _by_path(work, unmerged))
    exact, made_of = _assembled(plan, blocks, done)
    module = _plain(copy.deepcopy(exact).float())
    return Merged(
        module=module,
        exact=exact,
        stock=made_of is None,
        folded=tuple(done.folded),
        kept=tuple(done.kept),
        params=count_parameters(module),
        macs=_work(module, plan)[""],
        unmerged_params=count_parameters(unmerged),
        unmerged_macs=work[""],
        facts=made_of,
    )


# -- folding ------------------------------------------------------------------------------------------------------


@dataclass
class _Done:
    """What folding has come to."""

    layers: LayerCopies
    joints: dict[Joint, nn.Module]
    folded: list[FoldedLayer]
    kept: list[KeptAdapter]


def _fold(found: Iterable[AdapterSite], layers: LayerCopies, work: Mapping[str, int]) -> _Done:
    """Each adapter goes the way that makes the smallest network, if it grows in nothing; else it stays."""
    done = _Done(layers, {}, [], [])
    for between in found:
        joint, possible = between.joint, ways(between, layers, work)
        way = next((way for way in possible if not way.grows), None)
        if way is not None:
            layers.update(way.layers)
            done.folded += way.folded
        elif between.weight is not None:
            done.joints[joint] = _adapter(joint, between.weight)
            done.kept.append(
                KeptAdapter(joint.cut, joint.name, tuple(between.weight.shape), _reason(between, possible))
            )
        if joint.source != joint.target and joint not in done.joints:
            relayout = replace(joint, shape=None)
            done.joints[relayout] = relayout.empty()
    return done


def _adapter(joint: Joint, weight: Tensor) -> nn.Module:
    adapter = joint.empty()
    assert isinstance(adapter, Adapter)  # for there is a weight
    adapter.weight = nn.Parameter(weight)
    return adapter


def _reason(between: AdapterSite, possible: Sequence[FoldOption]) -> str:
    if possible:
        way = possible[0]
        return f"folded it would change the network by {way.params:+,} parameters and {way.macs:+,} multiply-adds"
    return "; ".join(dict.fromkeys(str(end.fold.blocker) for end in between.ends))


def _assembled(plan: Plan, blocks: Collection[int], done: _Done) -> tuple[nn.Module, dict[str, Any] | None]:
    """The network in float64: the student's own module if nothing else is in it, else a hybrid with its facts."""
    roles: list[Role] = ["student" if block.index in blocks else "teacher" for block in plan.blocks]
    if "teacher" not in roles and not done.joints:
        module = copy.deepcopy(plan.student.network.module).cpu().double().eval()
        for path, layer in done.layers.items():
            module.set_submodule(path.removeprefix("student."), layer, strict=True)
        return module, None
    pieces = [(role, side_of(plan, role).blocks[k]) for k, role in enumerate(roles)]
    hybrid = compose(pieces, done.joints, done.layers).cpu().double()
    reshaped = {path: layer for path, layer in done.layers.items() if _reshaped(layer, done.layers.original(path))}
    return hybrid, facts(plan, blocks, done.joints, reshaped)


def _plain(module: nn.Module) -> nn.Module:
    """The module with plain strides, as it will have when it is read back: layers round otherwise on others."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return module


def _reshaped(layer: nn.Module, original: nn.Module) -> bool:
    before = {name: tensor.shape for name, tensor in original.state_dict().items()}
    return before != {name: tensor.shape for name, tensor in layer.state_dict().items()}


def _work(module: nn.Module, plan: Plan) -> dict[str, int]:
    """The multiply-adds of every module for one image, by its path; the whole network's is empty."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(example(plan.teacher.network)[:1])
    counts = counter.get_flop_counts()
    found = {name.partition(".")[2]: sum(operations.values()) // 2 for name, operations in counts.items()}
    return {**found, "": counter.get_total_flops() // 2}


def _by_path(work: Mapping[str, int], grafted: nn.Sequential) -> dict[str, int]:
    """The same by the paths that layers have in a hybrid."""
    found = {}
    for name, count in work.items():
        number, _, rest = name.partition(".")
        if rest:
            is_scion = isinstance(grafted[int(number)], Scion)
            found[f"student.{rest.removeprefix('block.')}" if is_scion else f"teacher.{rest}"] = count
    return found


# -- the gate -----------------------------------------------------------------------------------------------------


def check(merged: Merged, unmerged: nn.Module, images: Tensor) -> tuple[float, float]:
    """The largest difference as a share of the largest logit: in float64, and of what is written, which is float32.

    Past their limits nothing may be written. On the CPU: not every device has float64, and some round float32 further.
    """
    expected = _answers(copy.deepcopy(unmerged).cpu().double().eval(), images.detach().cpu().double())
    if not bool(torch.isfinite(expected).all()):
        mend = "Nothing was written. Train again with a smaller learning rate, or check the checkpoints."
        raise GateError("the trained network answers these images with numbers that are not finite.", mend)
    exact = _share(_answers(merged.exact, images.detach().cpu().double()), expected)
    rounded = _share(_answers(merged.module, images.detach().cpu().float()), expected)
    for share, limit, precision in ((exact, EXACT_LIMIT, "float64"), (rounded, ROUNDED_LIMIT, "float32")):
        if not share <= limit:  # nor is NaN
            found = f"the merged network answers otherwise than the unmerged one: in {precision} by {share:.1e}"
            mend = "Nothing was written. Please report this with the names of both networks; other cuts may merge."
            raise GateError(f"{found} of the largest logit, where at most {limit:.0e} is rounding.", mend)
    return exact, rounded


@torch.no_grad()
def _answers(module: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([module(few) for few in torch.split(images, 8)])


def _share(teacher_cache: Tensor, expected: Tensor) -> float:
    return float((teacher_cache.double() - expected).abs().max() / expected.abs().max())
