"""Saved students load where their model card says, with the same outputs."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from timm.data import resolve_data_config

from graftcli.models.loading.build import build
from graftcli.models.network import Network
from graftcli.store.model_card import FILES, document, save_student, timm_config, write_weights
from tests.cards import PREPROCESS, answers, made, network
from tests.nets import resnet

# -- timm, in a process without graftcli ------------------------------------------------------------

# (spec, channels): families whose weights timm converts or adapts as it loads them, old and new ways to say the size
TIMM = [
    ("timm:resnet10t", 3),
    ("timm:resnet10t", 1),
    ("timm:vit_tiny_patch16_224", 3),
    ("timm:convnext_atto", 3),
    ("timm:coat_lite_tiny", 3),
    ("timm:mobilenetv3_small_050.lamb_in1k", 3),
]

_LOAD = """
import json, sys
sys.modules["graftcli"] = None
import timm, torch
torch.set_num_threads(1)
folder, channels = sys.argv[1], int(sys.argv[2])
model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
data = timm.data.resolve_model_data_config(model)
with torch.no_grad():
    given = model(torch.linspace(-1, 1, 2 * channels * 64 * 64).reshape(2, channels, 64, 64))
torch.save({"weights": model.state_dict(), "given": given, "data": json.dumps(data)}, folder + "/loaded.pt")
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, int], tuple[Network, Path]]]:
    """Each network of TIMM, saved, then loaded by timm alone: one process for them all."""
    folders = {}
    for spec, channels in TIMM:
        net = network(spec, channels)
        folder = tmp_path_factory.mktemp("run")
        save_student(folder, net.module, made(net))
        folders[spec, channels] = net, folder
    calls = "".join(
        f"sys.argv = ['', {str(folder)!r}, {channels!r}]\n{_LOAD}" for (_, channels), (_, folder) in folders.items()
    )
    subprocess.run([sys.executable, "-c", f"import sys\n{calls}"], check=True, cwd=tmp_path_factory.mktemp("elsewhere"))
    yield folders


@pytest.mark.parametrize(("spec", "channels"), TIMM)
def test_timm_alone_gives_the_trained_student(
    loaded: dict[tuple[str, int], tuple[Network, Path]], spec: str, channels: int
) -> None:
    net, folder = loaded[spec, channels]
    assert set(FILES) == {path.name for path in folder.iterdir()} - {"loaded.pt"}
    got = torch.load(folder / "loaded.pt", weights_only=True)
    weights = net.module.state_dict()
    assert got["weights"].keys() == weights.keys()
    assert all(torch.equal(got["weights"][name], tensor) for name, tensor in weights.items())
    torch.testing.assert_close(got["given"], answers(net.module, channels))
    preprocess = made(net).preprocess
    assert json.loads(got["data"]) == {
        "input_size": [channels, 64, 64],
        "interpolation": "bilinear",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "crop_pct": 0.9,
        "crop_mode": "center",
    }


def test_images_that_are_squashed_are_squashed_wherever_the_network_is_read(tmp_path: Path) -> None:
    net = network("timm:resnet10t")
    squashed = replace(made(net), preprocess=replace(PREPROCESS, squash=True))
    save_student(tmp_path, net.module, squashed)
    assert build(str(tmp_path)).preprocess.squash and not build("timm:resnet10t", checkpoint="none").preprocess.squash
    assert "to 71x71, ignoring the aspect ratio" in (tmp_path / "README.md").read_text()
    assert build(f"local-dir:{tmp_path}").preprocess.squash
    timms = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert resolve_data_config(timms.pretrained_cfg)["crop_mode"] == "squash"


def test_the_config_holds_the_keywords_of_the_network() -> None:
    net = network("timm:resnet10t")
    assert net.origin["kind"] == "timm"
    kwargs = {**net.origin["kwargs"], "output_stride": 16}
    config = timm_config(net.module, made(net, student={**net.origin, "kwargs": kwargs}))
    assert config["model_args"] == kwargs
    assert (config["num_features"], config["global_pool"], config["num_classes"]) == (512, "avg", 7)


@pytest.mark.parametrize("spec", ["timm:resnet10t", "timm:vit_tiny_patch16_224"])
def test_the_folder_is_one_of_timms_for_graftcli_too(tmp_path: Path, spec: str) -> None:
    net = network(spec)
    save_student(tmp_path, net.module, made(net))
    got = build(f"local-dir:{tmp_path}")
    assert (got.name, got.input_size, got.preprocess.mean) == (net.name, (3, 64, 64), PREPROCESS.mean)
    assert torch.equal(answers(got.module), answers(net.module))


# -- the card -----------------------------------------------------------------------------------------------------


def code(folder: Path) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return str(found)


@pytest.mark.parametrize(
    ("spec", "channels", "library"),
    [
        ("timm:resnet10t", 3, "timm"),
        ("torchvision:squeezenet1_1", 3, "torchvision"),
        ("torchvision:googlenet", 3, "torchvision"),
    ],
)
def test_the_lines_in_the_card_work_when_pasted(tmp_path: Path, spec: str, channels: int, library: str) -> None:
    net = network(spec, channels)
    folder = tmp_path / "it's a run"
    save_student(folder, net.module, made(net))
    lines = code(folder)
    assert library in lines.splitlines()[0] and len(lines.splitlines()) == 3
    there = f"torch.save(model(torch.linspace(-1, 1, {2 * 3 * 64 * 64}).reshape(2, 3, 64, 64)), 'given.pt')"
    script = f"import sys\nsys.modules['graftcli'] = None\n{lines}\nimport torch\nwith torch.no_grad(): {there}\n"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    torch.testing.assert_close(torch.load(tmp_path / "given.pt", weights_only=True), answers(net.module))


