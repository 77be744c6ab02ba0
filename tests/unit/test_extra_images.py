"""Extra images of any other kind: shown in their share of the training views, and nowhere else."""

from pathlib import Path
from typing import Any

import pytest
import torch

import graftcli
from graftcli.errors import UsageError
from graftcli.graft.data.views import ViewedImages, Views, synthetic_views
from graftcli.images.rows import ImageRows
from graftcli.recipe.values import Augment
from graftcli.runs.config import recorded_config
from graftcli.store.run_file import read_record
from tests.engine import PREPROCESS
from tests.image_files import folder_of, noise, saved
from tests.nets import NETS
from tests.prepared_runs import OWN, run_inputs

TEACHER = f"{NETS}:resnet(depth=14)"


def grey(value: int, count: int) -> torch.Tensor:
    return torch.full((count, 3, 16, 16), value, dtype=torch.uint8)


@pytest.mark.parametrize("mapped", [False, True], ids=["in memory", "in a file"])
def test_views_show_each_kind_in_its_share(mapped: bool) -> None:
    images = ImageRows(grey(0, 30), torch.arange(20)) if mapped else grey(0, 20)
    added = [synthetic_views(grey(100, 5), 20), ViewedImages(grey(200, 1000), 0.3)]
    views = Views(images, PREPROCESS, Augment(), 100, 0, added)
    shown = views[torch.arange(len(views))].float().mean((1, 2, 3)).round()
    assert len(views) == 2000 and set(shown.tolist()) == {0.0, 100.0, 200.0}
    assert float((shown == 200).float().mean()) == pytest.approx(0.3, abs=0.04)
    assert float((shown == 100).float().mean()) == pytest.approx(0.7 * 0.2, abs=0.03)


def test_a_run_is_trained_on_them_and_depends_on_them(tmp_path: Path) -> None:
    place = run_inputs(tmp_path, 48)
    folder_of(place / "others", {f"{i}.png": saved(noise(32, 32, 100 + i)) for i in range(60)})
    folder_of(place / "elsewhere", {f"{i}.png": saved(noise(32, 32, 200 + i)) for i in range(10)})

    def distilled(out: str, **more: Any) -> graftcli.Result:
        short: dict[str, Any] = {"device": "cpu", "recipe": "kd", "steps_scale": 0.002, "batch": 4}
        weights = place / "teacher.pth"
        return graftcli.distill(
            TEACHER, OWN, place / "photos", teacher_checkpoint=weights, out=place / out, **short, **more
        )

    plain, extra = distilled("plain"), distilled("extra", extra_images=place / "others")
    again = distilled("again", extra_images=place / "others")
    first, second, third = ((place / name / "model.safetensors").read_bytes() for name in ("plain", "extra", "again"))
    assert second == third != first
    assert extra.images == plain.images == again.images and extra.held_out == plain.held_out
    assert read_record(place / "plain").settings.extra_images is None
    events: list[graftcli.events.Event] = []
    distilled("shared", extra_images=place / "photos", listen=events.append)
    assert any("48 of the training images are also extra images" in str(event) for event in events)
    assert not (place / "extra/run.json").read_text().count("also extra images")
    with pytest.raises(UsageError, match="extra_images"):
        distilled("extra", extra_images=place / "elsewhere")
    assert recorded_config(place / "extra").extra_images == str(place / "others")  # which `partial` inherits
