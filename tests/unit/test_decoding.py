"""Files are decoded in order, a few at a time, and a fault of one file does not affect another."""

import subprocess
import sys
import threading
import time
from pathlib import PurePosixPath

import pytest

from graftcli.images.decoding import Broken, File, process_files
from graftcli.images.headers import TimedStream
from graftcli.images.limits import Allowance, Limits, MemoryBudget
from graftcli.images.refusal import Refused
from graftcli.images.sources import Entry


def entry(name: str, data: bytes = b"x") -> Entry:
    return Entry(name, lambda: data)


def refused() -> bytes:
    raise Refused("it is locked")


def test_results_come_in_the_order_of_the_entries_whatever_takes_longest() -> None:
    late = threading.Event()

    def work(file: File) -> str:
        if file.row == 0:
            assert late.wait(10)
        if file.row == 3:
            late.set()
        return file.name

    names = [f"{i}.png" for i in range(20)]
    assert list(process_files([entry(name) for name in names], work, jobs=4)) == names


def test_only_a_few_files_are_read_ahead() -> None:
    opened: list[str] = []

    def reading(name: str) -> Entry:
        return Entry(name, lambda: opened.append(name) or b"x")  # type: ignore[func-returns-value]

    results = process_files([reading(str(i)) for i in range(100)], lambda file: file.row, jobs=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(opened) <= 3 + 2 * 2
    results.close()


def test_a_file_that_cannot_be_used_is_named_with_the_reason() -> None:
    def work(file: File) -> str:
        if PurePosixPath(file.name).stem == "bad":
            raise ValueError("odd bytes")
        return file.name

    entries = [entry("a.png"), entry("bad.png"), entry("b.heic"), Entry("c.png", refused), entry("empty/bad.png", b"")]
    found = list(process_files(entries, work, jobs=1))
    assert found[0] == "a.png"
    assert found[1:] == [
        Broken("bad.png", "its data is damaged (ValueError: odd bytes)"),
        Broken("b.heic", "this format is not supported: convert it to PNG or JPEG"),
        Broken("c.png", "it is locked"),
        Broken("empty/bad.png", "the file is empty"),
    ]


def test_an_image_for_which_memory_runs_out_is_tried_alone_and_then_named() -> None:
    tries: list[str] = []

    def work(file: File) -> str:
        tries.append(file.name)
        if file.name == "b.png" or (file.name == "a.png" and tries.count("a.png") < 2):
            raise MemoryError
        with file.allowance.reserve(file.allowance.available):
            return file.name

    found = list(process_files([entry(name) for name in ("a.png", "b.png", "c.png")], work, jobs=2, limits=Limits()))
    assert (found[0], found[2], tries.count("b.png")) == ("a.png", "c.png", 2)
    assert isinstance(found[1], Broken) and "ran out of memory" in found[1].reason


def test_memory_that_runs_out_while_a_file_is_read_is_not_the_end() -> None:
    tries: list[str] = []

    def reading(name: str) -> Entry:
        def read() -> bytes:
            tries.append(name)
            if name == "b.png" or tries.count(name) < 2:
                raise MemoryError
            return b"x"

        return Entry(name, read)

    found = list(process_files([reading("a.png"), reading("b.png")], lambda file: file.name))
    assert found[0] == "a.png" and isinstance(found[1], Broken) and "ran out of memory" in found[1].reason


def test_a_decoder_that_hangs_is_abandoned_and_the_others_continue() -> None:
    hanging = threading.Event()

    def work(file: File) -> str:
        if file.name.startswith("hang"):
            with file.allowance.reserve(file.allowance.available // 2):
                hanging.wait(60)
        return file.name

    names = ["hang1.png", "a.png", "hang2.png", "b.png", "c.png"]
    began = time.monotonic()
    found = list(process_files([entry(name) for name in names], work, jobs=2, limits=Limits(MemoryBudget(100), 0.1)))
    hanging.set()
    assert time.monotonic() - began < 10
    assert found[1::2] == ["a.png", "b.png"] and found[4] == "c.png"
    assert found[0] == Broken("hang1.png", "decoding it takes more than 0.1 s")


def test_a_hanging_decoder_does_not_keep_the_interpreter_from_ending() -> None:
    script = """
import time
from graftcli.images.decoding import process_files
from graftcli.images.limits import Limits
from graftcli.images.sources import Entry
print(list(process_files([Entry("a.png", lambda: b"x")], lambda file: time.sleep(600), limits=Limits(seconds=0.1))))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "takes more than 0.1 s" in found.stdout and not found.stderr


def test_a_decoder_that_reads_is_stopped_when_its_time_is_over() -> None:
    allowance = Allowance(Limits(seconds=0.0))
    with pytest.raises(Refused, match="takes more than 0 s"):
        TimedStream(b"x" * 10, allowance).read(1)


def test_threads_wait_for_the_shared_memory_budget() -> None:
    budget, held, most = MemoryBudget(100), 0, 0
    lock = threading.Lock()

    def work(file: File) -> int:
        nonlocal held, most
        need = 40 + file.row
        with file.allowance.reserve(need):
            with lock:
                held += need
                most = max(most, held)
            time.sleep(0.01)
            with lock:
                held -= need
        return file.row

    found = list(process_files([entry(str(i)) for i in range(20)], work, jobs=8, limits=Limits(budget)))
    assert found == list(range(20)) and most <= 100


def test_what_exceeds_the_whole_budget_is_refused_with_both_sizes() -> None:
    with (
        pytest.raises(Refused, match=r"needs 3 MiB of memory; the limit is 2 MiB"),
        Allowance(Limits(MemoryBudget(2 * 2**20))).reserve(3 * 2**20),
    ):
        pass


def test_few_bytes_are_read_ahead() -> None:
    read: list[str] = []

    def reading(name: str) -> Entry:
        return Entry(name, lambda: read.append(name) or bytes(100 * 2**20))  # type: ignore[func-returns-value]

    results = process_files([reading(str(i)) for i in range(10)], lambda file: file.row, jobs=8)
    assert next(results) == 0 and len(read) <= 2
    results.close()
