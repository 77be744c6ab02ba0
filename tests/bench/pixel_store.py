"""Memory, speed and disk of the pixel store, with images that are made when they are read.

    python tests/bench/pixel_store.py 1000000 64      images and their side, in pixels; needs 2 x 12 GB of disk
    python tests/bench/pixel_store.py 1000000 64 /scratch

Prints one line for each tenth: images, seconds, images/s, and the most memory beyond what the imports hold. Kill it and
run it again with the same folder: it goes on from the last complete chunk.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from graftcli.environment.machine import peak_memory, reset_peak_memory
from graftcli.store.pixel_decoding import DecodeOptions
from tests.generated import store_of


def main(count: int, side: int, folder: Path) -> None:
    store_of(folder / "warm", 500, side)
    reset_peak_memory()
    before, start = peak_memory(), time.perf_counter()

    def report(done: int, total: int) -> None:
        if done % max(1, total // 10) == 0 or done == total:
            seconds = time.perf_counter() - start
            grown = (peak_memory() - before) / 1e6
            print(f"{done:>10,} decoded {seconds:8.1f} s {done / seconds:8.0f} images/s {grown:8.1f} MB", flush=True)

    images = store_of(folder / "cache", count, side, DecodeOptions(on_progress=report))
    seconds, grown = time.perf_counter() - start, (peak_memory() - before) / 1e6
    print(f"{len(images.pixels):>10,} stored  {seconds:8.1f} s {images.pixels.nbytes / 1e9:8.2f} GB    {grown:8.1f} MB")
    picked = torch.randint(count, (64, 64), generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    for index in picked:
        images.pixels[index].float().mean()
    print(f"{'':>10} a batch of 64 at random: {(time.perf_counter() - start) / len(picked) * 1000:.2f} ms")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3] if len(sys.argv) > 3 else scratch))
