"""Decoded images in a memory-mapped file: the same as in memory, whole after a kill, in memory that does not grow."""

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import graftcli
from graftcli.errors import ImagesError, MachineError
from graftcli.graft.data.held_out import split_images
from graftcli.images import Images, Preprocess, load
from graftcli.images.rows import ImageRows, with_extra
from graftcli.images.sources import open_source
from graftcli.models.loading.saved import WEIGHTS_FILE
from graftcli.store.pixel_decoding import DecodeOptions
from graftcli.store.pixel_store import discard, stored_images
from tests.generated import store_of
from tests.image_files import folder_of, noise, saved
from tests.prepared_runs import OWN, run_inputs

PREPROCESS = Preprocess((16, 16), 3, (0.5,) * 3, (0.25,) * 3, 0.875, "bilinear", whole=True)
ROOT = Path(graftcli.__file__).parents[1]
SMALL = 3 * 18 * 18 * 7  # bytes of a chunk of seven images


def pictures(count: int) -> dict[str, bytes]:
    files = {f"{i:03}.png": saved(noise(20, 24 + i % 3, seed=i)) for i in range(count)}
    return files | {"twin-b.png": files["001.png"], "twin-a.png": files["001.png"], "broken.jpg": b"no image"}


def stored(folder: Path, source: Path, **settings: object) -> Images:
    options = DecodeOptions(**{"jobs": 1, "chunk_bytes": SMALL, **settings})  # type: ignore[arg-type]
    with open_source(source) as opened:
        return stored_images(folder, source, opened, PREPROCESS, options)


def same(one: Images, other: Images) -> bool:
    facts = ("broken", "digest", "short_side")
    return (
        torch.equal(one.pixels, other.pixels)
        and list(one.names) == list(other.names)
        and all(getattr(one, fact) == getattr(other, fact) for fact in facts)
        and one.shared_with(other) == len(set(one.files.tolist()))
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_stored_images_are_those_in_memory(tmp_path: Path, processes: int) -> None:
    source, progress = folder_of(tmp_path / "images", pictures(30)), list[tuple[int, int]]()
    images = stored(tmp_path / "cache", source, processes=processes, on_progress=lambda *done: progress.append(done))
    assert same(images, load(source, PREPROCESS)) and images.store is not None and images.store.is_file()
    assert progress[-1] == (33, 33) and progress == sorted(progress)
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".index", ".pixels"]
    discard(images)
    assert not any((tmp_path / "cache").iterdir())
    assert images.pixels.float().mean() > 0  # a removed file stays readable


def test_a_selection_is_stored_alone(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "images", pictures(20))
    for processes in (1, 2):
        with open_source(source) as opened:
            few = opened.chosen(range(0, 20, 2)).chosen([0, 2, 4])
            options = DecodeOptions(jobs=1, processes=processes, chunk_bytes=SMALL // 4)
            images = stored_images(tmp_path / f"{processes}", source, few, PREPROCESS, options)
        assert sorted(images.names) == ["000.png", "004.png", "008.png"]


def test_stored_images_are_used_again_until_a_file_changes(tmp_path: Path) -> None:
    source, progress = folder_of(tmp_path / "images", pictures(9)), list[tuple[int, int]]()
    first = stored(tmp_path / "cache", source)
    again = stored(tmp_path / "cache", source, on_progress=lambda *done: progress.append(done))
    assert same(first, again) and not progress
    (source / "000.png").write_bytes(saved(noise(20, 20, seed=99)))
    changed = stored(tmp_path / "cache", source)
    assert same(changed, load(source, PREPROCESS)) and changed.digest != first.digest


def test_a_resumed_decoding_keeps_whole_chunks_alone(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "images", pictures(30))

    def stop(done: int, _: int) -> None:
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path / "cache", source, on_progress=stop)
    (journal,), (rows,) = (list((tmp_path / "cache").glob(f"*{suffix}")) for suffix in (".journal", ".rows"))
    recorded = [json.loads(line) for line in journal.read_text().splitlines() if line]
    assert [chunk[0] for chunk in recorded] == [0, 1]
    journal.write_bytes(journal.read_bytes()[:-40])  # its last line was not written to its end
    data = bytearray(rows.read_bytes())
    data[5] ^= 255  # a row of the first chunk
    rows.write_bytes(data)
    progress = list[tuple[int, int]]()
    images = stored(tmp_path / "cache", source, on_progress=lambda *done: progress.append(done))
    assert progress[0] == (1, 33) and same(images, load(source, PREPROCESS))