@pytest.mark.parametrize(("spec", "channels"), [("tests.nets:resnet(depth=8)", 3), ("torchvision:squeezenet1_1", 1)])
def test_what_no_library_builds_graftcli_loads(tmp_path: Path, spec: str, channels: int) -> None:
    net = network(spec, channels)
    save_student(tmp_path, net.module, made(net))
    lines = code(tmp_path)
    assert lines.startswith(f"import graftcli\nmodel = graftcli.load({str(tmp_path)!r}")
    own = spec == "tests.nets:resnet(depth=8)"
    assert ("student=..." in lines) == own  # a package's code: its reader gives the architecture
    names: dict[str, Any] = {}
    exec(lines.replace("...", "resnet(depth=8, num_classes=7)") if own else lines, {**names, "resnet": resnet}, names)
    torch.testing.assert_close(names["model"].state_dict(), net.module.state_dict())
    assert not (tmp_path / "config.json").exists()


def test_the_card_tells_what_the_network_is(tmp_path: Path) -> None:
    net, teacher = network("timm:resnet10t"), network("torchvision:squeezenet1_1")
    save_student(tmp_path, net.module, made(net, teacher))
    text = (tmp_path / "README.md").read_text()
    for part in (
        "# resnet10t, grafted from squeezenet1_1",
        "Trained with the recipe `graft` on 1,000 images to match `squeezenet1_1`.",
        "| parameters | 11,176,512 |\n| agreement on 8 held-out images | 0.9877 |\n| size | 44.7 MB |\n\n",
        "Input: RGB images of 64x64, resized (bilinear) to cover 71x71, then center-cropped.",
        "mean (0.1, 0.2, 0.3) and std (0.5, 0.6, 0.7)",
        "Output: 7 logits per image",
        "\n    graftcli distill --teacher a\n",
    ):
        assert part in text
    assert text.startswith("---\nlibrary_name: timm\n") and "{" not in text.split("```")[0]


@pytest.mark.parametrize(
    ("blocks", "title"),
    [
        (["teacher", "student", "student"], "# squeezenet1_1 with blocks 2, 3 of resnet10t"),
        (["student", "student"], "# resnet10t with adapters, grafted from squeezenet1_1"),
    ],
)
def test_a_hybrid_is_called_one(tmp_path: Path, blocks: list[str], title: str) -> None:
    net, teacher = network("timm:resnet10t"), network("torchvision:squeezenet1_1")
    save_student(tmp_path, net.module, made(net, teacher, hybrid={"blocks": blocks}))
    text = (tmp_path / "README.md").read_text()
    assert f"\n{title}\n" in text and "graftcli.load" in code(tmp_path)
    assert not (tmp_path / "config.json").exists()


# -- graft.json and the metadata ----------------------------------------------------------------------------------


def test_graft_json_holds_both_origins_and_what_was_seen(tmp_path: Path) -> None:
    net, teacher = network("timm:resnet10t"), network("torchvision:squeezenet1_1")
    save_student(tmp_path, net.module, made(net, teacher))
    facts = json.loads((tmp_path / "graft.json").read_text())
    assert (facts["format"], facts["kind"], facts["hybrid"], facts["classes"]) == (1, "student", None, 7)
    assert (facts["student"]["name"], facts["teacher"]["name"]) == ("resnet10t", "squeezenet1_1")
    seen = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "crop_pct": 0.9, "interpolation": "bilinear"}
    seen |= {"squash": False}
    assert facts["preprocess"] == {"size": [64, 64], **seen} and facts["student"]["preprocess"] == seen


@pytest.mark.parametrize("spec", ["timm:resnet10t", "torchvision:squeezenet1_1", "tests.nets:resnet(depth=8)"])
def test_a_saved_student_is_a_spec(tmp_path: Path, spec: str) -> None:
    net = network(spec)
    save_student(tmp_path / "run", net.module, made(net))
    write_weights(tmp_path / "alone.safetensors", net.module, made(net))
    for path in (tmp_path / "run", tmp_path / "alone.safetensors"):
        got = build(str(path))
        assert (got.name, got.input_size, got.num_classes) == (net.name, (3, 64, 64), 7)
        assert (got.preprocess.mean, got.preprocess.crop_pct) == (PREPROCESS.mean, PREPROCESS.crop_pct)
        assert torch.equal(answers(got.module), answers(net.module))


def test_the_weights_have_one_key_of_metadata(tmp_path: Path) -> None:
    net = network("timm:resnet10t")
    write_weights(tmp_path / "a.safetensors", net.module, made(net))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert list(file.metadata()) == ["graftcli"] and set(file.keys()) == net.module.state_dict().keys()
        written = json.loads(file.metadata()["graftcli"])
    assert len(written.pop("digest")) == 64
    assert written == json.loads(json.dumps({**document(made(net)), "origin": document(made(net))["student"]}))
