"""Merging: folds the adapters into the layers of the networks. Returns new modules.

    merge(plan, seams).exact(x) == graft(plan, seams, all blocks)(x)

in float64; `check` measures the remaining difference.
"""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from graftcli.errors import GateError
from graftcli.graft.surgery.fold_plan import (
    AdapterSite,
    FoldedLayer,
    FoldOption,
    LayerCopies,
    adapter_sites,
    fold_options,
    network_side,
)
from graftcli.graft.surgery.hybrid import Joint, compose, facts
from graftcli.graft.surgery.seams import Adapter, Scion, Seam, check_blocks, graft
from graftcli.models.cuts.foldability import KeptAdapter
from graftcli.models.cuts.plan import Plan, count_parameters, example
from graftcli.models.origin import HybridFacts, Role

EXACT_LIMIT = 1e-9  # of the largest logit, in float64
ROUNDED_LIMIT = 1e-4  # the same in float32, the precision of the written weights
_LARGEST_LOGIT = 1e6  # of a network whose training did not diverge


@dataclass(frozen=True)
class Merged:
    """The merged network, and what was folded and kept."""

    module: nn.Module  # float32, on the CPU
    exact: nn.Module  # the same in float64
    stock: bool  # whether the merged network has exactly the student's architecture
    folded: tuple[FoldedLayer, ...]
    kept: tuple[KeptAdapter, ...]
    params: int
    macs: int  # for one image
    unmerged_params: int
    unmerged_macs: int
    facts: HybridFacts | None  # for `hybrid.rebuild`; None if stock


def merge(plan: Plan, seams: Sequence[Seam]) -> Merged:
    """Merge the whole student: into its stock architecture if all adapters can be folded."""
    return merge_hybrid(plan, seams, range(1, len(plan.blocks) + 1))


def merge_hybrid(plan: Plan, seams: Sequence[Seam], blocks: Collection[int]) -> Merged:
    """Merge the teacher with these student blocks; adapters are folded unless parameters or MACs would grow."""
    check_blocks(plan, blocks)
    unmerged = copy.deepcopy(graft(plan, seams, blocks)).cpu().eval()
    unmerged_macs = _macs(unmerged, plan)
    folding = _fold(adapter_sites(plan, seams, blocks), LayerCopies(plan), _by_hybrid_path(unmerged_macs, unmerged))
    exact, hybrid_facts = _assemble(plan, blocks, folding)
    module = _contiguous(copy.deepcopy(exact).float())
    return Merged(
        module=module,
        exact=exact,
        stock=hybrid_facts is None,
        folded=tuple(folding.folded),
        kept=tuple(folding.kept),
        params=count_parameters(module),
        macs=_macs(module, plan)[""],
        unmerged_params=count_parameters(unmerged),
        unmerged_macs=unmerged_macs[""],
        facts=hybrid_facts,
    )


# -- folding ------------------------------------------------------------------------------------------------------


@dataclass
class _Folding:
    """The layers that were changed, and the joints that remain."""

    layers: LayerCopies
    joints: dict[Joint, nn.Module]
    folded: list[FoldedLayer]
    kept: list[KeptAdapter]


def _fold(sites: Iterable[AdapterSite], layers: LayerCopies, macs: Mapping[str, int]) -> _Folding:
    """Fold each adapter in the way that gives the smallest network; keep it if the network would grow."""
    folding = _Folding(layers, {}, [], [])
    for site in sites:
        joint, options = site.joint, fold_options(site, layers, macs)
        option = next((option for option in options if not option.grows), None)
        if option is not None:
            layers.update(option.layers)
            folding.folded += option.folded
        elif site.weight is not None:
            folding.joints[joint] = _adapter(joint, site.weight)
            shape = tuple(site.weight.shape)
            folding.kept.append(KeptAdapter(joint.cut, joint.name, shape, _reason(site, options)))
        if joint.source != joint.target and joint not in folding.joints:
            relayout = replace(joint, shape=None)
            folding.joints[relayout] = relayout.empty()
    return folding


def _adapter(joint: Joint, weight: Tensor) -> nn.Module:
    adapter = joint.empty()
    assert isinstance(adapter, Adapter)  # the joint has a weight
    adapter.weight = nn.Parameter(weight)
    return adapter


def _reason(site: AdapterSite, options: Sequence[FoldOption]) -> str:
    if options:
        option = options[0]
        return f"folding would change the network by {option.params:+,} parameters and {option.macs:+,} multiply-adds"
    return "; ".join(dict.fromkeys(str(side.fold.blocker) for side in site.sides))


