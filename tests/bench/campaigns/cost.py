"""What the checks of files cost: their share of the CPU time of a run of the default recipe.

    python -m tests.bench.campaigns.cost --scale 0.1

resnet56 -> resnet20 on a hundred CIFAR-10 images (GRAFTCLI_DATA). Timed are the digests of tensor files when they are
written and read, the checksums of cached features, and the CRCs of the teacher's checkpoint.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graftcli.models.loading import safe_pickle as pickles
from graftcli.models.loading import tensor_file
from graftcli.runs.config import ModelPair, RunConfig, TrainOptions
from graftcli.runs.running import distill
from graftcli.runs.scoring import PreprocessOptions
from graftcli.store import row_file as rows

NETS = Path(__file__).resolve().parents[2] / "nets.py"


def timed(spent: Counter[str], name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose CPU time is added up."""

    def call(*args: object, **more: object) -> Any:
        began = time.thread_time()
        try:
            return work(*args, **more)
        finally:
            spent[name] += round(1e6 * (time.thread_time() - began))

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--cache-gb", type=float, default=None)
    given = parser.parse_args()
    data, spent = Path(os.environ["GRAFTCLI_DATA"]) / "cifar10", Counter[str]()
    for module, name, what in (
        (tensor_file, "check", "digests of tensor files, read"),
        (tensor_file, "digest_of", "digests of tensor files, written"),
        (rows.Checksums, "add", "checksums of cached features"),
        (pickles, "check_zip", "CRCs of the checkpoint"),
    ):
        setattr(module, name, timed(spent, what, getattr(module, name)))
    networks = ModelPair(
        f"{NETS}:resnet(depth=56)",
        f"{NETS}:resnet(depth=20)",
        teacher_checkpoint=str(data / "teachers" / "resnet56-4bfd9763.th"),
    )
    how = TrainOptions(steps_scale=given.scale, cache_gb=given.cache_gb)
    config = RunConfig(
        networks, str(data / "10shot-draw0"), None, PreprocessOptions(img_size=(32, 32), crop_pct=1.0), how
    )
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        distill(config, out=Path(folder) / "run")
        whole = time.process_time() - began
    checks = sum(spent.values()) / 1e6
    print(f"| checks | {checks:.2f} of {whole:.0f} CPU s | {checks / whole:.2%} |")
    for name, microseconds in spent.most_common():
        print(f"|   {name} | {microseconds / 1e6:.3f} s | |")


if __name__ == "__main__":
    main()
