"""What plan, report and result say of how a student is loaded: by a library, by the user's code, or by graftcli."""

from dataclasses import replace
from pathlib import Path

import pytest

import graftcli
from graftcli.cli.render_plan import plan as print_plan
from graftcli.report.format import loading, sentences
from tests.nets import NETS, resnet
from tests.records import settings
from tests.reports import one_shown

OWN = f"{NETS}:resnet(depth=8)"


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ("torchvision:resnet18", "stock: yes, in torchvision: the merged student has exactly the parameters of"),
        ("timm:resnet10t", "stock: yes, in timm: the merged student"),
        (OWN, "stock: yes, in your own code: the merged student"),
        ("teacher*0.5", "is derived from the teacher: load it with graftcli.load"),
    ],
)
def test_a_plan_tells_what_builds_the_student(student: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = f"{NETS}:resnet(depth=14)" if student in (OWN, "teacher*0.5") else "torchvision:resnet34"
    made = graftcli.plan(teacher, student, img_size=32 if student in (OWN, "teacher*0.5") else 64)
    assert made.stock
    print_plan(made)
    assert expected in capsys.readouterr().out


def test_a_module_from_python_is_the_users_own_code() -> None:
    made = graftcli.plan(resnet(14), resnet(8))
    assert loading(made.student.network.origin["kind"], stock=True).endswith("in your own code")


@pytest.mark.parametrize(
    ("kind", "stock", "expected"),
    [
        ("timm", True, "loads as the stock architecture in timm"),
        ("code", True, "loads as the stock architecture in your own code"),
        ("derived", True, "loads with graftcli.load only"),
        ("timm", False, "loads with graftcli.load only"),
        (None, True, "loads with graftcli.load only"),  # a record that was edited
    ],
)
def test_a_report_tells_how_the_result_is_loaded(kind: object, stock: bool, expected: str, tmp_path: Path) -> None:
    origin = settings().student.origin
    student = settings().student.model_copy(update={"origin": {**origin, "kind": kind}})
    run = one_shown(tmp_path, stock=stock)
    changed = run.settings.model_copy(update={"student": student})
    run = replace(run, run=run.run.model_copy(update={"settings": changed}))
    assert expected in " ".join(sentences(run))
