"""The examples in the docstrings of the public functions, and the README's, on small networks and images."""

import ast
import doctest
import inspect
import os
from pathlib import Path

import pytest
import torch

import graftcli
from tests.image_files import photos
from tests.nets import NETS

pytestmark = pytest.mark.usefixtures("inside")

README = Path(__file__).parents[2] / "README.md"
# what the examples name -> what stands for it here
STAND_INS = {
    '"resnet34"': f'"{NETS}:resnet(depth=14)"',
    '"resnet18"': f'"{NETS}:resnet(depth=8)"',
    '"runs/resnet34-resnet18"': '"runs/small"',
    '"photos"': '"photos", steps_scale=0.1',
    "steps_scale=0.1": 'steps_scale=0.002, batch=8, teacher_checkpoint="none"',
    "224, 224": "32, 32",
    "[1, 1000]": "[1, 10]",
}
FUNCTIONS = [name for name in graftcli.__all__ if inspect.isfunction(getattr(graftcli, name))]


def adapted(text: str) -> str:
    for named, stand_in in STAND_INS.items():
        text = text.replace(named, stand_in)
    return text


def examples(name: str) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(inspect.getdoc(getattr(graftcli, name)) or "")


def value_of(code: str, names: dict[str, object]) -> object:
    """The value of an expression; None for a statement, which is executed."""
    tree = ast.parse(code)
    if isinstance(tree.body[0], ast.Expr):
        return eval(code, names)
    exec(code, names)
    return None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the examples assume: images, and the run that the README's lines leave behind."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("10shot", "photos", "val"):
        photos(folder, [f"{name}/{i % 2}/{i}.png" for i in range(6)])
    here, code = Path.cwd(), README.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    os.chdir(folder)
    try:
        exec(adapted(code), {})
    finally:
        os.chdir(here)
    return folder


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if examples(name)])
def test_an_example_gives_what_its_docstring_shows(name: str) -> None:
    names: dict[str, object] = {"graftcli": graftcli, "torch": torch}
    for example in examples(name):
        value = value_of(adapted(example.source), names)
        if example.want:
            assert repr(value) == adapted(example.want).strip()


def test_every_function_of_the_api_has_an_example() -> None:
    of_api = [name for name in FUNCTIONS if getattr(graftcli, name).__module__.startswith("graftcli.api")]
    assert [name for name in of_api if not examples(name)] == []


def test_the_readme_leaves_a_run_and_a_file(place: Path) -> None:
    assert (place / "runs/small/model.safetensors").is_file() and (place / "small.onnx").is_file()
