"""The specs of students that are derived from the teacher."""

import pytest

from graftcli.errors import UsageError
from graftcli.students.kinds.decoupled import Decoupled
from graftcli.students.kinds.dropped import Dropped
from graftcli.students.kinds.low_rank import LowRank
from graftcli.students.kinds.narrower import Narrower
from graftcli.students.kinds.pruned import Pruned
from graftcli.students.narrowing import width
from graftcli.students.spec import is_derived_spec, parse_spec


@pytest.mark.parametrize(
    ("text", "what", "name"),
    [
        ("teacher*0.5", Narrower((0.5,)), "x0.5"),
        ("teacher*(1, 1,1,.5,.5)", Narrower((1, 1, 1, 0.5, 0.5)), "x1-1-1-0.5-0.5"),
        ("prune:l1=0.3", Pruned("l1", 0.3), "l1-0.3"),
        ("prune:slim=.5", Pruned("slim", 0.5), "slim-0.5"),
        ("prune:act=0.5", Pruned("act", 0.5), "act-0.5"),
        ("lowrank:0.5", LowRank(0.5), "lowrank-0.5"),
        ("decouple", Decoupled(1), "decoupled"),
        ("decouple:2", Decoupled(2), "decoupled2"),
        ("drop:layer3.3,layer3.4", Dropped(("layer3.3", "layer3.4")), "drop-layer3.3-layer3.4"),
        ("drop:auto=2", Dropped((), 2), "drop-auto-2"),
    ],
)
def test_a_spec_is_read_and_named_so_that_a_folder_can_be_called_by_it(text: str, what: object, name: str) -> None:
    assert is_derived_spec(text)
    assert parse_spec(text) == what
    assert parse_spec(text).suffix == name


@pytest.mark.parametrize(
    "text",
    [
        *("teacher*", "teacher*2", "teacher*0", "teacher*(1,2)", "prune:l2=0.5", "prune:l1", "prune:l1=1"),
        *("lowrank:1.5", "decouple:0", "decouple:x", "drop:", "drop:auto", "drop:auto=0", "drop:a,,b"),
    ],
)
def test_malformed_student_specs_are_refused_with_the_known_forms(text: str) -> None:
    assert is_derived_spec(text)
    with pytest.raises(UsageError) as refused:
        parse_spec(text)
    assert text in refused.value.message and "prune:l1=0." in refused.value.fix


@pytest.mark.parametrize(
    "text", ["resnet18", "teacher", "runs/teacher*.pth", "decoupled.py:net", "prune.pth", "dropnet"]
)
def test_other_specs_are_no_student_specs(text: str) -> None:
    assert not is_derived_spec(text)


def test_halves_are_rounded_up_and_one_channel_stays() -> None:
    assert [width(5, 0.5), width(64, 0.5), width(3, 0.01), width(10, 1)] == [3, 32, 1, 10]
