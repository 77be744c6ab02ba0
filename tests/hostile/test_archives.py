"""Hostile archives: each is read, broken by name or refused with a message, within bounds."""

import re
import tempfile
from pathlib import Path

import pytest

from graftcli.images import Preprocess, load
from tests.hostile.archives import ARCHIVES, Make
from tests.hostile.measured import MOST_MEMORY, Outcome, outcomes

PREPROCESS = Preprocess((24, 24), 3, (0.5,) * 3, (0.25,) * 3, 0.875, "bilinear")
GOOD = ("read", "broken by name", "refused")


def outcome_of(make: Make) -> str:
    """What an archive comes to, in a word; a refusal is raised."""
    with tempfile.TemporaryDirectory() as folder:
        found = load(make(Path(folder)), PREPROCESS, jobs=1)
    for name in (*found.names, *(f"{one.name}: {one.reason}" for one in found.broken)):
        assert name.isprintable() and name.encode()
    return "broken by name" if found.broken else "read"


# seconds each, where the others take milliseconds; the campaign has them
SLOW = ("twenty members", "30,000 members", "blocks of holes", "twelve times", "900 MB", "500,000", "of 1 GB", "30 MB")
QUICK = [name for name in ARCHIVES if not any(word in name for word in SLOW)]


def test_every_archive_is_read_or_refused_within_bounds() -> None:
    found = {one.case: one for one in outcomes(QUICK, lambda name: outcome_of(ARCHIVES[name]), batch=20)}
    assert len(found) == len(QUICK) >= 100
    assert [one for one in found.values() if one.word not in GOOD] == []
    assert [one for one in found.values() if one.memory > MOST_MEMORY] == []
    assert {one.word for one in found.values()} == set(GOOD)


@pytest.mark.parametrize(
    ("name", "word", "reason"),
    [
        ("tar gz: a member of 4 GB", "refused", "`large.png` has 4,096 MiB: unpack it first"),
        ("tar xz: twenty members of 200 MB", "refused", "like a decompression bomb"),
        ("tar bz2: 30,000 members", "refused", "bytes expand to more than|members in"),
        ("tar gz: 5,000 hard links to 30 MB", "refused", "like a decompression bomb"),
        ("tar plain: a pax header of 1 GB", "refused", "a header of 1,073,741,824 bytes"),
        ("tar plain: a negative size that loops", "refused", "damaged"),
        ("tar plain: a wrong checksum", "refused", "the header of its member 3 is damaged"),
        ("tar gz: noise", "refused", "the header of its member 3 is damaged"),
        ("tar plain: hard links in a circle", "broken by name", ""),
        ("tar xz: half", "refused", ""),
        ("tar plain: a member of 4 GB", "broken by name", ""),
        ("tar gz: absolute names", "read", ""),
        ("tar gz: names that are no UTF-8", "read", ""),
        ("stream: xz with a dictionary of 4 GB", "refused", "[Mm]emory"),
        ("zip: 2,000 members that are one", "broken by name|refused", ""),
        ("zip: 200 quoted members", "broken by name|refused", ""),
        ("zip: a directory of 4 GB", "refused", ""),
        ("zip: names in an old encoding", "read", ""),
    ],
)
def test_an_archive_comes_to(name: str, word: str, reason: str) -> None:
    (one,) = outcomes([name], lambda name: outcome_of(ARCHIVES[name]))
    _assert_is(one, word, reason)


def _assert_is(one: Outcome, word: str, reason: str) -> None:
    assert re.fullmatch(word, one.word), one
    assert re.search(reason, one.message), one
