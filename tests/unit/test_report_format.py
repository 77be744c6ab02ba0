"""Numbers, lists of names and sentences."""

import shlex
from pathlib import Path

import pytest

from graftcli.errors import few
from graftcli.report.format import agreement, change, duration, folded, numbers, sentences, share, typeset
from tests.reports import one_shown


def test_numbers_are_short() -> None:
    assert [duration(s) for s in (0.4, 59, 99, 100, 3600, 7200, 36000)] == [
        *("0 s", "59 s", "99 s", "2 min", "60 min", "2.0 h", "10.0 h"),
    ]
    assert [change(*pair) for pair in ((100, 50), (50, 100), (7, 7), (0, 5))] == [
        "\N{MINUS SIGN}50%",
        "+100%",
        "+0%",
        "—",
    ]
    assert [share(value) for value in (None, 0.0, 0.9876)] == ["—", "0.0%", "98.8%"]
    assert [numbers(blocks) for blocks in ((2,), (1, 3), (1, 2, 3))] == [
        "block 2",
        "blocks 1 and 3",
        "blocks 1, 2 and 3",
    ]


def test_no_line_ends_between_a_number_and_its_unit() -> None:
    assert typeset("853.0 k and 3.4 MB, 28 s, 2 GBP") == "853.0\u00a0k and 3.4\u00a0MB, 28\u00a0s, 2 GBP"


def test_a_folded_command_is_the_same_command() -> None:
    command = "graftcli distill --teacher 'my net.py:resnet(depth=56)' -b 8 --images a --quiet"
    lines = folded(command).splitlines()
    assert lines[0] == "graftcli distill \\" and all(line.startswith("  --") for line in lines[1:])
    assert shlex.split(folded(command).replace("\\\n", "")) == shlex.split(command)
    assert folded("a 'torn quote") == "a 'torn quote"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {},
            (
                "trained small, cut into 3 blocks, on 12 unlabelled",
                "2.0 k parameters instead of 5.0 k (\N{MINUS SIGN}60%)",
                "87.5%",
            ),
        ),
        ({"blocks": (2, 3), "stock": False}, ("trained blocks 2 and 3 of small", "graftcli.load", "1.2 GB")),
        ({"agreement": None, "held_out": 0}, ("tiny", "stock", "not measured; the run took 75 s")),
        ({"finished": False}, ("is to train small", "not finished", "below")),
    ],
)
def test_three_sentences_say_what_was_done(tmp_path: Path, changes: dict[str, object], parts: tuple[str, ...]) -> None:
    found = sentences(one_shown(tmp_path, **changes))
    assert len(found) == 3
    for sentence, part in zip(found, parts, strict=True):
        assert part in sentence and sentence.endswith(".")


@pytest.mark.parametrize(
    ("names", "expected"),
    [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b, c"), (["a", "b", "c", "d", "e"], "a, b, c and 2 more")],
)
def test_long_lists_of_names_are_abbreviated(names: list[str], expected: str) -> None:
    assert few(names) == expected
    assert few(names, 10) == ", ".join(names)


def test_agreement_names_its_interval_and_its_images() -> None:
    assert agreement(0.5, 10) == "50.0% (23.7%-76.3%) on views of 10 held-out images"
    assert agreement(1.0, 1) == "100.0% (20.7%-100.0%) on views of 1 held-out image"