def _assemble(plan: Plan, blocks: Collection[int], folding: _Folding) -> tuple[nn.Module, HybridFacts | None]:
    """Build the network in float64: a copy of the student's module if nothing else remains, else a hybrid."""
    roles: list[Role] = ["student" if block.index in blocks else "teacher" for block in plan.blocks]
    if "teacher" not in roles and not folding.joints:
        module = copy.deepcopy(plan.student.network.module).cpu().double().eval()
        for path, layer in folding.layers.items():
            module.set_submodule(path.removeprefix("student."), layer, strict=True)
        return module, None
    pieces = [(role, network_side(plan, role).blocks[k]) for k, role in enumerate(roles)]
    hybrid = compose(pieces, folding.joints, folding.layers).cpu().double()
    reshaped = {
        path: layer for path, layer in folding.layers.items() if _reshaped(layer, folding.layers.original(path))
    }
    return hybrid, facts(plan, blocks, folding.joints, reshaped)


def _contiguous(module: nn.Module) -> nn.Module:
    """Make all tensors contiguous, as they are when read from a file: layers round differently for other strides."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return module


def _reshaped(layer: nn.Module, original: nn.Module) -> bool:
    original_shapes = {name: tensor.shape for name, tensor in original.state_dict().items()}
    return original_shapes != {name: tensor.shape for name, tensor in layer.state_dict().items()}


def _macs(module: nn.Module, plan: Plan) -> dict[str, int]:
    """Count the multiply-adds of every module for one image, by path; the empty path is the whole network."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(example(plan.teacher.network)[:1])
    counts = counter.get_flop_counts()
    macs = {name.partition(".")[2]: sum(operations.values()) // 2 for name, operations in counts.items()}
    return {**macs, "": counter.get_total_flops() // 2}


def _by_hybrid_path(macs: Mapping[str, int], grafted: nn.Sequential) -> dict[str, int]:
    """Rename the layers of a grafted network to their paths in a hybrid."""
    renamed = {}
    for name, count in macs.items():
        number, _, rest = name.partition(".")
        if rest:
            is_scion = isinstance(grafted[int(number)], Scion)
            renamed[f"student.{rest.removeprefix('block.')}" if is_scion else f"teacher.{rest}"] = count
    return renamed


# -- the gate -----------------------------------------------------------------------------------------------------


def check(merged: Merged, unmerged: nn.Module, images: Tensor) -> tuple[float, float]:
    """Return the largest difference of the logits, relative to the largest logit, in float64 and in float32.

    Raises if one exceeds its limit. Runs on the CPU: other devices may lack float64 or round float32 more coarsely.
    """
    expected = _logits(copy.deepcopy(unmerged).cpu().double().eval(), images.detach().cpu().double())
    if not bool(torch.isfinite(expected).all()):
        raise GateError("training diverged: the trained network gives logits that are not finite.", _DIVERGED)
    exact = _difference(_logits(merged.exact, images.detach().cpu().double()), expected)
    rounded = _difference(_logits(merged.module, images.detach().cpu().float()), expected)
    for difference, limit, precision in ((exact, EXACT_LIMIT, "float64"), (rounded, ROUNDED_LIMIT, "float32")):
        if not difference <= limit:  # true for NaN
            if (largest := _largest_logit(unmerged, expected, images)) > _LARGEST_LOGIT:
                raise GateError(f"training diverged: the trained network gives logits up to {largest:.1e}.", _DIVERGED)
            message = (
                f"the output of the merged network differs from the unmerged one in {precision} by {difference:.1e}"
            )
            remedy = "Nothing was written. Please report this with the names of both networks; other cuts may merge."
            raise GateError(f"{message} of the largest logit, where rounding explains at most {limit:.0e}.", remedy)
    return exact, rounded


_DIVERGED = (
    "Nothing was written. Train again with a lower learning rate (--set stages.NAME.lr=RATE), or check the checkpoints."
)


def _largest_logit(unmerged: nn.Module, expected: Tensor, images: Tensor) -> float:
    """Return the largest logit of the trained network in float64, or infinity if its values overflow in float32."""
    in_float32 = _logits(copy.deepcopy(unmerged).cpu().float().eval(), images.detach().cpu().float())
    return float(expected.abs().max()) if bool(torch.isfinite(in_float32).all()) else float("inf")


@torch.no_grad()
def _logits(module: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([module(batch) for batch in torch.split(images, 8)])


def _difference(logits: Tensor, expected: Tensor) -> float:
    return float((logits.double() - expected).abs().max() / expected.abs().max())
