"""Loss curves are part of the page, in the page's own colours."""

import re
import xml.etree.ElementTree as ET

import pytest

from graftcli.report.charts import COLOURS
from graftcli.report.curves import curves
from graftcli.report.run_view import StageView, TaskView


def stage(count: int = 2, losses: tuple[float, ...] = (3.0, 1.0, 0.1)) -> StageView:
    steps = tuple((10 * (i + 1), loss) for i, loss in enumerate(losses))
    return StageView("graft", tuple(TaskView(f"graft-{i}", (i,), steps, None) for i in range(1, count + 1)))


def test_it_is_well_formed_and_scales_with_the_page() -> None:
    root = ET.fromstring(curves(stage(), "r1"))
    assert root.get("viewBox") and root.get("width") is None and root.get("height") is None
    assert root.get("role") == "img" and "graft" in (root.get("aria-label") or "")


def test_it_has_no_colour_of_its_own_and_fetches_nothing() -> None:
    svg = curves(stage(COLOURS + 3), "r1")
    assert re.findall(r"#[0-9a-fA-F]{6}\b", svg) == []
    assert {f"var(--c{i})" for i in range(1, COLOURS + 1)} <= set(re.findall(r"var\(--c\d+\)", svg))
    assert "stroke-dasharray" in svg  # where colours come again
    assert set(re.findall(r'(\S+)="https?:', svg)) <= {"xmlns", "xmlns:xlink"}
    assert "<metadata" not in svg and "font-family" not in svg


def test_two_pictures_on_one_page_share_no_id() -> None:
    ids = [set(re.findall(r'\bid="([^"]+)"', curves(stage(), prefix))) for prefix in ("r1-s1", "r1-s2")]
    assert ids[0] and not ids[0] & ids[1]
    for prefix, known in zip(("r1-s1", "r1-s2"), ids, strict=True):
        svg = curves(stage(), prefix)
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)) <= {(i, "") for i in known} | {
            ("", i) for i in known
        }


def test_the_same_losses_give_the_same_bytes() -> None:
    assert curves(stage(), "r1") == curves(stage(), "r1")


@pytest.mark.parametrize(
    ("losses", "numbers"),
    [((3.0, 1.0, 0.01), {"0.01", "0.1", "1"}), ((0.34, 0.33, 0.32), {"0.32", "0.33"}), ((1.0, 0.0, -1.0), {"0"})],
)
def test_its_axis_has_numbers_whatever_the_losses(losses: tuple[float, ...], numbers: set[str]) -> None:
    root = ET.fromstring(curves(stage(1, losses), "r1"))
    texts = {(text.text or "").strip().replace("\u2212", "-") for text in root.iter() if text.tag.endswith("text")}
    assert numbers <= texts, texts


def test_a_task_with_one_record_is_a_dot() -> None:
    assert "<use" in curves(StageView("graft", (TaskView("graft-1", (1,), ((5, 0.5),), None),)), "r1")
