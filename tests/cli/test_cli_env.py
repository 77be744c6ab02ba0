"""graftcli env, and the facts it shows: limits of control groups, versions, and broken installs with their fix."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from graftcli.cli import app
from graftcli.environment import examine
from graftcli.environment.installs import explain, faults, versions
from graftcli.environment.machine import cpu, memory, usable_cores

run = CliRunner().invoke
MISFIT = "operator torchvision::nms does not exist"
REINSTALL = "python3 -m pip install --upgrade --force-reinstall torch torchvision"
GB = 10**9


def tree(root: Path, files: dict[str, str]) -> Path:
    """`root`, with these files below it."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


# ---- the command ----


def test_env_shows_this_machine_and_exits_by_its_health() -> None:
    ran = run(app, ["env", "--json"])
    document = json.loads(ran.stdout)
    assert ran.exit_code == (7 if document["faults"] else 0)
    assert document["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    torch = pytest.importorskip("torch")
    assert document["torch"]["threads"] == torch.get_num_threads()
    assert document["torch"]["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert len(document["torch"]["gpus"]) == torch.cuda.device_count()
    assert 1 <= document["cpu"]["cores"] <= (os.cpu_count() or 1)
    assert document["memory"]["total"] is None or 0 < document["memory"]["free"] <= document["memory"]["total"]


def test_env_for_people_names_every_package_with_its_version() -> None:
    rows = [line.split() for line in run(app, ["env"]).stdout.splitlines()]
    for name, version in versions().items():
        assert [name, version or "missing"] in rows
    assert any(row[:1] == ["memory"] for row in rows)


def test_env_survives_a_torchvision_that_does_not_fit_and_says_what_to_type(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    tree(tmp_path, {"torchvision/__init__.py": f"raise RuntimeError({MISFIT!r})"})
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-m", "graftcli", "env", "--json"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 7, ran.stderr
    (fault,) = json.loads(ran.stdout)["faults"]  # timm, which imports torchvision, is not blamed
    known = versions()
    mismatch = f"torchvision {known['torchvision']} is not compatible with torch {known['torch']}"
    assert f"{mismatch}: {MISFIT}" in fault["found"]
    assert fault["fix"] == REINSTALL
    assert json.loads(ran.stderr)["error"] == {"code": 7, "message": fault["found"], "fix": fault["fix"]}


# ---- broken installs ----


@pytest.mark.parametrize(("module", "package"), [("timm", "timm"), ("PIL", "pillow"), ("onnxruntime", "onnxruntime")])
def test_a_missing_package_is_named_as_pip_names_it(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    first, *_ = faults()
    assert first.found.endswith(" not installed.")
    assert package in first.found
    assert package in first.fix.removeprefix("python3 -m pip install ").split()


def test_a_package_that_breaks_in_its_own_way_is_to_be_reinstalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, {"onnxruntime/__init__.py": "raise ImportError('libonnx.so: undefined symbol: abc')"})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    (fault,) = [fault for fault in faults() if "onnxruntime" in fault.found]
    assert fault.found.endswith("cannot be imported: ImportError: libonnx.so: undefined symbol: abc")
    assert fault.fix == "python3 -m pip install --upgrade --force-reinstall onnxruntime"


def test_a_torchvision_that_left_out_its_compiled_part_in_silence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    monkeypatch.setattr(torch.ops, "torchvision", object())
    assert [fault.fix for fault in faults() if MISFIT in fault.found] == [REINSTALL]


def test_a_numpy_that_torch_cannot_use_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")

    def refuse(self: object) -> None:
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr(torch.Tensor, "numpy", refuse)
    (fault,) = [fault for fault in faults() if "numpy" in fault.found]
    assert str(versions()["numpy"]) in fault.found
    assert str(versions()["torch"]) in fault.found
    assert fault.fix == REINSTALL


@pytest.fixture
def idle_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch on a machine with an NVIDIA GPU that it does not see."""
    if os.name != "posix":
        pytest.skip("the stand-in for nvidia-smi is a shell script")
    torch = pytest.importorskip("torch")
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA T4 (UUID: GPU-1234)'\n", encoding="utf-8")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return torch


def test_a_driver_that_is_no_program_names_no_gpu(idle_gpu: object, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_bytes(b"\x00garbage")
    assert not [fault for fault in faults() if "GPU" in fault.found]


def test_a_torch_for_the_cpu_alone_beside_a_gpu_is_found(idle_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle_gpu.version, "cuda", None)
    (fault,) = [fault for fault in faults() if "GPU 0: NVIDIA T4" in fault.found]
    assert "CPU-only build" in fault.found
    assert fault.fix.startswith(REINSTALL)


def test_a_driver_that_is_too_old_for_torch_is_found(idle_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle_gpu.version, "cuda", "99.1")
    (fault,) = [fault for fault in faults() if "GPU 0: NVIDIA T4" in fault.found]
    assert "CUDA 99.1" in fault.found
    assert "driver" in fault.fix


@pytest.mark.usefixtures("idle_gpu")
def test_a_gpu_that_was_hidden_on_purpose_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not [fault for fault in faults() if "T4" in fault.found]


def test_a_torch_that_cannot_be_imported_leaves_the_rest_of_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = examine()
    assert found.torch is None
    assert found.cpu.cores >= 1
    assert "torch" in found.faults[0].fix.removeprefix("python3 -m pip install ").split()


@pytest.mark.parametrize("problem", [ValueError("no"), ModuleNotFoundError("No module named 'mine'", name="mine")])
def test_what_is_no_broken_install_is_not_explained(problem: Exception) -> None:
    assert explain(problem) is None


# ---- the limits of this process ----

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000 kB\nMemAvailable:   12000000 kB\nHugePages_Total:   0\n"


def test_without_control_groups_the_machine_is_the_limit(tmp_path: Path) -> None:
    seen = memory(tree(tmp_path, {"proc/meminfo": MEMINFO}))
    assert (seen.total, seen.free) == (16_000_000 * 1024, 12_000_000 * 1024)
    if hasattr(os, "sched_getaffinity"):
        assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_a_control_group_of_version_2_limits_with_all_groups_around_it(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/pod/"
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/pod/box\n",
        f"{group}box/memory.max": "max\n",
        f"{group}box/memory.current": f"{3 * GB}\n",
        f"{group}memory.max": f"{4 * GB}\n",
        f"{group}memory.current": f"{3 * GB}\n",
        f"{group}memory.stat": f"anon {GB}\ninactive_file {2 * GB}\n",
        f"{group}box/cpu.max": "150000 100000\n",
        f"{group}cpu.max": "max 100000\n",
    }
    seen = memory(tree(tmp_path, files))
    assert (seen.total, seen.free) == (4 * GB, 3 * GB)  # files that are only cached can be had back
    assert usable_cores(tmp_path) == 1


def test_a_control_group_of_version_1_limits_where_its_folder_is_mounted_as_the_root(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3 * GB}\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    seen = memory(tree(tmp_path, files))
    assert (seen.total, seen.free) == (2 * GB, 0)
    assert usable_cores(tmp_path) == 1  # half a core is still one thread


def test_a_quota_above_the_cores_does_not_add_any(tmp_path: Path) -> None:
    tree(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "99900000 100000\n"})
    assert usable_cores(tmp_path) == usable_cores(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("text", "name", "features"),
    [
        (
            "model name\t: Some Xeon\nflags\t\t: fpu avx2 avx512_vnni amx_int8\n",
            "Some Xeon",
            ("avx2", "avx512_vnni", "amx_int8"),
        ),
        ("BogoMIPS\t: 100\nFeatures\t: fp asimddp i8mm bf16\n", None, ("asimddp", "i8mm", "bf16")),
    ],
)
def test_the_processor_tells_what_makes_networks_fast(
    text: str, name: str | None, features: tuple[str, ...], tmp_path: Path
) -> None:
    seen = cpu(tree(tmp_path, {"proc/cpuinfo": text}))
    assert seen.features == features
    assert seen.name == name if name else seen.name  # else the system's word, whatever it is
