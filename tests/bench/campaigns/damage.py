"""Hundreds of damaged files: each is repaired, refused by name, or cannot change a result; never used in silence.

    python -m tests.bench.campaigns.damage --count 500 --seed 0 --minutes 60

A run that was killed midway has one file damaged, then its command runs again. A finished run has one file damaged,
then a command that reads it runs: eval, export, report, partial, distill again, and check where this graftcli has it.

repaired    exit 0 and the same bytes, and a warning names the file
unsaid      exit 0 and the same bytes without a warning: the file was deleted, or is not needed any more
refused     another exit code, and a message that names the file
harmless    exit 0 and the same bytes: the damage cannot change a result (metrics, the text of a report)
SILENT      exit 0 and other bytes or numbers, without a word of the file
unclear     another exit code without the file's name, a traceback, exit 1, or other bytes with a warning
"""

import argparse
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.campaigns import shim
from tests.bench.campaigns.harness import Case, Ended, prepare, run_case, scratch
from tests.bench.campaigns.outcome import digests, undisturbed
from tests.bench.campaigns.place import RUN, Place, distill, furnish
from tests.bench.campaigns.readers import Reader, furnish_ladder, readers

_MIDWAY = (0.25, 0.45, 0.8)  # of a run's writes: where it is killed
_PAGE = 4096
KINDS = ("flip", "zero", "truncate", "delete", "duplicate")
# what of a run decides the next bytes; all else is text for a person
_GOES_ON_FROM = ("blocks", "state", "cache")
_TEXT = ("metrics.jsonl", "report.json", "report.html", "bench.json")
OUTCOMES = ("repaired", "unsaid", "refused", "harmless", "SILENT", "unclear")


def damage(file: Path, kind: str, chance: random.Random) -> str:
    """Damage the file in place; returns what was done."""
    data = bytearray(file.read_bytes())
    if kind == "delete" or not data:
        file.unlink()
        return "deleted"
    at = chance.randrange(len(data))
    if kind == "flip":
        bit = chance.randrange(8)
        data[at] ^= 1 << bit
        done = f"bit {bit} of byte {at} flipped"
    elif kind == "zero":
        at -= at % _PAGE
        data[at : at + _PAGE] = bytes(len(data[at : at + _PAGE]))
        done = f"zeros from byte {at}"
    elif kind == "truncate":
        del data[at:]
        done = f"cut off at byte {at}"
    else:
        data.insert(at, data[at])
        done = f"byte {at} twice"
    file.write_bytes(data)
    return done


@dataclass
class Count:
    outcomes: Counter[str] = field(default_factory=Counter)
    by_file: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.outcomes.values())

    def add(self, file: str, outcome: str) -> None:
        self.outcomes[outcome] += 1
        self.by_file.setdefault(file, Counter())[outcome] += 1


