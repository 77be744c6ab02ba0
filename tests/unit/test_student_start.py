"""The student's weights before training."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graftcli.events import Event, Listener, TaskFinished, Warned
from graftcli.graft.engine import weights_digest
from graftcli.graft.initialize.start import StartImages, initialize
from graftcli.graft.layerwise.layer_pairs import LayerPair, layer_pairs
from graftcli.graft.layerwise.one_layer import LayerInputs
from graftcli.graft.layerwise.stage import piece_numbers, run_side_by_side
from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.pieces import Pieces, pieces
from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.plan import Plan
from graftcli.models.derivation import selections_of
from graftcli.recipe import Recipe
from graftcli.students.make import student_maker
from tests.engine import Memory, made_plan, network, plan, recipe, trained
from tests.nets import randomise, resnet

SPEC = "prune:act=0.4"
SOLVED = recipe(init="least-squares")
INHERITED = recipe(init="inherit")


def noise(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def started(
    made: Plan, wanted: Recipe, listen: Listener = lambda event: None, chosen: Sequence[int] | None = None
) -> Pieces:
    joined = seams(made, wanted.adapters.where)
    both = pieces(made, joined)
    blocks = chosen or range(1, both.blocks + 1)
    unfrozen = range(1, max(blocks) + 1)
    initialize(wanted, made, joined, both, unfrozen, StartImages(noise(64, 1), lambda: noise(64, 2)), 0, listen)
    return both


def missed(made: Plan, both: Pieces) -> dict[str, float]:
    """Of each layer, on the teacher's features in front of its block, from which nothing was solved: the share of what
    the teacher's layer gives that it misses."""
    kept = {one.layer: one for one in selections_of(made.student.network)}
    values, found = [noise(64, 3)], {}

    def measure(layer: LayerPair, seen: LayerInputs) -> None:
        given, wanted = layer.run(seen.student[0]), layer.target(seen.teacher[0])
        found[layer.path] = float((given - wanted).square().mean() / wanted.square().mean())

    for block in range(1, both.blocks + 1):
        layers = {k: list(layer_pairs(both, k, kept)) for k in piece_numbers((block,), both)}
        with torch.no_grad():
            run_side_by_side(both, layers, values, measure)
            values = [both.teacher[block - 1](value) for value in values]
    return found


@pytest.mark.parametrize("spec", ["prune:l1=0.4", "prune:act=0.4", "teacher*0.75", "lowrank:0.5", "decouple"])
def test_the_layers_of_a_made_student_come_nearer_to_the_teachers(spec: str) -> None:
    before, after = (
        missed(made, started(made, wanted)) for wanted in (INHERITED, SOLVED) for made in [made_plan(spec)]
    )
    assert len(after) == 10 and after.keys() == before.keys()
    assert sum(after.values()) < 0.7 * sum(before.values())


@pytest.mark.parametrize("start_of_adapters", ["identity", "random"])
def test_layers_are_solved_whatever_leads_into_a_block(start_of_adapters: str) -> None:
    both = [recipe(init=init, adapters={"start": start_of_adapters}) for init in ("inherit", "least-squares")]
    before, after = (sum(missed(made, started(made, wanted)).values()) for wanted in both for made in [made_plan(SPEC)])
    assert after < 0.7 * before


def without_a_unit() -> Plan:
    teacher = network(randomise(resnet(depth=14, num_classes=5)), "big")
    student = student_maker()("drop:layer1.1", teacher)
    assert student is not None
    return plans.make(teacher, student)


@pytest.mark.parametrize("make", [lambda: made_plan("teacher*1.0"), without_a_unit])
def test_a_student_whose_layers_have_lost_nothing_stays_as_it_is(make: Callable[[], Plan]) -> None:
    made = make()
    before = weights_digest(made.student.network.module)
    started(made, SOLVED)
    assert weights_digest(made.student.network.module) == before


def test_an_unrelated_student_is_only_initialized_by_inheritance(tmp_path: Path) -> None:
    """Its layers stand for none of the teacher's."""
    digests = []
    for wanted in (INHERITED, SOLVED, recipe(init="random")):
        made = plan()
        trained(made, Memory(tmp_path), wanted)
        digests.append(weights_digest(made.student.network.module))
    assert digests[0] == digests[1] != digests[2]


def test_layers_that_are_not_solved_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    monkeypatch.setattr("graftcli.graft.layerwise.whole_layer.MAX_INPUTS", 60)
    started(made_plan(SPEC), SOLVED, events.append)
    (warned,) = [event.text for event in events if isinstance(event, Warned)]
    assert warned.startswith("least squares initialises 5 of 10 layers; skipped: stages.1.1.0, ")


@pytest.mark.parametrize("block", [2, 3])
def test_the_start_of_a_block_does_not_depend_on_the_chosen_blocks(block: int) -> None:
    """Solved for are it and all before it, whose adapters lead into it; what comes behind stays as it is."""

    def weights(chosen: Sequence[int] | None, init: Recipe = SOLVED) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        made = made_plan("teacher*0.75")
        both = started(made, init, chosen=chosen)
        alone: dict[str, Tensor] = {
            name: value for k in range(block) for name, value in both.student[k].named_parameters(prefix=str(k))
        }
        return made.student.network.module.state_dict(), alone

    (every, among_all), (some, own), (none, _) = weights(None), weights((block,)), weights(None, INHERITED)
    assert any(name.endswith("to_student.weight") for name in own)
    assert own.keys() == among_all.keys() and all(torch.equal(own[name], among_all[name]) for name in own)
    later = [name for name in every if not torch.equal(some[name], every[name])]
    assert bool(later) == (block == 2) and all(name.startswith(("stages.2.", "head.")) for name in later)
    assert all(torch.equal(some[name], none[name]) for name in later)


def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """What was solved is solved again, on the same views."""

    def stop(event: Event) -> None:
        if isinstance(event, TaskFinished) and event.stage == "graft" and event.first == 2:
            raise KeyboardInterrupt

    whole, broken, resumed = (made_plan(SPEC) for _ in range(3))
    trained(whole, Memory(tmp_path), SOLVED)
    store = Memory(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trained(broken, store, SOLVED, listen=stop)
    trained(resumed, store, SOLVED)
    assert weights_digest(resumed.student.network.module) == weights_digest(whole.student.network.module)
