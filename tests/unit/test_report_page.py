"""The page: whole, in one file, safe whatever the names, and on a phone too."""

import re
from importlib.resources import files
from itertools import product
from pathlib import Path

import pytest

from graftcli.report.page import batch_sizes, block_rows, differing_settings, page
from graftcli.report.run_view import BenchView, LatencyView, load_run_view
from tests.browser import opened
from tests.pages import Reader
from tests.reports import LADDER, folder_of_run, one_shown

CSS = files("graftcli.report").joinpath("templates/style.css").read_text()
HOSTILE = '<script>alert("x")</script>'


def everything(folder: Path) -> str:
    """A run of which everything is known, with long names."""
    name = "a_network_with_a_very_long_name.of_a_certain_tag_in1k_ft_in22k_and_more"
    run = one_shown(folder, ladder=LADDER, warnings=["left out: " + "x" * 200], names=(name, "small"))
    return page([run])


def test_one_run_shows_all_that_is_known_of_it(tmp_path: Path) -> None:
    read = Reader(everything(tmp_path))
    assert read.open == [] and read.outside == []
    for part in (
        *("The plan", "cut 1: adapters 8", "cut 2: adapters 12", "channels, kept"),
        *("Parameters and MACs of each block", "Loss and agreement of each stage"),
        *(
            "Size and speed: onnxruntime against eager PyTorch",
            "4.00 5.00",
            "4.00\N{MULTIPLICATION SIGN}",
            "on 90 images.",
            "Threads: 2",
            "top-1, student",
            "92.2%",
        ),
        *("Where teacher and student disagree most", "class ", "11.png", "left out: xxx", "Reproduce this run"),
        *(
            "graftcli distill \\\n  --teacher big",
            "blocks 1, 2 and 3",
            "87.5%",
            "\N{MINUS SIGN}60%",
            "8.0\N{NO-BREAK SPACE}kB",
        ),
    ):
        assert part in read.words, part
    assert read.tags.count("img") == 12 and read.tags.count("svg") == 2


def test_it_is_one_file_that_fetches_nothing_and_runs_nothing(tmp_path: Path) -> None:
    text = everything(tmp_path)
    read = Reader(text)
    assert [uri for uri in read.fetched if not uri.startswith(("data:", "#"))] == []
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(read.tags)
    assert not re.search(r"@import|url\((?!#)", text) and "default-src 'none'" in text
    assert len(read.ids) == len(set(read.ids))


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    run = one_shown(tmp_path, names=(HOSTILE, "small"), warnings=[HOSTILE], ladder=[{**LADDER[0], "name": HOSTILE}])
    read = Reader(page([run]))
    assert "script" not in read.tags and read.words.count(HOSTILE) >= 4


@pytest.mark.parametrize("blocks", [(2,), (1, 3)])
def test_kept_teacher_blocks_of_a_hybrid_count_with_the_teachers_cost(tmp_path: Path, blocks: tuple[int, ...]) -> None:
    run = one_shown(tmp_path, blocks=blocks, stock=False)
    for row in block_rows(run):
        assert row.replaced == (row.index in blocks)
        assert (row.params[0] == row.params[1]) == (row.macs[0] == row.macs[1]) == (not row.replaced)
    read = Reader(page([run]))
    assert "(kept)" in read.words and "with kept layers" in read.words


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    bare = page([load_run_view(folder_of_run(tmp_path / "a", records=(), finished=False), None)])
    read = Reader(bare)
    assert read.open == [] and "not finished" in read.words
    for part in ("The plan", "Size and speed", "disagree", "Loss and agreement"):
        assert part not in read.words
    unheld = Reader(page([one_shown(tmp_path / "b", agreement=None, held_out=0)]))
    assert "no image was held out" in unheld.words


def test_a_loss_with_one_record_stands_in_the_table_alone(tmp_path: Path) -> None:
    records = [{"unit": "graft-1", "step": 4, "loss": 0.125, "agreement": 0.5}]
    read = Reader(page([one_shown(tmp_path, records=records)]))
    assert "0.125" in read.words and read.tags.count("svg") == 1