class Campaign:
    """Runs to damage: some that were killed midway, and a finished one with a ladder."""

    def __init__(self, place: Place, seed: int, every: Mapping[str, Reader]) -> None:
        self.readers, self.chance, self.count = every, random.Random(seed), Count()
        self.folder, self.kept = place.folder / "case", place.folder / "kept"
        self.command = distill(place)
        shutil.rmtree(self.kept, ignore_errors=True)
        self._clear()
        self.expected = undisturbed(self.command, self.folder)
        self.unharmed: dict[str, tuple[str, dict[str, str]]] = {}  # by reader: what it prints, what it leaves
        for part in _MIDWAY:
            self._kill_at(part)

    # -- what is damaged ------------------------------------------------------------------------------------------

    def _kill_at(self, part: float) -> None:
        self._clear()
        number = int(part * len(self.expected.operations))
        run_case(Case(self.command.argv, self.folder, within=lambda: shim.arm(self.folder, number, mode=shim.KILL)))
        shutil.copytree(self.folder, self.kept / str(part))

    def _start(self, name: str) -> tuple[str, dict[str, str]]:
        """A finished run in the working directory; returns what its reader gives when nothing is damaged."""
        reader = self.readers[name]
        if name not in self.unharmed:
            shutil.copytree(reader.run, self.folder / RUN)
            ended = run_case(Case(reader.command.argv, self.folder))
            if ended.code:
                raise SystemExit(f"`{name}` of a whole run ended with {ended.code}:\n{ended.output}")
            self.unharmed[name] = (ended.stdout, digests(self.folder, reader.command.results))
            self._clear()
        shutil.copytree(reader.run, self.folder / RUN)
        return self.unharmed[name]

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    # -- a case ---------------------------------------------------------------------------------------------------

    def case(self) -> None:
        kind = KINDS[self.count.total % len(KINDS)]
        self._clear()
        if self.chance.random() < 0.6:
            self._interrupted(kind)
        else:
            self._read(kind)

    def _interrupted(self, kind: str) -> None:
        part = self.chance.choice(_MIDWAY)
        shutil.copytree(self.kept / str(part), self.folder, dirs_exist_ok=True)
        file, done = self._damaged(("blocks/*", "state/*", "cache/*", "cache/*", "run.json", "metrics.jsonl"), kind)
        ended = run_case(Case(self.command.argv, self.folder))
        same = self._is_same()
        outcome = judged(ended, file, same=same, goes_on=file.split("/")[0] in _GOES_ON_FROM)
        if outcome == "refused" and file.split("/")[0] in _GOES_ON_FROM:
            outcome = self._after_removal(file, outcome)
        self._tell(f"distill killed at {part}: {file}: {done}", file, outcome, ended)

    def _after_removal(self, file: str, outcome: str) -> str:
        """A refused file is removed, as the message says; then the command must come to its end."""
        (self.folder / RUN / file).unlink(missing_ok=True)
        again = run_case(Case(self.command.argv, self.folder))
        return outcome if again.code == 0 and self._is_same() else "unclear"

    def _is_same(self) -> bool:
        return _alike(digests(self.folder, self.command.results), self.expected.digests)

    def _read(self, kind: str) -> None:
        name = self.chance.choice(list(self.readers))
        reader, (output, expected) = self.readers[name], self._start(name)
        file, done = self._damaged(reader.files, kind)
        ended = run_case(Case(reader.command.argv, self.folder))
        found = digests(self.folder, reader.command.results)
        same = ended.stdout == output if reader.says else _alike(found, expected)
        outcome = judged(ended, file, same=same, goes_on=False)
        if name == "check" and not ended.code:  # it lists every file, and nothing may pass it but other white space
            outcome = "harmless" if _says_the_same(self.folder / RUN / file, reader.run / file) else "SILENT"
        self._tell(f"{name} of a finished run: {file}: {done}", f"{name} {file}", outcome, ended)

    def _damaged(self, patterns: Sequence[str], kind: str) -> tuple[str, str]:
        """One file of a pattern that has some."""
        groups = [found for pattern in patterns if (found := sorted((self.folder / RUN).glob(pattern)))]
        file = self.chance.choice(self.chance.choice(groups))
        return str(file.relative_to(self.folder / RUN)), damage(file, kind, self.chance)

    def _tell(self, label: str, file: str, outcome: str, ended: Ended) -> None:
        self.count.add(_group(file), outcome)
        if outcome in ("SILENT", "unclear"):
            print(f"{outcome} {label} -> exit {ended.code}\n{ended.output[-800:]}", flush=True)


def judged(ended: Ended, file: str, *, same: bool, goes_on: bool) -> str:
    """Which of the outcomes it is."""
    named = Path(file).name in ended.output
    if "Traceback" in ended.output or ended.code == 1 or ended.code < 0:
        return "unclear"
    if ended.code:
        return "refused" if named else "unclear"
    if same:
        return "repaired" if named else "unsaid" if goes_on else "harmless"
    return "unclear" if named else "SILENT"


def _alike(found: Mapping[str, str], expected: Mapping[str, str]) -> bool:
    return all(found.get(name) == digest for name, digest in expected.items() if _matters(name))


def _says_the_same(file: Path, whole: Path) -> bool:
    """Whether a damaged JSON file still holds the same document."""
    try:
        return file.suffix == ".json" and bool(json.loads(file.read_bytes()) == json.loads(whole.read_bytes()))
    except (OSError, ValueError):
        return False


def _matters(name: str) -> bool:
    return not name.endswith(_TEXT)


def _group(file: str) -> str:
    """blocks/graft-1.safetensors -> blocks/"""
    reader, _, name = file.rpartition(" ")
    return f"{reader} {name.split('/')[0] + '/' if '/' in name else name}".strip()


def row(count: Count, seconds: float) -> str:
    """One line of a table."""
    cells = " | ".join(f"{count.outcomes[outcome]} {outcome}" for outcome in OUTCOMES)
    return f"| damage | {count.total} damaged files | {cells} | {seconds / 60:.0f} min |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--no-timm", action="store_true", help="without a run of timm's networks")
    parser.add_argument("--folder", type=Path, help="where all cases run; without it a temporary folder")
    given = parser.parse_args(argv)
    shim.preload("tests.bench.campaigns.damage")
    prepare()
    began = time.monotonic()
    with scratch(given.folder) as folder:
        place = furnish(folder)
        furnish_ladder(place)
        campaign = Campaign(place, given.seed, readers(place, stock=not given.no_timm))
        while campaign.count.total < given.count and time.monotonic() - began < 60 * given.minutes:
            campaign.case()
            if campaign.count.total % 50 == 0:
                print(row(campaign.count, time.monotonic() - began), flush=True)
    for file, outcomes in sorted(campaign.count.by_file.items()):
        print(f"{file:32} {', '.join(f'{number} {outcome}' for outcome, number in sorted(outcomes.items()))}")
    print(row(campaign.count, time.monotonic() - began))
    return int(bool(campaign.count.outcomes["SILENT"] + campaign.count.outcomes["unclear"]))


if __name__ == "__main__":
    raise SystemExit(main())
