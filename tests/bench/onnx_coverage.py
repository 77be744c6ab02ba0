"""Export one architecture of every timm module to ONNX: which of them answer in onnxruntime as they do in PyTorch?

    python tests/bench/onnx_coverage.py resnet convnext vision_transformer
    python tests/bench/onnx_coverage.py --all --write --jsonl rows.jsonl     the committed table, onnx_coverage.md

The smallest architecture stands for its module, at the smallest image it takes. Weights are random, BatchNorm's too.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import onnxruntime
import timm
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from graftcli.errors import GraftError
from graftcli.formats.options import Exported, ExportOptions, ExportSource
from graftcli.formats.write import write
from graftcli.images.pixels import Preprocess
from tests.nets import randomise

_SIZES = (64, 128, 224)  # of images, the first that a network takes
_IMAGES = 10
_SMALL = ("test", "atto", "femto", "pico", "nano", "xxs", "xxt", "xs", "xtiny", "tiny", "mini", "small", "_0", "_t")
_MONSTROUS, _TAMINGS = 1e6, 16
_CANDIDATES = 12  # whose parameters are counted: a module can have hundreds


@dataclass(frozen=True)
class Row:
    module: str
    name: str
    outcome: str  # "parity" | "static only" | "differs" | "not exported" | "too slow" | "not built"
    parameters: int = 0
    size: int = 0
    error: float = 0.0
    seconds: float = 0.0
    reason: str = ""


def modules() -> list[str]:
    return sorted({timm.models.model_entrypoint(name).__module__.rpartition(".")[2] for name in timm.list_models()})


def smallest(module: str) -> str:
    """The architecture with the fewest parameters, among those whose names sound small."""
    names: list[str] = timm.list_models(module=module)
    sounding = sorted(names, key=lambda name: (not any(word in name for word in _SMALL), len(name), name))
    return min(sounding[:_CANDIDATES], key=lambda name: (_parameters(name), name))


def _parameters(name: str) -> float:
    try:
        with torch.device("meta"):
            return float(sum(p.numel() for p in timm.create_model(name).parameters()))
    except Exception:
        return float("inf")  # its constructor computes with numbers


def probe(module: str) -> Row:
    """Built, randomised, exported and compared."""
    started = time.monotonic()
    torch.manual_seed(0)
    name = smallest(module)
    try:
        network = _awake(randomise(timm.create_model(name).eval()))
        preprocess = _fit(network)
    except Exception as error:
        return Row(module, name, "not built", reason=_sentence(error))
    known: dict[str, Any] = {"parameters": sum(p.numel() for p in network.parameters()), "size": preprocess.size[0]}
    try:
        made, outcome = _exported(network, preprocess)
        known |= {"error": made.error}
        reason = ""
    except GraftError as error:
        outcome, reason = "not exported" if "cannot be exported" in error.message else "differs", _sentence(error)
    except Exception as error:  # a bug of graftcli: the table shows it
        outcome, reason = "differs", f"{type(error).__name__}: {_sentence(error)}"
    return Row(module, name, outcome, **known, seconds=round(time.monotonic() - started, 1), reason=reason)


def _exported(network: nn.Module, preprocess: Preprocess) -> tuple[Exported, str]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        0, 256, (_IMAGES, preprocess.channels, *preprocess.size), dtype=torch.uint8, generator=generator
    )
    subject = ExportSource(network, preprocess, pixels, noise=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return write(subject, ExportOptions(), Path(folder) / "a.onnx"), "parity"
        except GraftError as error:
            if "cannot be exported" not in error.message:
                raise
            return write(subject, ExportOptions(static=True), Path(folder) / "a.onnx"), "static only"


@torch.no_grad()
def _awake(network: nn.Module) -> nn.Module:
    """The same network without matrices of zeros, behind which every image gets the same answer."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.normal_(std=0.02)
    return network


