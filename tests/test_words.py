"""Numbers and sentences of a report."""

from pathlib import Path

import pytest

from graftcli.report.words import change, duration, numbers, sentences, share
from tests.reports import one_shown


def test_numbers_are_short() -> None:
    assert [duration(s) for s in (0.4, 59, 99, 100, 3600, 7200, 36000)] == [
        *("0 s", "59 s", "99 s", "2 min", "60 min", "2.0 h", "10.0 h"),
    ]
    assert [change(*pair) for pair in ((100, 50), (50, 100), (7, 7), (0, 5))] == ["-50%", "+100%", "+0%", "—"]
    assert [share(value) for value in (None, 0.0, 0.9876)] == ["—", "0.0%", "98.8%"]
    assert [numbers(blocks) for blocks in ((2,), (1, 3), (1, 2, 3))] == [
        "block 2",
        "blocks 1 and 3",
        "blocks 1, 2 and 3",
    ]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {},
            ("trained small, cut into 3 blocks, on 12 unlabelled", "2.0 k parameters instead of 5.0 k (-60%)", "87.5%"),
        ),
        ({"blocks": (2, 3), "stock": False}, ("trained blocks 2 and 3 of small", "graftcli.load", "1.2 GB")),
        ({"agreement": None, "held_out": 0}, ("tiny", "stock", "not measured; the run took 75 s")),
        ({"finished": False}, ("is to train small", "not finished", "below")),
    ],
)
def test_three_sentences_say_what_was_done(tmp_path: Path, changes: dict[str, object], parts: tuple[str, ...]) -> None:
    told = sentences(one_shown(tmp_path, **changes))
    assert len(told) == 3
    for sentence, part in zip(told, parts, strict=True):
        assert part in sentence and sentence.endswith(".")
