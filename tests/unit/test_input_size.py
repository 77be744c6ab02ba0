"""The input size of a network of one's own is the one that it names, else that of its images."""

from pathlib import Path

import pytest
import torch
from torch import nn

import graftcli
from graftcli.api.evaluating import evaluate
from graftcli.errors import UsageError
from graftcli.events import Event, InputSizeFound, Warned
from graftcli.images.sizes import two_sizes
from graftcli.models.loading.build import build
from graftcli.models.loading.in_memory import spec_of
from graftcli.runs.config import ModelPair, RunConfig, TrainOptions
from graftcli.runs.image_check import inspect_images
from graftcli.runs.prepare import PreparedRun, prepare_run
from graftcli.runs.scoring import PreprocessOptions
from tests.image_files import folder_of, noise, photos, saved
from tests.nets import randomise, resnet

NAMELESS = """
    from tests.nets import resnet

    def net(depth=8):
        made = resnet(depth)
        made.__class__ = type("Nameless", (type(made),), {"input_size": None})
        return made
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes")
    (folder / "nets.py").write_text("\n".join(line[4:] for line in NAMELESS.splitlines()))
    torch.manual_seed(0)
    torch.save(randomise(resnet(14)).state_dict(), folder / "teacher.pth")
    photos(folder, [f"small/{i % 2}/{i}.png" for i in range(4)])
    folder_of(folder, {f"mixed/{i}.png": saved(noise(32, 32 + i)) for i in range(3)})
    folder_of(folder, {f"large/{i}.png": saved(noise(600, 800, i)) for i in range(2)})
    return folder


def prepared(place: Path, images: str, size: tuple[int, int] | None = None) -> tuple[PreparedRun, list[Event]]:
    events: list[Event] = []
    nets = place / "nets.py"
    networks = ModelPair(f"{nets}:net(depth=14)", f"{nets}:net", teacher_checkpoint=str(place / "teacher.pth"))
    config = RunConfig(networks, str(place / images), None, PreprocessOptions(size), TrainOptions())
    return prepare_run(config, None, events.append), events


def test_a_run_takes_the_common_size_of_its_images_and_records_it(place: Path) -> None:
    run, events = prepared(place, "small")
    assert run.preprocess.size == (32, 32) == run.config.look.img_size
    assert run.plan.teacher.network.input_size == run.plan.student.network.input_size == (3, 32, 32)
    assert InputSizeFound("net", (32, 32)) in events
    assert run.plan.notes == ()


def test_a_size_that_is_named_is_taken_whatever_the_images_have(place: Path) -> None:
    run, events = prepared(place, "mixed", (24, 24))
    assert run.preprocess.size == (24, 24) and not any(isinstance(event, InputSizeFound) for event in events)


@pytest.mark.parametrize(("images", "found"), [("mixed", "32x32 and 32x33"), ("large", "600x800")])
def test_images_that_do_not_tell_the_size_are_refused(place: Path, images: str, found: str) -> None:
    with pytest.raises(UsageError, match="`net` declares no input size") as caught:
        prepared(place, images)
    assert found in caught.value.message or found.replace("32x33", "32x34") in caught.value.message
    assert "--img-size 224" in caught.value.fix and "input_size = (3, 224, 224)" in caught.value.fix


def test_eval_bench_and_images_take_the_size_of_the_images_too(place: Path) -> None:
    events: list[Event] = []
    net, weights = f"{place / 'nets.py'}:net(depth=14)", place / "teacher.pth"
    scores = evaluate([net], place / "small", checkpoint=weights, device="cpu", listen=events.append)
    assert scores.preprocess.size == (32, 32) and InputSizeFound("net", (32, 32)) in events
    both = evaluate([net, "tests.nets:resnet"], place / "small", device="cpu")
    assert both.preprocess.size == (32, 32)
    report = inspect_images(place / "small", teacher=net, teacher_checkpoint=weights, device="cpu")
    assert report.preprocess is not None and report.preprocess.size == (32, 32)
    graftcli.bench([net], images=place / "small", seconds=0.01, threads=1, listen=events.append)
    assert events.count(InputSizeFound("net", (32, 32))) == 2


def test_without_images_the_assumed_size_is_named(place: Path) -> None:
    net = f"{place / 'nets.py'}:net"
    assumed = "net declares no input size: 224x224 is assumed; give --img-size, or set it as an attribute"
    assert graftcli.plan(net, net).notes[0].startswith(assumed)
    assert graftcli.inspect(net).network.size_is_assumed
    assert not graftcli.plan(net, net, img_size=32).notes
    events: list[Event] = []
    graftcli.bench([net], seconds=0, batch=1, threads=1, listen=events.append)
    assert any(isinstance(event, Warned) and event.text.startswith(assumed) for event in events)


@pytest.mark.parametrize("name", ["input_size", "img_size", "image_size"])
def test_a_network_names_its_size_in_an_attribute(name: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert build(spec_of(module)).size_is_assumed
    setattr(module, name, 48)
    network = build(spec_of(module))
    assert network.input_size == (3, 48, 48) and not network.size_is_assumed


def test_images_much_smaller_than_the_input_give_a_hint(place: Path) -> None:
    def hints(spec: str, size: int | None = None) -> list[str]:
        events: list[Event] = []
        evaluate([spec], place / "small", checkpoint="none", device="cpu", img_size=size, listen=events.append)
        return [event.text for event in events if isinstance(event, Warned) and "are small" in event.text]

    (hint,) = hints("torchvision:squeezenet1_1")
    assert "a median of 32 pixels" in hint and "enlarged to 224x224" in hint and "--img-size 32" in hint
    assert not hints("torchvision:squeezenet1_1", 64)
    assert not hints(f"{place / 'nets.py'}:net")


def test_sizes_are_those_of_upright_images(tmp_path: Path) -> None:
    exif = noise(20, 40).getexif()
    exif[0x0112] = 6  # turned by a quarter
    data = {"a.jpg": saved(noise(20, 40), "JPEG", exif=exif), "b.png": saved(noise(40, 20)), "c.png": b"broken"}
    assert two_sizes(folder_of(tmp_path, data)) == ((40, 20),)
