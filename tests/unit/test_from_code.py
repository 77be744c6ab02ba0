"""Networks from a user's file or package; every fault is one sentence."""

import json
import py_compile
import sys
from dataclasses import replace
from importlib.util import cache_from_source
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from graftcli.errors import CheckpointError, PairError, UsageError
from graftcli.models.loading.build import build, rebuild
from graftcli.models.loading.from_code import keywords
from graftcli.models.loading.trust import Gate, trusted
from graftcli.models.origin import CodeOrigin
from graftcli.models.weights import Weights, WeightsOrigin

NET = """
    import torch
    from torch import nn

    class Net(nn.Sequential):
        def __init__(self, width=4, num_classes=10, in_chans=3):
            head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
            super().__init__(nn.Conv2d(in_chans, width, 3, 2), *head)

    def small(width: int = 4):
        return Net(width)

    def sized(img_size=64):
        net = nn.Sequential(nn.Flatten(), nn.Linear(3 * img_size * img_size, 5))
        return net

    def half():
        return Net().half().train()

    def hinted():
        net = Net(in_chans=2)
        net.pretrained_cfg = {"input_size": (2, 48, 40), "mean": (0.1, 0.2), "std": (0.3, 0.4), "crop_pct": 0.9}
        net.pretrained_cfg["crop_mode"] = "squash"
        return net

    made = Net()
    def nothing(): return None
    def broken(): raise RuntimeError("no such depth")
    def leaves(): raise SystemExit(3)
    def talks():
        print("building")
        return Net()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return source(tmp_path / "nets.py", NET)


def source(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return path


def test_a_call_is_read_as_literals_only() -> None:
    assert keywords("net") == ("net", {})
    assert keywords("net(depth=20, widths=[1, 2], kind='a:b(c)')") == (
        "net",
        {"depth": 20, "widths": [1, 2], "kind": "a:b(c)"},
    )
    for call in ("net(20)", "net(depth=f(1))", "net(**{'a': 1})", "net(depth=", "a.b()", "net(__import__('os'))", ""):
        with pytest.raises(UsageError):
            keywords(call)


def test_a_file_gives_a_network_ready_to_cut(file: Path) -> None:
    net = build(f"{file}:half")
    assert (net.name, net.source, net.num_classes, net.input_size) == ("half", "file", 10, (3, 224, 224))
    assert not net.module.training
    assert {p.dtype for p in net.module.parameters()} == {torch.float32}


def test_keywords_reach_the_factory(file: Path) -> None:
    assert build(f"{file}:Net(width=6, num_classes=3)").module[0].out_channels == 6  # type: ignore[index]
    assert build(f"{file}:Net(width=6, num_classes=3)").num_classes == 3


def test_a_factory_is_given_the_options_that_its_signature_names(file: Path) -> None:
    net = build(f"{file}:Net", num_classes=7, in_chans=1, img_size=40)
    assert (net.num_classes, net.input_size) == (7, (1, 40, 40))
    assert build(f"{file}:sized", img_size=16).module[1].in_features == 3 * 16 * 16  # type: ignore[index]


def test_the_input_is_what_the_network_says(file: Path) -> None:
    net = build(f"{file}:hinted")
    assert net.input_size == (2, 48, 40)
    assert (net.preprocess.mean, net.preprocess.std, net.preprocess.crop_pct) == ((0.1, 0.2), (0.3, 0.4), 0.9)
    assert net.preprocess.squash
    small = build("tests.nets:resnet")
    assert (small.input_size, small.preprocess.crop_pct, small.source) == ((3, 32, 32), 1.0, "package")


def test_a_factory_may_insist_on_its_numbers_and_is_then_refused(file: Path) -> None:
    with pytest.raises(PairError, match=r"`small` has 10 classes; --num-classes is 7"):
        build(f"{file}:small", num_classes=7)
    teacher = build(f"{file}:Net(num_classes=7)")
    with pytest.raises(PairError, match=r"`small` has 10 classes; the teacher has 7"):
        build(f"{file}:small", like=teacher, role="student")
    assert build(f"{file}:Net", like=teacher, role="student").num_classes == 7


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("missing", "no `missing`"),
        ("made", "`made` in .* is a Net"),
        ("nothing", "returned a NoneType, not a torch.nn.Module"),
        ("broken", "raised RuntimeError at line 28 while `broken` built its network: no such depth"),
        ("leaves", "raised SystemExit at line .*: 3"),
        ("small(depth=3)", "unexpected keyword argument 'depth'"),
    ],
)
def test_a_factory_that_makes_no_network_is_refused(file: Path, call: str, expected: str) -> None:
    with pytest.raises(PairError, match=expected):
        build(f"{file}:{call}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "import missing_library",
            "raised ModuleNotFoundError at line 1 while it was imported: No module named 'missing_library'",
        ),
        ("x = 1\ndef f(:\n", "SyntaxError"),
        ("from .layers import x", "package.module:factory"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(PairError) as caught:
        build(f"{source(tmp_path / 'nets.py', text)}:f")
    assert expected in str(caught.value)


def test_a_missing_file_and_a_missing_package_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PairError, match="No such file"):
        build(f"{tmp_path / 'nets.py'}:f")
    with pytest.raises(PairError, match="No module named 'missing_package'"):
        build("missing_package.nets:f")


def test_what_a_users_code_prints_is_no_result(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(f"{file}:talks")
    assert capsys.readouterr() == ("", "building\n")


def test_files_of_one_name_with_siblings_of_one_name_are_two_networks(tmp_path: Path) -> None:
    before = list(sys.path)
    for folder, width in (("a", 3), ("b", 5)):
        source(tmp_path / folder / "layers.py", f"WIDTH = {width}")
        source(
            tmp_path / folder / "model.py",
            """
            from torch import nn
            from layers import WIDTH
            def net():
                import layers
                return nn.Sequential(nn.Flatten(), nn.Linear(3, WIDTH), nn.Linear(WIDTH, layers.WIDTH))
            """,
        )
    for folder, width in (("a", 3), ("b", 5)):
        module = build(f"{tmp_path / folder / 'model.py'}:net", img_size=1).module
        assert [module[1].out_features, module[2].out_features] == [width, width]  # type: ignore[index]
    assert sys.path == before
    assert "layers" not in sys.modules


def test_a_network_is_made_again_from_its_origin_alone(file: Path) -> None:
    net = build(f"{file}:Net(width=6)", num_classes=3, img_size=40)
    origin = json.loads(json.dumps(net.origin))
    assert origin == net.origin
    assert str(rebuild(origin)) == str(net.module)
    assert (origin["where"], origin["input_size"]) == (str(file), [3, 40, 40])


def test_a_document_runs_a_file_that_has_changed_only_where_it_is_trusted(file: Path) -> None:
    net, gate = build(f"{file}:Net"), Gate(file.with_name("graft.json"))
    file.write_text(file.read_text() + "\n# changed\n")
    with pytest.raises(CheckpointError, match="would run code: `Net` of") as caught:
        rebuild(net.origin, gate)
    assert "--trust-code" in caught.value.fix
    assert str(rebuild(net.origin, replace(gate, trust_code=True))) == str(net.module)
    assert str(rebuild(net.origin, gate)) == str(net.module)
    assert [(one.call, one.path) for one in trusted()] == [("Net", str(file))]


def test_what_a_trusted_file_imports_beside_it_is_trusted_too_or_refused(tmp_path: Path) -> None:
    source(tmp_path / "layers.py", "WIDTH = 3")
    text = """
        from torch import nn
        from layers import WIDTH
        def net():
            import late
            return nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, late.CLASSES))
    """
    source(tmp_path / "late.py", "CLASSES = 4")
    file = source(tmp_path / "model.py", text)
    origin: CodeOrigin = {"kind": "code", "where": str(file), "call": "net", "kwargs": {}, "sha256": None}
    gate = Gate(tmp_path / "graft.json")
    rebuild(origin, replace(gate, trust_code=True))
    assert sorted(Path(one.path).name for one in trusted()) == ["late.py", "layers.py", "model.py"]
    ran = tmp_path / "ran"
    for name in ("layers.py", "late.py"):
        kept = (tmp_path / name).read_text()
        source(tmp_path / name, f"from pathlib import Path; Path({str(ran)!r}).touch(); WIDTH = CLASSES = 3")
        for module in [module for module in sys.modules if module.endswith("_gated")]:
            del sys.modules[module]
        with pytest.raises(CheckpointError, match=f"the module `.*{name}`"):
            rebuild(origin, gate)
        (tmp_path / name).write_text(kept)
    assert not ran.exists() and rebuild(origin, gate) is not None


def test_links_and_folders_that_the_code_adds_come_through_the_gate_too(tmp_path: Path) -> None:
    text = """
        import sys
        from pathlib import Path
        sys.path.insert(0, str(Path(__file__).parent / "lib"))
        import deep
        import beside
        from torch import nn
        def net():
            return nn.ReLU()
    """
    source(tmp_path / "lib" / "deep.py", "X = 1")
    source(tmp_path / "elsewhere" / "real.py", "X = 2")
    file = source(tmp_path / "model.py", text)
    (tmp_path / "beside.py").symlink_to(tmp_path / "elsewhere" / "real.py")
    origin: CodeOrigin = {"kind": "code", "where": str(file), "call": "net", "kwargs": {}, "sha256": None}
    gate, before = Gate(tmp_path / "graft.json"), list(sys.path)
    rebuild(origin, replace(gate, trust_code=True))
    assert sys.path == before
    assert sorted(Path(one.path).name for one in trusted()) == ["beside.py", "deep.py", "model.py"]
    for name in ("lib/deep.py", "elsewhere/real.py"):
        kept = (tmp_path / name).read_text()
        source(tmp_path / name, f"from pathlib import Path; Path({str(tmp_path / 'ran')!r}).touch()")
        for module in [one for one in sys.modules if one.endswith("_gated") or one in ("deep", "beside")]:
            del sys.modules[module]
        with pytest.raises(CheckpointError, match="the module"):
            rebuild(origin, gate)
        (tmp_path / name).write_text(kept)
    assert not (tmp_path / "ran").exists()


def test_a_document_gives_a_trusted_factory_numbers_and_names_alone(tmp_path: Path) -> None:
    file = source(tmp_path / "model.py", "from torch import nn\ndef net(path='a'): return nn.ReLU()")
    origin: CodeOrigin = {"kind": "code", "where": str(file), "call": "net", "kwargs": {}, "sha256": None}
    rebuild(origin, Gate(tmp_path / "graft.json", trust_code=True))
    with pytest.raises(CheckpointError, match="the argument `'path'` of '/etc/passwd'"):
        rebuild({**origin, "call": "net(path='/etc/passwd')"}, Gate(tmp_path / "graft.json"))


def test_what_was_compiled_before_is_never_run(tmp_path: Path) -> None:
    source(tmp_path / "layers.py", "WIDTH = 3")
    file = source(tmp_path / "model.py", "from layers import WIDTH\nfrom torch import nn\ndef net(): return nn.ReLU()")
    origin: CodeOrigin = {"kind": "code", "where": str(file), "call": "net", "kwargs": {}, "sha256": None}
    ran, evil = tmp_path / "ran", source(tmp_path / "evil.py", f"open({str(tmp_path / 'ran')!r}, 'w'); WIDTH = 3")
    for name in ("layers", "model"):
        compiled = Path(cache_from_source(str(tmp_path / f"{name}.py")))
        compiled.parent.mkdir(exist_ok=True)
        facts = (tmp_path / f"{name}.py").stat()
        py_compile.compile(str(evil), cfile=str(compiled), doraise=True)
        data = bytearray(compiled.read_bytes())
        data[8:16] = int(facts.st_mtime).to_bytes(4, "little") + facts.st_size.to_bytes(4, "little")
        compiled.write_bytes(data)
    rebuild(origin, Gate(tmp_path / "graft.json", trust_code=True))
    assert not ran.exists()


def test_a_trusted_file_may_be_called_by_the_trusted_name_alone(tmp_path: Path) -> None:
    file = source(tmp_path / "model.py", "from os import system\nfrom torch import nn\ndef net(): return nn.ReLU()")
    origin: CodeOrigin = {"kind": "code", "where": str(file), "call": "net", "kwargs": {}, "sha256": None}
    rebuild(origin, Gate(tmp_path / "graft.json", trust_code=True))
    with pytest.raises(CheckpointError, match="`system` of"):
        rebuild({**origin, "call": "system(command='true')"}, Gate(tmp_path / "graft.json"))


def test_a_changed_file_is_imported_again(file: Path) -> None:
    assert build(f"{file}:small").num_classes == 10
    file.write_text(file.read_text().replace("num_classes=10", "num_classes=12"))
    assert build(f"{file}:small").num_classes == 12


def test_whether_a_factory_made_trained_weights_is_seen_by_making_them_again(tmp_path: Path) -> None:
    text = """
        import torch
        from torch import nn
        def untrained():
            return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        def trained():
            made = untrained()
            made.load_state_dict({name: torch.ones_like(held) for name, held in made.state_dict().items()})
            return made
    """
    path = source(tmp_path / "mine.py", text)
    assert build(f"{path}:trained").weights == Weights(WeightsOrigin.CODE)
    before = torch.get_rng_state()
    assert build(f"{path}:untrained").weights.is_random
    assert torch.equal(torch.get_rng_state(), before)
