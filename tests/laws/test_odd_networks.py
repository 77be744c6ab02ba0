"""Unusual networks: cut exactly, or refused with one message, its fix and its exit code."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from graftcli.cli import app
from graftcli.models.cuts.plan import Plan, make
from graftcli.models.cuts.positions import positions
from graftcli.models.network import IMAGENET, Network
from graftcli.models.origin import ModuleOrigin
from graftcli.models.tracing.split import join
from graftcli.models.weights import Weights, WeightsOrigin
from tests import odd_networks
from tests.nets import randomise

FILE = Path(odd_networks.__file__)


def plan(teacher: str, student: str, *more: str) -> Result:
    """The two factories of odd_networks.py, planned by the command for images of 32x32."""
    words = ["plan", "--teacher", f"{FILE}:{teacher}", "--student", f"{FILE}:{student}", "--img-size", "32", *more]
    return CliRunner().invoke(app, words)


def planned(module: nn.Module) -> Plan:
    """A network as teacher of a plain one."""
    origin: ModuleOrigin = {"kind": "in-memory", "key": "net"}
    random = Weights(WeightsOrigin.RANDOM)
    teacher, student = (
        Network(randomise(net).eval(), "net", "package", random, (3, 32, 32), 10, IMAGENET, origin)
        for net in (module, odd_networks.plain())
    )
    return make(teacher, student)


# ---- what is cut all the same ----


@pytest.mark.parametrize("factory", ["chain", "inside", "batch_minded", "hasty", "hooked", "channels_last", "training"])
def test_it_is_cut_exactly(factory: str) -> None:
    network: nn.Module = getattr(odd_networks, factory)()
    made = planned(network)
    assert [cut.size for cut in made.teacher.cuts] == [(32, 32), (16, 16)]
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        kept = images.clone()
        with torch.no_grad():
            assert torch.equal(join(made.teacher.blocks)(images), network(kept.clone()))
        assert torch.equal(images, kept)


@pytest.mark.parametrize("factory", ["chain", "inside", "batch_minded", "hasty", "hooked", "channels_last", "training"])
def test_the_plan_command_cuts_them_too(factory: str) -> None:
    result = plan(factory, "plain", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert len(found["blocks"]) == 3 and found["stock"]


def test_a_shared_stage_is_cut_and_counted_once() -> None:
    module = odd_networks.tied()
    made = planned(module)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(join(made.teacher.blocks)(images), module(images))
    assert sum(block.teacher.params for block in made.blocks) == sum(p.numel() for p in module.parameters())
    behind_a = next(place for place in positions(made.teacher.traced) if place.name == "a")
    assert behind_a.forwards.blocker == "read by `b.0` (Conv2d, used more than once)"


def test_features_between_blocks_are_never_written_into() -> None:
    made = planned(odd_networks.hasty())
    value = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for block in made.teacher.blocks:
            before = value.clone()
            result = block(value)
            assert torch.equal(value, before)
            value = result


def test_a_network_that_was_training_is_cut_in_eval_mode() -> None:
    module = odd_networks.training()
    made = planned(module)
    state = copy.deepcopy(module.state_dict())
    assert not any(part.training for part in module.modules())
    join(made.teacher.blocks)(torch.randn(4, 3, 32, 32))
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


# ---- what is refused ----


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        ("tuple_output", "plain", ("TupleOutput", "tuple", "only the logits")),
        ("plain", "dict_output", ("DictOutput", "dict", "only the logits")),
        ("plain", "two_inputs", ("TwoInputs", "'y'", "only the images")),
        ("noisy", "plain", ("Noisy", "different outputs for the same images", "F.dropout")),
        ("wild", "plain", ("Wild", "odd_networks.py:", "x.mean() > 0", "a separate module")),
        ("plain", "one_size", ("the student `OneSize`", "cannot be cut", "--split-student")),
        ("grey", "plain", ("3 input channels", "the teacher has 1")),
        ("plain", "insists", ("7", "10")),
    ],
)
def test_a_network_that_cannot_be_cut_is_refused_with_one_message(
    teacher: str, student: str, expected: tuple[str, ...]
) -> None:
    result = plan(teacher, student)
    assert result.exit_code == 3, result.stderr
    assert result.stdout == ""
    for part in expected:
        assert part in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 2, "what was found, and what to do"


def test_as_json_the_answer_is_one_document_too() -> None:
    result = plan("wild", "plain", "--json")
    assert result.exit_code == 3
    error = json.loads(result.stderr)["error"]
    assert error["code"] == 3
    assert "Wild" in error["message"] and "separate module" in error["fix"]


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("--split-teacher", "a,d"), 3, "--split-teacher: `d` is not in the network."),
        (("--split-teacher", "b,a"), 3, "`a` does not come after `b`"),
        (("--split-teacher", " , "), 2, "--split-teacher is empty."),
        (("--split-teacher", "a", "--split-student", "a,b"), 3, "names 1 cuts; --split-student names 2"),
        (("--split-teacher", "a", "--blocks-count", "3"), 2, "--split-teacher makes 2 blocks; --blocks-count is 3."),
        (("--blocks-count", "60"), 3, "--blocks-count is 60; these two networks"),
        (("--blocks-count", "1"), 2, "--blocks-count"),
        (("--blocks-count", "many"), 2, "--blocks-count"),
    ],
)
def test_cuts_that_do_not_work_are_answered(words: tuple[str, ...], code: int, expected: str) -> None:
    result = plan("plain", "plain", *words)
    assert result.exit_code == code, result.stderr
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


def test_cuts_inside_a_stage_are_accepted() -> None:
    result = plan("plain", "plain", "--split-student", "a.0,b.1", "--json")
    assert result.exit_code == 0, result.stderr
    assert [block["student"]["last"] for block in json.loads(result.stdout)["blocks"]] == ["a.0", "b.1", "head"]
