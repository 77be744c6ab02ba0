"""One short run of each shipped recipe on a small pair, and the hash of the student's weights.

    python tests/bench/same_bytes.py                   # before a change that may change nothing, and after it

CPU, float32, one thread: the same machine and seed give the same bytes. The weights are hashed without their metadata.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

NETS = Path(__file__).resolve().parent.parent / "nets.py"
sys.path.insert(0, str(NETS.parent.parent))

from tests.nets import randomise, resnet  # noqa: E402 -- from the folder above, wherever this is run

STUDENTS = {"fskd": "prune:l1=0.4", "cross": "prune:l1=0.4", "grail": "prune:l1=0.4", "practise": "drop:auto=2"}
RECIPES = ("graft", "netgraft", "kd", "fitnet", "fskd", "cross", "mir", "practise", "grail")


def prepare(folder: Path) -> None:
    """Write twelve images of noise, and a teacher whose BatchNorm statistics are random too."""
    (folder / "images").mkdir()
    for seed in range(12):
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{seed}.png")
    torch.manual_seed(0)
    teacher = randomise(resnet(depth=20), seed=1)
    save_file({name: tensor.contiguous() for name, tensor in teacher.state_dict().items()}, folder / "t.safetensors")


def digest(folder: Path, recipe: str) -> str:
    """Train the student of a recipe and hash the names and bytes of its tensors."""
    student = STUDENTS.get(recipe, f"{NETS}:resnet(depth=8)")
    words = ["--teacher", f"{NETS}:resnet(depth=20)", "--teacher-checkpoint", "t.safetensors", "--student", student]
    words += ["--images", "images", "--recipe", recipe, "--steps-scale", "0.01", "--set", "views.total=48"]
    words += ["--device", "cpu", "--crop-pct", "1", "--quiet", "--out", recipe]
    subprocess.run([sys.executable, "-m", "graftcli", "distill", *words], cwd=folder, check=True, capture_output=True)
    found = hashlib.sha256()
    for name, tensor in sorted(load_file(folder / recipe / "model.safetensors").items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()[:16]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for recipe in RECIPES:
            print(f"{recipe:10}{digest(Path(folder), recipe)}", flush=True)


if __name__ == "__main__":
    main()
