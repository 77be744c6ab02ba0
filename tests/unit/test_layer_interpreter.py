"""The interpreter of a part of a network gives its outputs, and its values can be changed on the way."""

import torch
from torch import nn

from graftcli.graft.layerwise.interpreter import Interpreter
from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.pieces import pieces
from tests.engine import plan


def test_running_layer_by_layer_equals_running_the_module() -> None:
    found, made = [torch.randn(3, 3, 16, 16), torch.randn(2, 3, 16, 16)], plan()
    both = pieces(made, seams(made))
    for parts in (both.teacher, both.student):
        chunks = found
        for part in parts:
            walk = Interpreter(part, chunks)
            paths = [path for path, _ in walk.layers()]
            with torch.no_grad():
                chunks = [part(chunk) for chunk in chunks]
            assert paths or isinstance(part, nn.Identity)
            assert all(torch.equal(walked, expected) for walked, expected in zip(walk.values, chunks, strict=True))


def test_changes_before_a_layer_runs_take_effect() -> None:
    made = plan()
    part = pieces(made, seams(made)).student[0]
    image = torch.randn(2, 3, 16, 16)
    walk = Interpreter(part, [image])
    stops = walk.layers()
    path, reads = next(stops)
    assert torch.equal(reads[0], image)
    conv = made.student.network.module.get_submodule(path)
    assert isinstance(conv, nn.Conv2d)
    nn.init.zeros_(conv.weight)
    assert [path for path, _ in stops]
    with torch.no_grad():
        assert torch.equal(walk.values[0], part(image))


def test_features_that_are_no_longer_read_are_freed() -> None:
    """Of a chain of layers no more than two values are alive, whatever its length."""
    made = plan(depth=4)
    image = torch.randn(8, 3, 16, 16)
    walk = Interpreter(pieces(made, seams(made)).teacher[0], [image])
    for _ in walk.layers():
        pass
    assert 0 < walk.bytes <= 2 * 8 * 8 * 16 * 16 * 4
