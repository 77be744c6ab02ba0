"""Hostile images: each is read or broken by name, and no other image suffers.

    python -m tests.bench.campaigns.images [CASES]

prints one row for damaged images and one for bombs. Each case loads a folder with the hostile image and two sound ones,
and takes its census. One case in forty is a bomb.
"""

import sys
import tempfile
import time
from pathlib import Path

from tests.hostile.image_mutations import hostile
from tests.hostile.measured import HEAD, LIMIT, MOST_MEMORY, outcomes, row
from tests.hostile.test_images import outcome_of, sound

CASES = 3000


def main(count: int = CASES) -> None:
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        images = sound(Path(folder) / "images")
        _campaign("damaged images", images, [seed for seed in range(count) if seed % 40])
        _campaign("images that are bombs", images, list(range(0, count, 40)), batch=1)


def _campaign(name: str, folder: Path, seeds: list[int], batch: int = 50) -> None:
    began = time.perf_counter()
    cases = [str(seed) for seed in seeds]
    found = list(outcomes(cases, lambda seed: outcome_of(folder, hostile(int(seed))), batch=batch))
    print(row(name, found, time.perf_counter() - began), flush=True)
    for one in found:
        if one.word not in ("read", "broken by name") or one.memory > MOST_MEMORY or one.seconds > LIMIT / 2:
            line = (
                f"{one.case} ({hostile(int(one.case)).kind}): {one.word}, {one.seconds:.1f} s, {one.memory >> 20} MiB"
            )
            print(f"  {line} {one.message}", file=sys.stderr)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
