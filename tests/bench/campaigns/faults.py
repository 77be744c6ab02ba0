"""Each write of a command fails once: exit code 7 with one clear message; the same command again ends as undisturbed.

    python -m tests.bench.campaigns.faults --only distill --every 1 --seed 0 --minutes 60

A fault is an errno (EIO, ENOSPC, EDQUOT, EROFS) and a mode: the n-th operation fails, it and all that follow fail, a
write is short, a write is short and all that follow fail. Without --all the faults take turns over the operations of
each kind; with it, every operation meets every fault.
"""

import argparse
import errno
import random
import re
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.campaigns import shim
from tests.bench.campaigns.harness import Case, Ended, prepare, run_case, scratch
from tests.bench.campaigns.outcome import Undisturbed, digests, half_written, in_tmpdir, left_over, undisturbed
from tests.bench.campaigns.place import COMMANDS, Command, Place, furnish

MACHINE = 7
_ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_MOST_LINES = 4  # of a message that is one message


@dataclass(frozen=True)
class Fault:
    error: int
    mode: int

    def __str__(self) -> str:
        how = {shim.FAIL: "once", shim.LASTING: "from then on", shim.SHORT: "short", shim.FULL: "short, then full"}
        return f"{errno.errorcode[self.error]} {how[self.mode]}"


FAULTS = (
    *(Fault(error, shim.FAIL) for error in _ERRORS),
    *(Fault(error, shim.LASTING) for error in _ERRORS),
    Fault(errno.ENOSPC, shim.FULL),
)
_OF_A_WRITE = Fault(errno.ENOSPC, shim.SHORT)


@dataclass
class Count:
    """How commands met their faults, and what should not have happened."""

    refused: int = 0  # exit 7, one message
    tolerated: Counter[str] = field(default_factory=Counter)  # exit 0: the operation, the file, and what was warned
    faults: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.refused + sum(self.tolerated.values()) + len(self.faults)


class Campaign:
    """All faults of one command."""

    def __init__(self, place: Place, name: str) -> None:
        self.folder = place.folder / "case"
        self.command: Command = COMMANDS[name](place)
        self._clear()
        self.expected: Undisturbed = undisturbed(self.command, self.folder)
        self.count = Count()

    def case(self, number: int, fault: Fault) -> None:
        """The operation of this number, from 1, meets the fault; then the command runs again without."""
        self._clear()
        self.command.start(self.folder)
        kind, name = self._operation(number)
        label = f"{self.command.name}: operation {number} ({kind} {name}) meets {fault}"
        within = lambda: shim.arm(self.folder, number, fault.error, fault.mode)  # noqa: E731
        ended = run_case(Case(self.command.argv, self.folder, within=within))
        if problem := _problem(ended):
            return self._fault(f"{label}: {problem}", ended)
        if broken := list(half_written(self.folder)):
            return self._fault(f"{label}: half-written {', '.join(broken)}", ended)
        again = run_case(Case(self.command.argv, self.folder)) if ended.code else ended
        if again.code:
            return self._fault(f"{label}: the same command again: exit {again.code}", again)
        found = digests(self.folder, self.command.results)
        changed = sorted(file for file, digest in self.expected.digests.items() if found.get(file) != digest)
        if ended.code == 0 and _warning(ended):  # a report may be lost, with a warning
            changed = [file for file in changed if Path(file).suffix not in (".html", ".json")]
        if changed:
            return self._fault(f"{label}: exit {ended.code}, other bytes in {', '.join(changed)}", ended)
        if left := left_over(self.folder) + in_tmpdir(self.folder):
            return self._fault(f"{label}: exit {ended.code}, left over: {', '.join(left)}", ended)
        if ended.code:
            self.count.refused += 1
        else:
            self.count.tolerated[f"{fault} at {kind} {name}{_warning(ended)}"] += 1
        return None

    def _operation(self, number: int) -> tuple[str, str]:
        operation = self.expected.operations[number - 1]
        return operation.kind, named(operation.path, self.folder)

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def _fault(self, text: str, ended: Ended) -> None:
        self.count.faults.append(text)
        print(f"FAULT {text}\n{ended.output[-1200:]}", flush=True)


