"""Hostile ONNX files, the short form: each is refused with a message, in bounded time and memory."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from graftcli.errors import CheckpointError
from graftcli.images.pixels import Preprocess
from graftcli.measure.benchmark import candidate_logits
from graftcli.measure.onnx.child_process import Child, ChildError, ChildLimits, Refusal
from graftcli.measure.onnx.facts import SCRIPT, read_onnx
from graftcli.measure.onnx.session import onnx_candidate
from tests.hostile.onnx_files import HOSTILE
from tests.tiny_onnx import Tiny, write

PREPROCESS = Preprocess((16, 16), 3, (0.0,) * 3, (1.0,) * 3, 1.0, "bilinear")
SECONDS = 2.0
PIXELS = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def refusal(name: str, folder: Path, seconds: float = 6.0) -> str:
    """The refusal of a hostile file that is loaded and run."""
    path = folder / "w.onnx"
    HOSTILE[name](path)
    with pytest.raises(CheckpointError) as caught:
        candidate_logits(onnx_candidate(path, 1, size=(3, 16, 16), seconds=seconds), PIXELS, PREPROCESS)
    assert "w.onnx" in caught.value.message and caught.value.fix
    return caught.value.message


@pytest.mark.parametrize(
    "name",
    ["loop of 2^62", "loop without end", "loop within a loop", "loop in a branch", "loop of the pixels"],
)
def test_a_loop_without_end_is_stopped(name: str, tmp_path: Path) -> None:
    assert re.search(r"takes longer than \d s", refusal(name, tmp_path, SECONDS))


@pytest.mark.parametrize("name", ["constant of 2^33", "expand to 2^40", "tile 2^30 times", "doubled 40 times"])
def test_a_tensor_that_no_memory_holds_is_refused(name: str, tmp_path: Path) -> None:
    refusal(name, tmp_path)


def test_memory_that_the_pixels_need_is_refused_too(tmp_path: Path) -> None:
    assert "Running it on 10 images takes more than 1.5 GB of memory" in refusal("size of the pixels", tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("external: /dev/zero", "external: /etc/passwd", "external: ../", "external: a link to outside"),
        *("external: a pipe", "external: a folder", "external: in a node", "external: in a branch"),
    ],
)
def test_weights_are_read_from_plain_files_in_the_folder_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    assert "not a regular file in its folder" in refusal(name, tmp_path / "inside")


def test_weights_beside_a_linked_file_are_read(tmp_path: Path) -> None:
    """As a download cache keeps them: all files in one folder, and links to them in another."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "links").mkdir()
    path = write(tmp_path / "blobs" / "x.onnx", Tiny(), external=True)
    for name in ("x.onnx", "x.onnx.data"):
        (tmp_path / "links" / name).symlink_to(tmp_path / "blobs" / name)
    assert read_onnx(tmp_path / "links" / "x.onnx").params == read_onnx(path).params


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("images of 2^31", "values per batch"),
        ("batches of 2^31", "values per batch"),
        ("images of -16", "each side must be at least 1"),
        ("images of INT64", "takes int64"),
        ("images of UNDEFINED", "takes type 0"),
        ("a tensor of 2^62 numbers", "has tensors whose sizes are impossible"),
        ("cycle", "is refused"),
        ("an unknown operator", "Bomb"),
        ("functions, 2^40 calls", "is refused"),
        ("logits: one row", "returns 1x5 for 10 images"),
        ("logits: one number", "for 10 images"),
        ("logits: text", "returns object"),
        ("logits: no numbers", "returns NaN logits for 10 of 10 images"),
        ("settings: std of 0", "std = [0, 1, 1] in its metadata: each must be above 0"),
        ("settings: mean of 10^400", "each must be finite"),
        ("settings: crop_pct of NaN", "crop_pct = NaN"),
        ("file: a pipe", "not a file"),
        ("file: /dev/zero", "not a file"),
        ("file: text", "cannot be read as ONNX"),
    ],
)
def test_what_is_no_network_of_images_is_refused_by_what_it_is(name: str, expected: str, tmp_path: Path) -> None:
    assert expected in refusal(name, tmp_path)


def test_malformed_metadata_is_ignored(tmp_path: Path) -> None:
    for name in ("mean in words", "mean of lists", "nested a million deep", "size of one number", "classes of dicts"):
        HOSTILE[f"settings: {name}"](tmp_path / "w.onnx")
        metadata = read_onnx(tmp_path / "w.onnx").metadata
        assert (metadata.mean, metadata.std, metadata.size, metadata.classes) == (None, None, None, ())


def test_a_good_file_is_read_again_when_it_changes_and_its_session_is_shared(tmp_path: Path) -> None:
    path = write(tmp_path / "x.onnx", Tiny())
    one, other = onnx_candidate(path, 1), onnx_candidate(path, 1, name="again")
    assert one.runner is other.runner
    write(path, Tiny(classes=7))
    assert candidate_logits(onnx_candidate(path, 1), PIXELS, PREPROCESS).shape == (10, 7)


def test_the_child_gives_what_onnxruntime_gives_here(tmp_path: Path) -> None:
    import onnxruntime

    path = write(tmp_path / "x.onnx", Tiny())
    here = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (wanted,) = here.run(None, {"images": (PIXELS / 255).numpy()})
    assert np.array_equal(candidate_logits(onnx_candidate(path, 1), PIXELS, PREPROCESS).numpy(), wanted)


# ---- the child ----


def test_a_child_that_crashes_is_named_by_its_signal(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os, signal; input(); os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(ChildError, match=r"crashes the process that runs it \(SIGSEGV\)"):
        Child(script).send({}, ChildLimits(10, 0))


def test_a_malformed_response_of_the_child_process_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("input(); print('[' * 100_000)")
    with pytest.raises(ChildError):
        Child(script).send({}, ChildLimits(10, 0))


def test_a_child_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    child = Child(SCRIPT)
    with pytest.raises(Refusal):
        child.send({"do": "run", "output": True}, ChildLimits(10, 1 << 30))
    child.close()


@pytest.mark.skipif(sys.platform != "linux", reason="it looks for processes in /proc")
def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """Idle at once; in a loop without end, when its time is over."""
    onnx.save(onnx.load(write(tmp_path / "x.onnx", Tiny())), tmp_path / "x.onnx")
    code = (
        "import sys, time; from pathlib import Path; from graftcli.measure.onnx.child_process import Child; "
        f"child = Child(Path({str(SCRIPT)!r})); print(child._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    _wait_for_the_end_of(child)


def _wait_for_the_end_of(process: int) -> None:
    for _ in range(100):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    os.kill(process, signal.SIGKILL)
    raise AssertionError("the child lives on")
