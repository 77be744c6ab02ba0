"""Each registry through every consumer: an entry is handled everywhere, or a test names where it is not."""

import re
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import graftcli
from graftcli.cli import options
from graftcli.errors import UsageError
from graftcli.images.pixels import Preprocess
from graftcli.models.cuts import plan as plans
from graftcli.models.derivation import base_origin, is_derived, notes
from graftcli.models.loading.build import build
from graftcli.models.network import Network
from graftcli.store.model_card import CardFacts, write_weights
from graftcli.students.kinds import KINDS
from graftcli.students.make import is_derived_from_teacher, student_maker
from graftcli.students.spec import EXAMPLES, parse_spec
from graftcli.students.student_kind import StudentKind
from tests.nets import same_weights

NETS = Path(__file__).resolve().parents[1] / "nets.py"
README = Path(__file__).resolve().parents[2] / "README.md"


def table_row(names: tuple[str, ...], about: str) -> str:
    """A row of a table in the README."""
    return f"| {', '.join(f'`{name}`' for name in names)} | {about} |"


def help_of(parameter: object) -> str:
    """The help text of an annotated option."""
    (option,) = parameter.__metadata__  # type: ignore[attr-defined]
    return str(option.help)


# -- kinds of students --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher() -> Network:
    torch.manual_seed(0)
    return build(f"{NETS}:resnet_of_four_blocks", checkpoint=Path("none"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_student_is_documented(kind: type[StudentKind]) -> None:
    assert table_row(kind.examples, kind.about) in README.read_text(encoding="utf-8").splitlines()
    with pytest.raises(UsageError) as refused:
        parse_spec(f"{kind.examples[0]}?")
    assert all(example in refused.value.fix and example in help_of(options.Student) for example in kind.examples)


@pytest.mark.parametrize("spec", EXAMPLES)
def test_every_kind_of_student_is_made_planned_saved_and_loaded(spec: str, teacher: Network, tmp_path: Path) -> None:
    parsed = parse_spec(spec)
    assert [kind for kind in KINDS if re.match(kind.start, spec)] == [type(parsed)]
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loader = Mock(return_value=images)
    student = build(spec, like=teacher, role="student", derive=student_maker(loader))
    assert loader.called == parsed.needs_images
    assert student.name == f"{teacher.name}-{parsed.suffix}" and student.name == Path(student.name).name
    assert is_derived(student) and base_origin(student) == teacher.origin and isinstance(notes(student), list)
    plan = plans.make(teacher, student)
    assert len(plan.blocks) == 4 and plan.student.params < plan.teacher.params
    preprocess = Preprocess((64, 64), 3, (0.5,) * 3, (0.5,) * 3, 1.0, "bilinear")
    facts = CardFacts(teacher.origin, student.origin, preprocess, "graft", 4, "", {})
    write_weights(tmp_path / "student.safetensors", student.module, facts)
    loaded = graftcli.load(tmp_path / "student.safetensors", trust_code=True)
    assert is_derived_from_teacher(spec) and is_derived_from_teacher(str(tmp_path / "student.safetensors"))
    assert same_weights(loaded, student.module) and torch.equal(loaded(images), student.module(images))
