"""Hostile documents through the commands that read them: none may run anything, crash, hang or grow.

python -m tests.bench.campaigns.documents [--every 1]
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from PIL import Image

from tests.bench.campaigns.harness import Case, prepare, run_case
from tests.hostile.documents import CANARY, VICTIM, Document, everything

SLOW, LARGE = 60.0, 2 * 2**30  # seconds, bytes
_TRAIN = ("--recipe", "graft", "--steps-scale", "0.002", "--set", "views.count=4", "--set", "views.synthetic=null")


def made(folder: Path) -> Path:
    """A finished run of stock networks, and the images that it was trained on."""
    (folder / "images").mkdir(parents=True)
    for index in range(6):
        pixels = bytes((index * 37 + place * 101) % 256 for place in range(32 * 32 * 3))
        Image.frombytes("RGB", (32, 32), pixels).save(folder / "images" / f"{index}.png")
    networks = (
        "--teacher",
        "test_resnet",
        "--teacher-checkpoint",
        "none",
        "--student",
        "test_resnet",
        "--img-size",
        "32",
    )
    argv = (
        "distill",
        *networks,
        "--num-classes",
        "7",
        "--images",
        "images",
        *_TRAIN,
        "--set",
        "freeze=none",
        "--out",
        "run",
    )
    ended = run_case(Case(argv, folder))
    if ended.code:
        raise SystemExit(f"the run to start from ended with {ended.code}: {ended.output}")
    return folder


def canary_sings(base: Path, folder: Path) -> bool:
    """Whether the canary is left where the user does trust the code: a check that cannot fail proves nothing."""
    shutil.copytree(base, folder)
    code = next(one for one in everything() if one.name == "metadata code 16")
    code.write(folder)
    run_case(Case((*code.commands[0], "--trust-code"), folder, within=partial(_trusting_in, folder / "config")))
    return (folder / CANARY).exists()


def _trusting_in(folder: Path) -> None:
    os.environ["XDG_CONFIG_HOME"] = str(folder.resolve())


def outcome(document: Document, base: Path, folder: Path) -> tuple[list[str], Counter[int]]:
    """The faults of a document's readers, and the exit codes that they ended with."""
    shutil.copytree(base, folder)
    document.write(folder)
    faults, codes = [], Counter[int]()
    for command in document.commands:
        ended = run_case(Case(command, folder, kill_after=1.5 * SLOW))
        codes[ended.code] += 1
        found = {
            "ran code": (folder / CANARY).exists(),
            "wrote elsewhere": (folder / "victim").exists() and (folder / VICTIM).read_text() != "precious",
            "a traceback": "Traceback" in ended.output or "bug in graftcli" in ended.output,
            f"exit code {ended.code}": ended.code not in document.allowed,
            "no message": bool(ended.code) and len(ended.output.strip()) < 20,
            f"{ended.seconds:.0f} s": ended.seconds > SLOW,
            f"{ended.memory / 2**30:.1f} GiB": ended.memory > LARGE,
        }
        faults += [
            f"{document.name}: {' '.join(command[:2])}: {name}\n{ended.output[-600:]}"
            for name, bad in found.items()
            if bad
        ]
    shutil.rmtree(folder)
    return faults, codes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every n-th document")
    parser.add_argument("--only", default="", help="take the documents whose name holds this")
    given = parser.parse_args()
    prepare()
    began, faults, codes, count = time.monotonic(), [], Counter[int](), 0
    with tempfile.TemporaryDirectory(prefix="documents-") as place:
        _trusting_in(Path(place) / "config")  # in which nothing is trusted
        base = made(Path(place) / "base")
        if not canary_sings(base, Path(place) / "trusted"):
            faults.append("the canary is not left by code that is trusted")
        for number, document in enumerate(everything()):
            if number % given.every == 0 and given.only in document.name:
                found, ended = outcome(document, base, Path(place) / f"case-{number}")
                faults, codes, count = [*faults, *found], codes + ended, count + 1
    for fault in faults:
        print(fault, file=sys.stderr)
    ends = ", ".join(f"{code}: {times}" for code, times in sorted(codes.items()))
    cases = f"{count}, in {codes.total()} commands"
    print(f"| documents | {cases} | {len(faults)} faults | exit codes {ends} | {time.monotonic() - began:.0f} s |")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
