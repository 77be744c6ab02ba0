"""Law 1 over every architecture: join(split(net))(x) == net(x), bit for bit, in float32 and eval mode.

    python tests/bench/split_coverage.py --all        every classifier of timm and torchvision under 60 M parameters
    python tests/bench/split_coverage.py resnet18 torchvision:vgg11

prints a table by family and, with --write, puts it into split_coverage.md beside this file. Weights are random, and so
are BatchNorm statistics and the scales that are zero at the start; the images of the check are others, and another
number of them, than those the network was cut with.
"""

import argparse
import json
import multiprocessing
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from graftcli.errors import GraftError
from graftcli.models.cuts.automatic_cuts import cuts, equal_work_cuts, shrinks
from graftcli.models.tracing.split import join, split
from graftcli.models.tracing.trace import trace
from tests.nets import randomise

_MOST_PARAMETERS = 60_000_000
_LARGEST_IMAGE = 224  # where the network takes any size


@dataclass(frozen=True)
class Row:
    name: str
    family: str
    outcome: str  # "exact" | "not exact" | "refused" | "not built"
    reason: str = ""
    size: int = 0
    resolutions: int = 0
    steps: int = 0  # down-samplings from stride 4 on at which one tensor alone is alive
    at_steps: int = 0  # of these, how many have a cut
    blocks: int = 0
    foldable: int = 0
    opaque: int = 0
    macs: int = 0


def architectures() -> list[str]:
    """Every name, as a model spec; the sizes are found out by building on no memory at all."""
    vision = torchvision.models.list_models(module=torchvision.models)
    return [f"timm:{name}" for name in timm.list_models()] + [f"torchvision:{name}" for name in vision]


def family(spec: str) -> str:
    source, name = spec.split(":")
    if source == "timm":
        return str(timm.models.model_entrypoint(name).__module__).rpartition(".")[2]
    builder = torchvision.models.get_model_builder(name)
    return f"torchvision {builder.__module__.rpartition('.')[2]}"


def create(spec: str) -> nn.Module:
    source, name = spec.split(":")
    if source == "timm":
        network: nn.Module = timm.create_model(name, pretrained=False)
        return network
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = torchvision.models.get_model(name, weights=None, **extra)
    return network