@torch.no_grad()
def _fit(network: nn.Module) -> Preprocess:
    """The smallest images that the network takes; its weights are made smaller until its answers are no monsters, of
    which float32 itself keeps too few digits."""
    config = getattr(network, "pretrained_cfg", {})
    channels, height, width = config.get("input_size", (3, 224, 224))
    sizes = [(height, width)] if config.get("fixed_input_size") else [(s, s) for s in _SIZES if s <= height]
    for size in (*sizes, (height, width)):
        try:
            answers = network(torch.randn(2, channels, *size))
        except Exception:
            if size == (height, width):
                raise
            continue
        for _ in range(_TAMINGS):
            if torch.isfinite(answers).all() and answers.abs().max() < _MONSTROUS:
                break
            for parameter in network.parameters():
                parameter.mul_(0.7 if parameter.ndim > 1 else 0.9)
            answers = network(torch.randn(2, channels, *size))
        break
    return Preprocess(size, channels, (0.5,) * channels, (0.5,) * channels, 1.0, "bilinear")


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


# -- one process after the other, each thrown away when a module takes too long -------------------------------------


def _work(questions: Connection) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with suppress(EOFError):  # nobody asks any more
        while True:
            questions.send(probe(questions.recv()))


def rows(names: Sequence[str], limit: float) -> Iterator[Row]:
    context, worker = multiprocessing.get_context("spawn"), None
    for name in names:
        if worker is None:
            here, there = context.Pipe()
            worker = context.Process(target=_work, args=(there,), daemon=True)
            worker.start()
            there.close()  # so that the other end closes when the process dies
        here.send(name)
        found, reason = None, f"more than {limit:.0f} s on one core"
        try:
            found = here.recv() if here.poll(limit) else None
        except EOFError:
            reason = "its process died"
        if found is None:
            worker.kill()
            worker.join()
            worker, found = None, Row(name, "", "too slow", reason=reason)
        yield found


# -- the table ----------------------------------------------------------------------------------------------------


def table(found: Iterable[Row]) -> str:
    ordered = sorted(found, key=lambda row: row.module)
    exportable = [row for row in ordered if row.outcome in ("parity", "static only", "differs")]
    good = [row for row in exportable if row.outcome != "differs"]
    share = len(good) / max(len(exportable), 1)
    counted = f"torch.onnx exports {len(exportable)}; {len(good)} of these ({share:.1%}) with parity"
    lines = [
        f"{len(ordered)} of timm's {len(modules())} modules were tried; {counted}.",
        "",
        "| timm module | architecture | parameters | image | outcome | largest difference | why not |",
        "| --- | --- | --: | --: | --- | --: | --- |",
    ]
    for row in ordered:
        error = f"{row.error:.0e}" if row.outcome in ("parity", "static only") else ""
        reason = row.reason.replace("|", "/")
        lines.append(
            f"| {row.module} | {row.name} | {row.parameters:,} | {row.size} | {row.outcome} | {error} | {reason} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="timm's, as resnet")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--write", action="store_true", help="put the table into onnx_coverage.md")
    parser.add_argument("--jsonl", type=Path, help="one row a line into this file, and go on from what it holds")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds a module may take")
    options = parser.parse_args()
    found = []
    if options.jsonl is not None and options.jsonl.exists():
        found = [Row(**json.loads(line)) for line in options.jsonl.read_text().splitlines()]
    done = {row.module for row in found}
    wanted = [name for name in modules() if name not in done and (options.all or name in options.modules)]
    for row in rows(wanted, options.limit):
        found.append(row)
        print(f"{len(found)} {row.module}: {row.name} {row.outcome} {row.reason}", file=sys.stderr, flush=True)
        if options.jsonl is not None:
            with options.jsonl.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    text = table(found)
    print(text)
    if options.write:
        heading = "# Every timm module as ONNX\n\n`python tests/bench/onnx_coverage.py --all --write`,"
        versions = f"torch {torch.__version__}, timm {timm.__version__}, onnxruntime {onnxruntime.__version__}"
        Path(__file__).with_suffix(".md").write_text(f"{heading} {versions}, opset 18\n\n{text}")


if __name__ == "__main__":
    main()
