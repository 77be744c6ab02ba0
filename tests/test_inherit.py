"""A student's first weights out of its teacher."""

import torch

from graftcli.graft.inherit import inherit
from graftcli.nets import plan as plans
from tests.engine import network, plan
from tests.nets import randomise, resnet


def test_a_student_of_the_same_shape_becomes_its_teacher() -> None:
    made = plan((6, 8, 10), (6, 8, 10), depth=1)
    given = inherit(made.teacher, made.student)
    assert given == made.student.params
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(made.student.network.module(images), made.teacher.network.module(images))


def test_a_shallower_student_takes_units_at_even_depth() -> None:
    deep, shallow = randomise(resnet(depth=32)), resnet(depth=20)
    made = plans.make(network(deep, "deep"), network(shallow, "shallow"))
    inherit(made.teacher, made.student)
    for mine, theirs in ((0, 0), (1, 2), (2, 4)):
        for name, tensor in shallow.layer2[mine].state_dict().items():
            assert torch.equal(tensor, deep.layer2[theirs].state_dict()[name])
    assert torch.equal(shallow.linear.weight, deep.linear.weight)


def test_a_narrower_student_takes_the_first_channels() -> None:
    made = plan((8, 12, 16), (6, 8, 10), depth=3)
    inherit(made.teacher, made.student)
    ours, theirs = (side.network.module.state_dict()["stages.1.0.0.weight"] for side in (made.teacher, made.student))
    assert torch.equal(theirs, ours[:8, :6])
    assert torch.equal(
        made.student.network.module.state_dict()["stages.2.0.1.running_var"],
        made.teacher.network.module.state_dict()["stages.2.0.1.running_var"][:10],
    )
