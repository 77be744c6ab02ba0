"""The public functions in Python: lazily imported names, networks as modules, images in memory."""

import ast
import inspect
import re
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

import graftcli
from graftcli.images.in_memory import folder_of
from graftcli.models.loading import in_memory
from tests.image_files import photos
from tests.nets import randomise, resnet

VERBS = (
    "bench",
    "compare",
    "distill",
    "evaluate",
    "export",
    "inspect",
    "inspect_images",
    "load",
    "partial",
    "plan",
    "select_images",
)
SHORT = {"steps_scale": 0.005, "batch": 4, "device": "cpu", "crop_pct": 1.0}


class Noise(Dataset[tuple[Tensor, int]]):
    """A map-style dataset of float images with labels, which are ignored."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(index)), index % 2


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("verb", VERBS)
def test_every_parameter_is_named_typed_and_described(verb: str) -> None:
    function = getattr(graftcli, verb)
    signature, hints = inspect.signature(function), typing.get_type_hints(function)
    document = inspect.getdoc(function) or ""
    for name, parameter in signature.parameters.items():
        assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL), name
        assert name in hints, name
        assert re.search(rf"^    {name}: ", document, re.MULTILINE), f"`{name}` is not described"
    assert "Parameters:\n" in document and "Returns:\n" in document and "Example:\n" in document


def test_modules_and_a_dataset_give_a_student(tmp_path: Path) -> None:
    teacher, student = randomise(resnet(14), seed=1), resnet(8)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    result = graftcli.distill(teacher, student, Noise(), out=tmp_path / "run", **SHORT)  # type: ignore[arg-type]
    assert result.teacher == result.student == "CifarResNet"
    assert result.model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert isinstance(result.model, type(student)) and result.images == 12
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    again = graftcli.distill(teacher, student, Noise(), out=tmp_path / "run", **SHORT)  # type: ignore[arg-type]
    assert again.already_done, "the same modules and images are the same run"
    hybrid = graftcli.partial(3, run=tmp_path / "run", out=tmp_path / "hybrid", **SHORT)  # type: ignore[arg-type]
    assert hybrid.blocks == (3,) and hybrid.model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_a_module_of_another_process_must_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    graftcli.distill(randomise(resnet(14), seed=1), resnet(8), Noise(), out=run, **SHORT)  # type: ignore[arg-type]
    monkeypatch.setattr(in_memory, "_MODULES", {})
    with pytest.raises(graftcli.PairError, match="is a module of another process"):
        graftcli.load(run)
    assert graftcli.load(run, student=resnet(8))(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_modules_that_differ_in_their_code_have_different_specs() -> None:
    same = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Sequential(nn.Linear(3, 3), nn.GELU())
    same[1].load_state_dict(same[0].state_dict())
    assert in_memory.spec_of(same[0]) != in_memory.spec_of(same[1])
    assert in_memory.spec_of(same[0]) == in_memory.spec_of(same[0])


def test_a_plan_and_a_student_of_modules() -> None:
    plan = graftcli.plan(resnet(14), "teacher*0.5", img_size=32)
    assert len(plan.blocks) == 3 and plan.student.params < plan.teacher.params


def test_images_in_memory_are_written_once_and_without_loss() -> None:
    pictures = [Image.new("RGB", (8, 8), color) for color in ("red", "teal")]
    folder = folder_of(pictures)
    assert folder == folder_of(iter(pictures)) == folder_of([{"image": picture} for picture in pictures])
    assert [Image.open(file).getpixel((0, 0)) for file in sorted(folder.iterdir())] == [(255, 0, 0), (0, 128, 128)]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (torch.randn(3, 4, 4), "item 1 of the images is torch.float32 from -"),
        (torch.zeros(4, 4), "item 1 of the images has type Tensor of shape"),
        ("cat.jpg", "item 1 of the images has type str"),
    ],
)
def test_what_is_no_image_is_refused(item: object, message: str) -> None:
    with pytest.raises(graftcli.ImagesError, match=re.escape(message)):
        folder_of([Image.new("L", (4, 4)), item])


_WRONG_CALLS: dict[str, Callable[[], object]] = {
    "a network is given as int": lambda: graftcli.plan(5, "resnet18"),  # type: ignore[arg-type]
    "the images are given as int": lambda: folder_of(5),  # type: ignore[arg-type]
    "mean is 0.5": lambda: graftcli.distill("resnet18", "resnet10t", "photos", mean=0.5),  # type: ignore[arg-type]
    "std is '0.5'": lambda: graftcli.evaluate("resnet18", "photos", std="0.5"),  # type: ignore[arg-type]
    "img_size is '32'": lambda: graftcli.inspect("resnet18", img_size="32"),  # type: ignore[arg-type]
    "a model is given as Linear": lambda: graftcli.evaluate(nn.Linear(2, 2), "photos"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("message", _WRONG_CALLS)
def test_an_argument_of_the_wrong_type_is_named(message: str) -> None:
    with pytest.raises(graftcli.GraftError) as caught:
        _WRONG_CALLS[message]()
    assert caught.value.message.startswith(message) and caught.value.fix.startswith("Give ")


def test_a_module_is_inspected() -> None:
    assert [cut.name for cut in graftcli.inspect(resnet(8)).cuts] == ["layer1", "layer2"]


def test_a_library_call_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    photos(tmp_path / "photos", [f"{i}.png" for i in range(12)])
    torch.manual_seed(5)
    before = _process()
    teacher, student = randomise(resnet(14), seed=1), resnet(8)
    torch.manual_seed(5)
    graftcli.plan(teacher, student, img_size=32)
    graftcli.inspect("resnet10t", img_size=32)
    graftcli.inspect_images("photos", teacher=teacher, img_size=32)
    graftcli.distill(teacher, student, "photos", out="run", **SHORT)  # type: ignore[arg-type]
    graftcli.partial(3, run="run", out="hybrid", **SHORT)  # type: ignore[arg-type]
    graftcli.load("run")
    graftcli.evaluate("run", "photos", device="cpu")
    graftcli.export("run", format="pt2")
    graftcli.bench(["run"], threads=1, batch=2, seconds=0.0)
    graftcli.compare(teacher, student, "photos", out="table", **SHORT)  # type: ignore[arg-type]
    assert _process() == before


def _process() -> dict[str, object]:
    import os
    import warnings

    return {
        "threads": torch.get_num_threads(),
        "random state": torch.get_rng_state().tolist(),
        "grad mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "cwd": Path.cwd(),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
    }


SOURCE = Path(graftcli.__file__).read_text(encoding="utf-8")


def test_everything_offered_is_there_and_known_to_type_checkers() -> None:
    typed = {
        alias.name for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    offered = set(graftcli.__all__) - {"__version__"}
    assert offered == typed - {"import_module", "TYPE_CHECKING", "Any"}
    assert set(dir(graftcli)) == set(graftcli.__all__)
    assert all(getattr(graftcli, name).__name__ == name for name in offered)


def test_what_is_not_offered_is_not_there() -> None:
    with pytest.raises(AttributeError, match=r"module 'graftcli' has no attribute 'distil'"):
        graftcli.distil  # noqa: B018


def test_a_plan_imports_nothing_that_only_training_needs() -> None:
    program = (
        "import sys, graftcli; graftcli.plan('resnet10t', 'resnet10t', img_size=32);"
        "print(*(name for name in ('onnx', 'jinja2', 'graftcli.graft', 'graftcli.formats') if name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