def image_size(spec: str, network: nn.Module) -> tuple[int, int, int]:
    config = getattr(network, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size", (3, 224, 224))
    if config.get("fixed_input_size") or not config or config.get("min_input_size", (3, 0, 0))[1] > _LARGEST_IMAGE:
        return channels, height, width
    return channels, min(height, _LARGEST_IMAGE), min(width, _LARGEST_IMAGE)


def probe(spec: str) -> Row | None:
    """One architecture's row; None where it is too large."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    kind = family(spec)
    try:
        with torch.device("meta"):
            parameters = sum(p.numel() for p in create(spec).parameters())
    except Exception:
        parameters = 0  # some constructors compute with numbers; those are built in earnest
    if parameters >= _MOST_PARAMETERS:
        return None
    try:
        network = create(spec).eval()
    except Exception as error:
        return Row(spec, kind, "not built", _sentence(error))
    if sum(p.numel() for p in network.parameters()) >= _MOST_PARAMETERS:
        return None
    return _cut(spec, kind, _calmed(randomise(network), image_size(spec, network)))


@torch.no_grad()
def _calmed(network: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """The network with weights so much smaller that its answers are numbers: where all is nan, everything is equal."""
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2))
    for _ in range(8):
        if torch.isfinite(network(images.clone())).all():
            break
        for parameter in network.parameters():
            parameter.mul_(0.7 if parameter.ndim > 1 else 0.9)
    return network


@torch.no_grad()
def _cut(spec: str, kind: str, network: nn.Module) -> Row:
    shape = image_size(spec, network)
    try:
        traced = trace(network, torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))
        natural = cuts(traced)
        places = natural or equal_work_cuts(traced, 4)
        blocks = split(traced, places)
    except GraftError as error:
        return Row(spec, kind, "refused", _sentence(error), shape[1])
    except Exception as error:  # a bug of graftcli: the table shows it
        return Row(spec, kind, "not exact", f"{type(error).__name__}: {_sentence(error)}", shape[1])
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    exact = torch.equal(join(blocks)(images.clone()), network(images))
    steps = [s for s in shrinks(traced) if shape[1] / s.before[0].size[0] >= 3.5]
    chosen = {place.node for place in natural}
    return Row(
        name=spec,
        family=kind,
        outcome="exact" if exact and len(blocks) > 1 else "not exact" if not exact else "refused",
        reason="" if len(blocks) > 1 else "no position where a single tensor is alive",
        size=shape[1],
        resolutions=len({p.size for s in shrinks(traced) for p in (s.before[-1], s.after[0])}),
        steps=len(steps),
        at_steps=sum(any(p.node in chosen for p in (*s.before, *s.after)) for s in steps),
        blocks=len(blocks),
        foldable=sum(place.foldable for place in places),
        opaque=len(traced.opaque),
        macs=sum(traced.macs.values()),
    )


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def rows(specs: Sequence[str], jobs: int) -> Iterator[Row]:
    """In processes that are thrown away after a while: some networks leave memory behind."""
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=40) as pool:
        yield from (row for row in pool.imap_unordered(probe, specs) if row is not None)


def table(found: Iterable[Row]) -> str:
    """By family, then what was refused or not built, and why."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in found:
        groups[row.family].append(row)
    lines = [
        "| family | architectures | cut, exact | refused | not built | blocks | foldable cuts | cut at each step |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, members in [*sorted(groups.items()), ("**all**", [r for g in groups.values() for r in g])]:
        lines.append(_line(name, members))
    trouble = sorted((r for g in groups.values() for r in g if r.outcome != "exact"), key=lambda r: (r.outcome, r.name))
    lines += ["", "| not cut | outcome | why |", "| --- | --- | --- |"] if trouble else []
    lines += [f"| {r.name} | {r.outcome} | {r.reason.replace('|', '/')} |" for r in trouble]
    fewer = sorted((r for g in groups.values() for r in g if r.at_steps < r.steps), key=lambda r: r.name)
    lines += ["", "| fewer cuts than steps | steps | cuts there |", "| --- | --- | --- |"] if fewer else []
    lines += [f"| {r.name} | {r.steps} | {r.at_steps} |" for r in fewer]
    return "\n".join(lines) + "\n"


def _line(name: str, members: Sequence[Row]) -> str:
    count = {what: sum(r.outcome == what for r in members) for what in ("exact", "refused", "not built")}
    cut = [r for r in members if r.outcome == "exact"]
    pyramids = [r for r in cut if r.resolutions >= 3]
    blocks = f"{min(r.blocks for r in cut)}..{max(r.blocks for r in cut)}" if cut else ""
    all_cuts = sum(r.blocks - 1 for r in cut)
    fold = f"{sum(r.foldable for r in cut)} of {all_cuts}" if cut else ""
    steps = f"{sum(r.at_steps == r.steps for r in pyramids)} of {len(pyramids)}" if pyramids else ""
    numbers = " | ".join(str(count[what]) for what in ("exact", "refused", "not built"))
    return f"| {name} | {len(members)} | {numbers} | {blocks} | {fold} | {steps} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", help="timm:NAME or torchvision:NAME")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--write", action="store_true", help="put the table into split_coverage.md")
    parser.add_argument("--jsonl", type=Path, help="one row a line into this file, and go on from what it holds")
    parser.add_argument("-j", "--jobs", type=int, default=2)
    options = parser.parse_args()
    specs = architectures() if options.all else [s if ":" in s else f"timm:{s}" for s in options.specs]
    found = []
    if options.jsonl is not None and options.jsonl.exists():
        found = [Row(**json.loads(line)) for line in options.jsonl.read_text().splitlines()]
    done = {row.name for row in found}
    for row in rows([spec for spec in specs if spec not in done], options.jobs):
        found.append(row)
        print(f"{len(found)} {row.name}: {row.outcome}, {row.blocks} blocks {row.reason}", file=sys.stderr, flush=True)
        if options.jsonl is not None:
            with options.jsonl.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    text = table(found)
    print(text)
    if options.write:
        heading = "# Splitting every architecture\n\n`python tests/bench/split_coverage.py --all --write`, torch"
        versions = f"{heading} {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}\n\n"
        Path(__file__).with_suffix(".md").write_text(versions + text)


if __name__ == "__main__":
    main()