@pytest.mark.parametrize("suffix", [".pixels", ".index"])
def test_damage_is_found_and_mended(tmp_path: Path, suffix: str) -> None:
    source, warnings = folder_of(tmp_path / "images", pictures(9)), list[str]()
    stored(tmp_path / "cache", source)
    (file,) = (tmp_path / "cache").glob(f"*{suffix}")
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)
    images = stored(tmp_path / "cache", source, warn=warnings.append)
    assert same(images, load(source, PREPROCESS))
    assert [text.split("` ")[1] for text in warnings] == ["is damaged: its images are decoded from scratch"]
    file.unlink()  # not emptied: its pixels are in use
    assert same(stored(tmp_path / "cache", source), images)


def test_too_few_and_broken_images_are_refused_as_in_memory(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "images", pictures(9))
    with pytest.raises(ImagesError, match="1 of 12 images"):
        stored(tmp_path / "cache", source, strict=True)
    few = folder_of(tmp_path / "few", {"a.png": saved(noise(9, 9)), "b.png": b"x"})
    with pytest.raises(ImagesError, match="only one readable image"):
        stored(tmp_path / "cache", few)


def test_a_source_that_changes_meanwhile_ends_the_processes(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "images", pictures(30))
    with open_source(source) as opened:
        (source / "more.png").write_bytes(saved(noise(9, 9)))
        options = DecodeOptions(processes=2, chunk_bytes=SMALL)
        with pytest.raises(MachineError, match="changed while its images were decoded"):
            stored_images(tmp_path / "cache", source, opened, PREPROCESS, options)


def test_rows_of_a_mapped_file_are_split_without_a_copy(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "images", pictures(60))
    mapped, copied = stored(tmp_path / "cache", source), load(source, PREPROCESS)
    for one, other in zip(split_images(mapped, None, 3), split_images(copied, None, 3), strict=True):
        assert isinstance(one, ImageRows) and isinstance(other, torch.Tensor)
        assert one.shape == other.shape and len(one) == len(other) and one.device == other.device
        index = torch.randperm(len(one))[:5]
        assert torch.equal(one[index], other[index]) and torch.equal(one[:4], other[:4])
        extra = torch.full((3, *one.shape[1:]), 7, dtype=torch.uint8)
        more, index = with_extra(one, extra), torch.tensor([0, len(one), 1, len(one) + 2])
        assert len(more) == len(one) + 3 and torch.equal(more[index], with_extra(other, extra)[index])
    whole, _ = split_images(mapped, copied, 3)
    assert isinstance(whole, ImageRows) and torch.equal(whole[:], copied.pixels)


def test_where_pixels_are_kept_changes_no_byte_of_the_student(tmp_path: Path) -> None:
    place = run_inputs(tmp_path, 48)
    for name, room in {"memory": None, "store": 0.0}.items():
        graftcli.distill(
            f"{ROOT}/tests/nets.py:resnet(depth=14)",
            OWN,
            place / "photos",
            teacher_checkpoint=place / "teacher.pth",
            images_gb=room,
            steps_scale=0.002,
            batch=4,
            device="cpu",
            out=tmp_path / name,
        )
    assert (tmp_path / "memory" / WEIGHTS_FILE).read_bytes() == (tmp_path / "store" / WEIGHTS_FILE).read_bytes()
    assert not list((tmp_path / "store").glob("cache/*"))


_MEASURE = """
from pathlib import Path
from graftcli.environment.machine import peak_memory, reset_peak_memory
from graftcli.store.pixel_decoding import DecodeOptions
from tests.generated import store_of
options = DecodeOptions(jobs=1, chunk_bytes=2**22)
store_of(Path({folder!r}) / "warm", 500, {side}, options)
reset_peak_memory()
before = peak_memory()
images = store_of(Path({folder!r}) / "cache", {count}, {side}, options)
print(len(images.pixels), images.pixels.nbytes, peak_memory() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_memory_does_not_grow_with_the_pixels(tmp_path: Path) -> None:
    """20,000 images of 64 pixels; `tests/bench/pixel_store.py` has a million."""
    code = _MEASURE.format(folder=str(tmp_path), side=64, count=20_000)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    count, size, grown = map(int, result)
    assert count == 20_000 and size > 240e6 and grown < 40e6


def test_processes_read_stored_images_while_one_holds_the_lock(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "images", pictures(10))
    images = stored(tmp_path / "cache", source)
    assert images.store is not None
    with images.store.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert same(stored(tmp_path / "cache", source), images)


def test_the_images_of_a_store_are_sorted_by_their_digests(tmp_path: Path) -> None:
    images = store_of(tmp_path, 300, 8)
    assert images.files.tolist() == sorted(images.files.tolist()) and len(set(images.names)) == 300
