"""The layout of the plan diagram."""

from dataclasses import replace

from graftcli.report.plan_diagram import WIDTH, Box, plan_diagram, shortened
from tests.records import KEPT
from tests.reports import tiny_facts


def overlap(a: Box, b: Box, width: int, height: int) -> bool:
    return abs(a.x - b.x) < width and abs(a.y - b.y) < height


def test_boxes_and_cuts_keep_apart_and_inside() -> None:
    drawn = plan_diagram(tiny_facts(), (1, 2, 3))
    assert len(drawn.boxes) == 6 and len(drawn.cuts) == 2
    for i, box in enumerate(drawn.boxes):
        assert 0 <= box.x <= WIDTH - drawn.box_width and 0 <= box.y <= drawn.height - drawn.box_height
        assert not any(overlap(box, other, drawn.box_width, drawn.box_height) for other in drawn.boxes[:i])
        assert not any(box.y - 8 <= cut.y <= box.y + drawn.box_height + 8 for cut in drawn.cuts)


def test_a_block_that_was_not_replaced_is_the_teachers() -> None:
    used = {(box.role, i // 2 + 1): box.used for i, box in enumerate(plan_diagram(tiny_facts(), (2,)).boxes)}
    assert [used["student", k] for k in (1, 2, 3)] == [False, True, False]
    assert [used["teacher", k] for k in (1, 2, 3)] == [True, False, True]


def test_the_bar_is_a_share_of_the_largest_block() -> None:
    shares = [box.work for box in plan_diagram(tiny_facts(), (1,)).boxes]
    assert max(shares) == 1 and min(shares) > 0


def test_a_cut_shows_its_adapters() -> None:
    first, second = plan_diagram(tiny_facts(), (1, 2, 3)).cuts
    assert first.text == "cut 1: adapters 8 ⇄ 6 channels, folded"
    assert "after stages.0" in first.title and "adapters 12 ⇄ 8" in second.text
    blocks = [dict(block) for block in tiny_facts().plan["blocks"]]
    blocks[0]["seam"] = {"kind": "identity", "folds": None, "into": [], "blocker": None}
    blocks[1]["seam"] = {"kind": "adapter", "folds": None, "into": [], "blocker": "grouped"}
    changed = replace(tiny_facts(), plan={**tiny_facts().plan, "blocks": blocks})
    assert [cut.text for cut in plan_diagram(changed, (1, 2)).cuts] == [
        "cut 1: 8 channels on both sides, no adapter",
        "cut 2: adapters 12 ⇄ 8 channels, kept",
    ]


def test_adapters_recorded_by_the_run_take_precedence_over_the_plan() -> None:
    kept = (KEPT,)
    assert [cut.text for cut in plan_diagram(tiny_facts(), (2,), kept).cuts] == [
        "cut 1: adapters 8 ⇄ 6 channels, folded",
        "cut 2: adapters 12 ⇄ 8 channels, kept",
    ]


def test_between_blocks_of_the_teacher_there_are_no_adapters() -> None:
    assert [cut.text for cut in plan_diagram(tiny_facts(), (3,)).cuts] == [
        "cut 1: teacher on both sides",
        "cut 2: adapters 12 ⇄ 8 channels, folded",
    ]


def test_a_long_name_loses_its_middle() -> None:
    assert shortened("features.denseblock4.denselayer16", 20) == "features.d…nselayer16"[:10] + "…" + "enselayer16"[-9:]
    assert all(len(shortened("x" * 50, length)) == length for length in (10, 11))
    assert shortened("layer1", 6) == "layer1"
