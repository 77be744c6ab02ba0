"""Layers of a derived student paired with the teacher's, and a layer as one linear map."""

import pytest
import torch
from torch import nn

from graftcli.errors import PairError
from graftcli.graft.layerwise.layer_pairs import (
    LayerPair,
    check_derived,
    folded,
    layer_pairs,
    set_folded,
    unpaired_layers,
)
from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.pieces import pieces
from graftcli.models.cuts import plan as plans
from graftcli.models.derivation import selections_of
from graftcli.models.loading.build import build
from graftcli.students.make import student_maker
from tests.engine import made_plan, plan, recipe


def layers(spec: str) -> list[LayerPair]:
    made = made_plan(spec)
    found = pieces(made, seams(made))
    kept = {one.layer: one for one in selections_of(made.student.network)}
    return [layer for k in range(1, found.blocks + 2) for layer in layer_pairs(found, k, kept)]


@pytest.mark.parametrize("spec, rows", [("prune:l1=0.5", 0), ("teacher*0.5", 0), ("lowrank:0.5", 1), ("decouple:2", 1)])
def test_each_layer_stands_beside_the_teachers(spec: str, rows: int) -> None:
    """Three convolutions a stage and the head; a convolution that was taken apart is a row."""
    every = layers(spec)
    assert len(every) == 10 if spec != "decouple:2" else every
    assert [layer.path for layer in every if layer.norm is not None] == [layer.path for layer in every[:-1]]
    assert any(layer.preceding for layer in every) == bool(rows)
    for layer in every:
        assert layer.teacher.weight.shape[0] >= len(layer.outputs) == layer.last.weight.shape[0]


def test_linear_layers_of_timm_are_paired_and_depthwise_convolutions_are_not() -> None:
    teacher = build("timm:mobilenetv3_small_050", checkpoint="none", img_size=64, num_classes=10)
    student = student_maker()("prune:l1=0.3", teacher)
    assert student is not None
    made = plans.make(teacher, student)
    found = pieces(made, seams(made))
    kept = {one.layer: one for one in selections_of(made.student.network)}
    paired = [layer.path for k in range(1, found.blocks + 2) for layer in layer_pairs(found, k, kept)]
    unpaired = [path for k in range(1, found.blocks + 2) for path in unpaired_layers(found, k, kept)]
    assert "classifier" in paired
    modules = [teacher.module.get_submodule(path) for path in unpaired]
    assert unpaired and all(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in modules)


@pytest.mark.parametrize("spec", ["prune:l1=0.5", "lowrank:0.5"])
def test_a_layer_reads_its_teachers_weights_where_they_are_whole(spec: str) -> None:
    every = layers(spec)
    images = torch.randn(2, 3, 16, 16)
    first = every[0]
    with torch.no_grad():
        target, output = first.target(images), first.run(first.select_inputs(images))
    exact = spec == "prune:l1=0.5"
    assert torch.allclose(output, target, atol=1e-5) == exact


def test_set_folded_writes_exactly_the_given_map() -> None:
    """In float64, with a BatchNorm whose numbers are random; and it is the same function where the norm is trained."""
    every = layers("prune:l1=0.5")
    for layer in every:
        for module in (*layer.modules, layer.teacher):
            module.double()
        shape = (64, layer.last.weight.shape[1], *([4, 4] if isinstance(layer.last, nn.Conv2d) else []))
        reads = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        weight, bias = folded(layer)
        behind = torch.randn(len(weight), len(weight), dtype=torch.float64)
        with torch.no_grad():
            before, sizes = layer.run(reads), layer.last.weight.flatten(1).norm(dim=1)
            set_folded(layer, torch.tensordot(behind, weight, 1), behind @ bias, [reads[:30], reads[30:]])
            after = layer.run(reads)
            by_hand = (before.movedim(layer.channel_dim, -1) @ behind.T).movedim(-1, layer.channel_dim)
            assert torch.allclose(after, by_hand, rtol=0, atol=1e-11 * float(by_hand.abs().max()))
            if layer.norm is not None:
                assert torch.allclose(layer.last.weight.flatten(1).norm(dim=1), sizes)
                layer.norm.train()
                assert torch.allclose(layer.run(reads), after, rtol=1e-2, atol=1e-2 * float(after.abs().max()))


def test_a_network_of_its_own_has_no_such_layers() -> None:
    stage = {"name": "solve", "train": "layers", "targets": [{"at": "output", "loss": "mse"}], "steps": 2}
    wanted = recipe(stages=[{**stage, "optimizer": "least-squares"}])
    check_derived(recipe(), plan().student.network)
    check_derived(wanted, made_plan("prune:l1=0.5").student.network)
    with pytest.raises(
        PairError, match="stage solve of recipe tiny trains layer by layer, and small is not derived from the"
    ):
        check_derived(wanted, plan().student.network)
