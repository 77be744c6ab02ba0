"""Hostile ONNX files through `graftcli eval` and `graftcli bench`: no traceback, no hang, no lack of memory.

    python -m tests.bench.campaigns.onnx_files [NAME ...]

prints a row for each command. `ran` are files that are odd, and yet networks; `silent` would be one of them that read a
file outside its folder.
"""

import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from graftcli.cli import app
from graftcli.errors import CheckpointError, GraftError, UsageError
from tests.bench.campaigns.harness import prepare
from tests.hostile.measured import HEAD, LIMIT, Outcome, outcomes, row
from tests.hostile.onnx_files import CLASSES, HOSTILE, SIZE

# what a file may not be read through, whatever onnxruntime makes of it
FORBIDDEN = ("/dev/zero", "/etc/passwd", "../", "outside", "pipe", "folder")


def main(names: Sequence[str] = ()) -> None:
    prepare()
    warnings.simplefilter("ignore")
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pictures(place / "photos")
        for command in ("eval", "bench"):
            began = time.perf_counter()
            # a case takes its own limit and the time to start: it is a hang where the command itself is late
            found = list(outcomes(list(names) or list(HOSTILE), case(command, place), limit=60.0, batch=1))
            print(row(f"hostile ONNX files, {command}", found, time.perf_counter() - began), flush=True)
            _remarkable(found, everything=bool(names))


def pictures(folder: Path) -> None:
    """A folder of noise in the folders of as many classes as the files have."""
    draw = np.random.default_rng(0)
    for index in range(CLASSES):
        (folder / f"{index}_x").mkdir(parents=True)
        for i in range(2):
            pixels = draw.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}_x" / f"{i}.png")


def case(command: str, place: Path) -> Callable[[str], str]:
    """What runs the command on one of the files, and says what became of it."""

    def run(name: str) -> str:
        path = place / command / str(abs(hash(name))) / "w.onnx"
        path.parent.mkdir(parents=True)
        HOSTILE[name](path)
        # one thread: the machine may have one core
        more = ["--threads", "1", "-b", "2", "--seconds", "0"] if command == "bench" else []
        words = [command, str(path), "--images", str(place / "photos"), "--json", *more]
        ended = CliRunner().invoke(app, words)
        for file in path.parent.iterdir():
            if file.is_file() and not file.is_symlink():
                file.unlink()
        return _word(name, ended.exit_code, ended.stderr, ended.exception)

    return run


def _word(name: str, code: int, message: str, error: BaseException | None) -> str:
    if code == 0:
        return "silent" if name.startswith("external") and any(word in name for word in FORBIDDEN) else "ran"
    if isinstance(error, GraftError):  # the app's own function makes messages of them, which CliRunner does not call
        raise error
    if error is not None and not isinstance(error, SystemExit):
        raise error
    refusals = {2: UsageError, 6: CheckpointError}
    if code == 1 or "Traceback" in message:
        raise RuntimeError(message[-2000:])
    raise refusals.get(code, GraftError)(message, "see the message")


def _remarkable(found: Sequence[Outcome], *, everything: bool) -> None:
    """On stderr: what ran and what went wrong, and with `everything` every case."""
    print(f"  ran: {', '.join(one.case for one in found if one.word == 'ran')}", file=sys.stderr)
    for one in found:
        bad = one.word in ("traceback", "crash", "hang", "silent", "refused without a fix") or one.seconds > LIMIT
        if bad or everything or one.memory > 1 << 30:
            text = " ".join(one.message.split())[-700:]
            print(f"  {one.case}: {one.word}, {one.seconds:.1f} s, {one.memory >> 20} MB {text}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
