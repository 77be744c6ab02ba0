"""Hostile archives: each is read, broken by name or refused with a message.

    python -m tests.bench.campaigns.archives

prints one row. Each case makes its archive and loads it, in a process of its own.
"""

import sys
import time

from tests.hostile.archives import ARCHIVES
from tests.hostile.measured import HEAD, LIMIT, MOST_MEMORY, outcomes, row
from tests.hostile.test_archives import GOOD, outcome_of


def main() -> None:
    print(HEAD)
    began = time.perf_counter()
    found = list(outcomes(list(ARCHIVES), lambda name: outcome_of(ARCHIVES[name]), batch=1))
    print(row("hostile archives", found, time.perf_counter() - began), flush=True)
    for one in found:
        if one.word not in GOOD or one.memory > MOST_MEMORY or one.seconds > LIMIT / 4:
            line = f"{one.case}: {one.word}, {one.seconds:.1f} s, {one.memory >> 20} MiB"
            print(f"  {line} {one.message}", file=sys.stderr)


if __name__ == "__main__":
    main()