def named(path: str, folder: Path) -> str:
    """The file as it is called in every case: without the number of the process in a temporary name."""
    below = Path(path).relative_to(folder.resolve()) if Path(path).is_relative_to(folder.resolve()) else Path(path)
    return re.sub(r"[.]\d+[.]", ".", str(below))


def _problem(ended: Ended) -> str | None:
    """What is wrong with how a command met its fault."""
    if ended.code not in (0, MACHINE):
        return f"exit {ended.code}"
    if "Traceback" in ended.output or "bug in graftcli" in ended.output:
        return "a traceback"
    if ended.code == 0:
        return None
    lines = [line for line in ended.output.splitlines() if line.strip() and not line.startswith("warning:")]
    if not 1 <= len(lines) <= _MOST_LINES:
        return f"{len(lines)} lines instead of one message"
    return None


def _warning(ended: Ended) -> str:
    """The first warning."""
    found = re.search(r"^warning: (.{0,60})", ended.output, re.MULTILINE)
    return f", warning: {found[1]}…" if found else ""


def planned(
    operations: Sequence[shim.Operation], seed: int, every: int, everything: bool
) -> Iterator[tuple[int, Fault]]:
    """The cases: numbers of operations, each with a fault."""
    turn: dict[str, int] = defaultdict(lambda: seed)
    numbers = list(range(1 + seed % every, len(operations) + 1, every))
    random.Random(seed).shuffle(numbers)  # a campaign that runs out of time has seen every part of the run
    for number in numbers:
        kind = operations[number - 1].kind
        faults = (*FAULTS, _OF_A_WRITE) if kind == "write" else FAULTS
        if everything:
            yield from ((number, fault) for fault in faults)
        else:
            yield number, faults[turn[kind] % len(faults)]
            turn[kind] += 1


def row(name: str, count: Count, operations: int, seconds: float) -> str:
    """One line of a table."""
    cells = (f"{name}, {operations} operations", f"{count.total} injected", f"{count.refused} refused with exit 7")
    tolerated = f"{sum(count.tolerated.values())} tolerated"
    return f"| faults | {' | '.join(cells)} | {tolerated} | {len(count.faults)} faults | {seconds / 60:.0f} min |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="injected faults of each command, at most")
    parser.add_argument("--every", type=int, default=1, help="only every n-th operation")
    parser.add_argument("--all", action="store_true", help="every operation with every fault")
    parser.add_argument("--seed", type=int, default=0, help="which fault comes first")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--only", choices=sorted(COMMANDS), action="append")
    parser.add_argument("--folder", type=Path, help="where all cases run; without it a temporary folder")
    given = parser.parse_args(argv)
    shim.preload("tests.bench.campaigns.faults")
    prepare()
    began, rows, faulty = time.monotonic(), [], 0
    with scratch(given.folder) as folder:
        place = furnish(folder)
        for name in given.only or list(COMMANDS):
            campaign, since = Campaign(place, name), time.monotonic()
            operations = campaign.expected.operations
            for number, fault in planned(operations, given.seed, given.every, given.all):
                if time.monotonic() - began > 60 * given.minutes or campaign.count.total == given.count:
                    break
                campaign.case(number, fault)
                if campaign.count.total % 50 == 0:
                    print(row(name, campaign.count, len(operations), time.monotonic() - since), flush=True)
            rows.append(row(name, campaign.count, len(operations), time.monotonic() - since))
            faulty += len(campaign.count.faults)
            for text, times in sorted(campaign.count.tolerated.items()):
                print(f"tolerated {times}x: {name}: {text}")
            print(rows[-1], flush=True)
    print("\n".join(["", *rows]))
    return int(bool(faulty))


if __name__ == "__main__":
    raise SystemExit(main())