def test_many_warnings_are_cut_short(tmp_path: Path) -> None:
    read = Reader(page([one_shown(tmp_path, warnings=[f"left out: {i}.png" for i in range(50)])]))
    assert "left out: 19.png" in read.words and "left out: 20.png" not in read.words
    assert "and 30 more" in read.words


def test_several_runs_stand_side_by_side_and_each_at_length(tmp_path: Path) -> None:
    one, two = one_shown(tmp_path / "one"), one_shown(tmp_path / "two", seed=7, blocks=(1, 2), agreement=0.5)
    unfinished = one_shown(tmp_path / "three", finished=False, warnings=["odd"])
    read = Reader(page([one, two, unfinished]))
    assert read.open == [] and read.outside == [] and len(read.ids) == len(set(read.ids))
    for part in ("3 runs compared", "1. one", "2. two", "87.5%", "50.0%", "not finished", "seed"):
        assert part in read.words
    assert {"run-1", "run-2", "run-3"} <= set(read.ids) and read.tags.count("details") == 3
    assert differing_settings([one, two]) == {"blocks": ["1, 2, 3", "1, 2"], "seed": ["0", "7"]}


def test_the_same_folders_give_the_same_page(tmp_path: Path) -> None:
    run = one_shown(tmp_path)
    assert page([run, run]) == page([run, run])


def test_batches_are_in_the_order_of_their_sizes(tmp_path: Path) -> None:
    times = {size: LatencyView(1.0, 2.0) for size in ("1", "128", "16")}
    assert batch_sizes([BenchView("a", "onnx", "fp32", 10), BenchView("b", "onnx", "fp32", 10, latency_ms=times)]) == [
        "1",
        "16",
        "128",
    ]


# -- colours and sizes ---------------------------------------------------------------------------------------------


def colours() -> list[dict[str, str]]:
    """The page's colours in light and in dark."""
    light, dark = (
        dict(re.findall(r"(--[\w-]+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", CSS, re.S)
    )
    assert light.keys() == dark.keys()
    return [light, dark]


def contrast(a: str, b: str) -> float:
    """WCAG's contrast of two colours: 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    bright, dim = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("mode", [0, 1])
def test_everything_can_be_read_in_light_and_in_dark(mode: int) -> None:
    found = colours()[mode]
    letters = [*product(("--text", "--soft"), ("--page", "--sheet")), ("--warn", "--warn-fill"), ("--good", "--sheet")]
    letters += [("--text", f"--{role}-fill") for role in ("teacher", "student", "warn")] + [("--student", "--sheet")]
    faint = [(a, b) for a, b in letters if contrast(found[a], found[b]) < 4.5]
    lines = [(f"--c{i}", "--sheet") for i in range(1, 9)] + [("--bar", "--line")]
    lines += [(f"--{role}", f"--{role}-fill") for role in ("teacher", "student")]
    faint += [(a, b) for a, b in lines if contrast(found[a], found[b]) < 3]
    assert faint == []


def test_every_colour_that_is_used_is_one_of_the_page(tmp_path: Path) -> None:
    used = set(re.findall(r"var\((--[\w-]+)\)", everything(tmp_path)))
    assert used <= colours()[0].keys()


def test_nothing_overflows_in_a_browser_and_its_console_is_silent(tmp_path: Path) -> None:
    one = one_shown(tmp_path / "one", ladder=LADDER, warnings=["left out: " + "x" * 300], names=("y" * 120, "small"))
    for number, runs in enumerate([[one], [one, one_shown(tmp_path / "two", seed=3)]]):
        file = tmp_path / f"page-{number}.html"
        file.write_text(page(runs), encoding="utf-8")
        measured, console = opened(file, tmp_path)
        assert console == []
        for seen in measured.values():
            assert seen["beyond"] == [] and seen["hidden"] == [] and seen["height"] > 500
        assert all(seen["scroll"] <= int(width) for width, seen in measured.items())


def test_a_browser_shows_it_dark_where_its_user_wants_that(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page([one_shown(tmp_path / "one")]), encoding="utf-8")
    for dark, found in zip((False, True), colours(), strict=True):
        measured, _ = opened(file, tmp_path, dark=dark)
        paper = tuple(int(found["--page"][i : i + 2], 16) for i in (1, 3, 5))
        assert {seen["paper"] for seen in measured.values()} == {f"rgb{paper}"}
