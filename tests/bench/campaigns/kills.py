"""kill -9 at hundreds of moments, then the same command until it ends: the bytes are those of an undisturbed run.

    python -m tests.bench.campaigns.kills --count 500 --seed 0 --minutes 60

Half of the moments are uniform in time, half are one of the command's writes (see shim.py). After each kill every file
under a final name must be whole; at the end no temporary file may be left.
"""

import argparse
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.campaigns import shim
from tests.bench.campaigns.harness import Case, Ended, prepare, run_case, scratch
from tests.bench.campaigns.outcome import Undisturbed, digests, half_written, in_tmpdir, left_over, undisturbed
from tests.bench.campaigns.place import COMMANDS, Command, Place, furnish

_WEIGHTS = {"distill": 10, "partial": 5, "compare": 2, "export": 1, "export weights": 2, "report": 2}
_MOST_IN_A_ROW = 4
_ATTEMPTS = 3  # of the same command, after the kills


@dataclass
class Count:
    """What happened, and what should not have."""

    kills: Counter[str] = field(default_factory=Counter)  # by command
    missed: int = 0  # the command had ended by then
    cases: int = 0
    tmpdir: int = 0  # files in TMPDIR that kills left, which the system clears
    faults: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.kills.values())


class Campaign:
    """Cases of one seed; each command is run undisturbed first."""

    def __init__(self, place: Place, seed: int, weights: dict[str, int]) -> None:
        self.place, self.chance, self.weights = place, random.Random(seed), weights
        self.folder = place.folder / "case"
        self.known: dict[str, tuple[Command, Undisturbed]] = {}
        self.count = Count()

    def case(self) -> None:
        """One command, killed once or several times in a row, then run to its end."""
        command, expected = self._command(self.chance.choices(list(self.weights), list(self.weights.values()))[0])
        self.count.cases += 1
        self._clear()
        command.start(self.folder)
        moments: list[str] = []
        for _ in range(self.chance.randint(1, _MOST_IN_A_ROW)):
            ended, moment = self._killed(command, expected)
            moments.append(moment)
            label = f"{command.name} killed {', '.join(moments)}"
            if not ended.is_killed:
                self.count.missed += 1
                if ended.code:
                    self._fault(f"{label}: exit {ended.code}", ended)
                break
            self.count.kills[command.name] += 1
            for broken in half_written(self.folder):
                self._fault(f"{label}: half-written {broken}")
        self._finish(command, expected, f"{command.name} killed {', '.join(moments)}")

    def _command(self, name: str) -> tuple[Command, Undisturbed]:
        if name not in self.known:
            self._clear()
            command = COMMANDS[name](self.place)
            self.known[name] = (command, undisturbed(command, self.folder))
        return self.known[name]

    def _killed(self, command: Command, expected: Undisturbed) -> tuple[Ended, str]:
        folder = self.folder
        if self.chance.random() < 0.5:
            after = self.chance.uniform(0, expected.seconds)
            return run_case(Case(command.argv, folder, kill_after=after)), f"after {after:.3f} s"
        number = self.chance.randint(1, len(expected.operations))
        within = lambda: shim.arm(folder, number, mode=shim.KILL)  # noqa: E731
        return run_case(Case(command.argv, folder, within=within)), f"before write {number}"

    def _finish(self, command: Command, expected: Undisturbed, label: str) -> None:
        for attempt in range(_ATTEMPTS):
            ended = run_case(Case(command.argv, self.folder))
            if ended.code == 0:
                break
            self._fault(f"{label}: attempt {attempt + 1} to resume: exit {ended.code}", ended)
        found = digests(self.folder, command.results)
        if found != expected.digests:
            changed = sorted(
                name for name in {*found, *expected.digests} if found.get(name) != expected.digests.get(name)
            )
            self._fault(f"{label}: other bytes in {', '.join(changed)}")
        self.count.tmpdir += len(in_tmpdir(self.folder))
        if left := left_over(self.folder):
            self._fault(f"{label}: left over: {', '.join(left)}")

    def _fault(self, text: str, ended: Ended | None = None) -> None:
        self.count.faults.append(text)
        print(f"FAULT {text}\n{ended.output[-1500:] if ended else ''}", flush=True)

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()


def row(count: Count, seconds: float) -> str:
    """One line of a table."""
    by_command = ", ".join(f"{name} {number}" for name, number in sorted(count.kills.items()))
    cells = (f"{count.total} kills ({by_command})", f"{count.cases} cases", f"{len(count.faults)} faults")
    return f"| kills | {' | '.join(cells)} | {count.tmpdir} files left in TMPDIR | {seconds / 60:.0f} min |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="kills that hit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--only", choices=sorted(COMMANDS), action="append")
    parser.add_argument("--folder", type=Path, help="where all cases run; without it a temporary folder")
    given = parser.parse_args(argv)
    shim.preload("tests.bench.campaigns.kills")
    prepare()
    began = time.monotonic()
    with scratch(given.folder) as folder:
        weights = {name: weight for name, weight in _WEIGHTS.items() if name in (given.only or _WEIGHTS)}
        campaign = Campaign(furnish(folder), given.seed, weights)
        while campaign.count.total < given.count and time.monotonic() - began < 60 * given.minutes:
            campaign.case()
            if campaign.count.cases % 25 == 0:
                print(row(campaign.count, time.monotonic() - began), flush=True)
    print(row(campaign.count, time.monotonic() - began))
    return int(bool(campaign.count.faults))


if __name__ == "__main__":
    raise SystemExit(main())
