"""Benchmarks: every runtime gives the same answers and is timed in the same way."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from graftcli.errors import CheckpointError
from graftcli.images.pixels import Preprocess
from graftcli.measure import latency
from graftcli.measure.benchmark import BenchImages, benchmark, candidate_logits, entries_as_json
from graftcli.measure.candidate import Candidate, module_candidate
from graftcli.measure.latency import measure_latencies
from graftcli.measure.onnx.session import onnx_candidate
from tests.nets import randomise
from tests.tiny_onnx import Tiny, write

PREPROCESS = Preprocess((16, 16), 3, (0.0,) * 3, (1.0,) * 3, 1.0, "bilinear")  # what a graph that divides by 255 sees


@pytest.fixture
def tiny() -> Tiny:
    torch.manual_seed(0)
    return randomise(Tiny()).eval()


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def rungs(tiny: Tiny, folder: Path) -> list[Candidate]:
    files = [
        write(folder / "fp32.onnx", tiny),
        write(folder / "fp16.onnx", tiny, kind="float16"),
        write(folder / "static.onnx", tiny, batch=4),
        write(folder / "pixels.onnx", tiny, kind="uint8", channels_last=True),
    ]
    return [module_candidate("teacher", tiny, (3, 16, 16)), *(onnx_candidate(file, 1) for file in files)]


def test_one_network_in_all_forms_agrees_with_itself(tiny: Tiny, pixels: Tensor, tmp_path: Path) -> None:
    labels = tiny(pixels / 255).argmax(1)
    found = benchmark(rungs(tiny, tmp_path), BenchImages(pixels, PREPROCESS, labels), batch=4, seconds=0)
    assert [(one.name, one.format, one.precision) for one in found] == [
        ("teacher", "pytorch", "fp32"),
        ("fp32.onnx", "onnx", "fp32"),
        ("fp16.onnx", "onnx", "fp16"),
        ("static.onnx", "onnx", "fp32"),
        ("pixels.onnx", "onnx", "fp32"),
    ]
    assert all(one.agreement == 1 and one.top1 == 1 and one.images == 10 for one in found)
    assert len({one.macs for one in found}) == 1


def test_each_candidate_is_timed_at_the_batch_sizes_it_accepts(tiny: Tiny, pixels: Tensor, tmp_path: Path) -> None:
    found = {
        one.name: one for one in benchmark(rungs(tiny, tmp_path), BenchImages(pixels, PREPROCESS), batch=4, seconds=0)
    }
    assert set(found["teacher"].latency_ms) == {"1", "4"}
    assert set(found["static.onnx"].latency_ms) == {"4"}
    assert found["teacher"].ratio == 1 and found["static.onnx"].ratio is None
    speed = 1e3 * 4 / found["static.onnx"].latency_ms["4"].median
    assert found["static.onnx"].images_per_second == pytest.approx(speed)


def test_a_candidate_in_another_process_is_timed_by_its_own_clock() -> None:
    assert measure_latencies({"far": lambda: 0.5}, seconds=0)["far"].median == 500


def test_logits_are_one_row_for_each_image(pixels: Tensor) -> None:
    class Averaging(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mean(0)

    with pytest.raises(CheckpointError, match="`x` returns 5 for 10 images; logits are 10xclasses"):
        candidate_logits(module_candidate("x", Averaging(), (3, 16, 16)), pixels, PREPROCESS)


def test_threads_are_pinned_while_it_runs_and_given_back(tiny: Tiny, pixels: Tensor) -> None:
    seen: list[int] = []

    class Watching(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return super().forward(x)

    rung = module_candidate("x", Watching(), (3, 16, 16))
    seen.clear()
    before = torch.get_num_threads()
    (found,) = benchmark([rung], BenchImages(pixels, PREPROCESS), batch=1, threads=3, seconds=0)
    assert set(seen) == {3} and found.threads == 3
    assert torch.get_num_threads() == before


def test_on_noise_only_time_is_measured(tiny: Tiny, pixels: Tensor) -> None:
    (found,) = benchmark(
        [module_candidate("x", tiny, (3, 16, 16))], BenchImages(pixels, PREPROCESS, noise=True), batch=2, seconds=0
    )
    assert (found.agreement, found.top1, found.images) == (None, None, 0)
    assert set(found.latency_ms) == {"1", "2"}


def test_networks_of_other_classes_are_not_compared(tiny: Tiny, pixels: Tensor) -> None:
    others = [module_candidate("a", tiny, (3, 16, 16)), module_candidate("b", Tiny(classes=7), (3, 16, 16))]
    found = benchmark(others, BenchImages(pixels, PREPROCESS), batch=1, seconds=0)
    assert (found[0].agreement, found[1].agreement) == (1, None)


def test_measuring_changes_no_weight(tiny: Tiny, pixels: Tensor) -> None:
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    benchmark([module_candidate("x", tiny, (3, 16, 16))], BenchImages(pixels, PREPROCESS), batch=2, seconds=0)
    assert all(torch.equal(before[name], value) for name, value in tiny.state_dict().items())


def test_the_document_is_plain(tiny: Tiny, pixels: Tensor) -> None:
    (found,) = entries_as_json(
        benchmark([module_candidate("x", tiny, (3, 16, 16))], BenchImages(pixels, PREPROCESS), batch=2, seconds=0)
    )
    assert set(found["latency_ms"]["2"]) == {"median", "p95", "runs"}
    assert found["bytes"] == 4 * found["params"]


def test_a_file_that_takes_no_images_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "torn.onnx").write_bytes(write(tmp_path / "x.onnx", tiny).read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"torn\.onnx"):
        onnx_candidate(tmp_path / "torn.onnx", 1)


def test_candidates_take_turns_and_run_equally_often() -> None:
    ran: list[str] = []
    found = measure_latencies({name: (lambda name=name: ran.append(name)) for name in "ab"}, seconds=0)  # type: ignore[misc]
    warm, measured = ran[: 2 * latency._WARM_UP], ran[2 * latency._WARM_UP :]
    assert warm == ["a"] * latency._WARM_UP + ["b"] * latency._WARM_UP
    turn = ["a"] * latency._RUNS_PER_TURN + ["b"] * latency._RUNS_PER_TURN
    assert measured == turn * latency._MIN_TURNS
    assert found["a"].runs == found["b"].runs == (latency._RUNS_PER_TURN - 1) * latency._MIN_TURNS


def test_the_median_is_below_the_tail_and_the_slower_work_is_slower() -> None:
    def slow() -> None:
        sum(range(200_000))

    found = measure_latencies({"slow": slow, "quick": lambda: None}, seconds=0.01)
    assert found["slow"].median > 10 * found["quick"].median
    assert all(one.median <= one.p95 for one in found.values())


def test_progress_rises_to_one() -> None:
    progress: list[float] = []
    measure_latencies({"a": lambda: None}, seconds=0.05, on_progress=progress.append)
    assert progress == sorted(progress) and progress[0] == 0 and progress[-1] == 1
