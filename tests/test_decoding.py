"""Files through one function: in order, few at a time, and no file's fault is another's."""

import threading
from pathlib import PurePosixPath

import pytest

from graftcli.errors import MachineError
from graftcli.images.decoding import Broken, File, each
from graftcli.images.sources import Entry, Refused


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
    assert list(each([entry(name) for name in names], work, jobs=4)) == names


def test_only_a_few_files_are_read_ahead() -> None:
    opened: list[str] = []

    def reading(name: str) -> Entry:
        return Entry(name, lambda: opened.append(name) or b"x")  # type: ignore[func-returns-value]

    results = each([reading(str(i)) for i in range(100)], lambda file: file.row, jobs=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(opened) <= 3 + 2 * 2
    results.close()  # type: ignore[attr-defined]


def test_a_file_that_cannot_be_used_is_named_with_the_reason() -> None:
    def work(file: File) -> str:
        if PurePosixPath(file.name).stem == "bad":
            raise ValueError("odd bytes")
        return file.name

    entries = [entry("a.png"), entry("bad.png"), entry("b.heic"), Entry("c.png", refused), entry("empty/bad.png", b"")]
    found = list(each(entries, work, jobs=1))
    assert found[0] == "a.png"
    assert found[1:] == [
        Broken("bad.png", "its data is damaged (ValueError: odd bytes)"),
        Broken("b.heic", "this kind of file is not read: convert it to PNG or JPEG"),
        Broken("c.png", "it is locked"),
        Broken("empty/bad.png", "the file is empty"),
    ]


def test_too_little_memory_ends_the_work() -> None:
    def work(file: File) -> str:
        raise MemoryError

    with pytest.raises(MachineError, match=r"a\.png"):
        list(each([entry("a.png")], work))
