"""Check the pickles of a file without loading them: memory, time, and the functions and classes they name."""

import gc
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from torch.serialization import MAGIC_NUMBER

from graftcli.models.loading.file_bounds import MAX_PICKLE, damaged, raise_over_limit
from graftcli.models.loading.pickle_machine import NotSupportedByTorch, OverLimit, PickleSimulator


def check_pickles(file: Path, data: bytes | None) -> None:
    """Refuse a file whose pickles would take too much memory or time; nothing is loaded.

    `data` is the pickle of a zip checkpoint. Without it the file has the legacy format of torch.save, five pickles:
    magic number, version, system info, value, and storage keys. A tensor whose storage is not listed would expose
    uninitialised memory, and is refused.
    """
    simulator = PickleSimulator()
    gc_was_enabled = gc.isenabled()
    gc.disable()  # it would scan millions of values repeatedly
    try:
        if data is not None:
            simulator.run(pickletools.genops(data))
            return
        with file.open("rb") as stream:
            limited = cast(IO[bytes], _Limited(stream))  # genops calls only read and readline
            if simulator.run(pickletools.genops(limited)) != MAGIC_NUMBER:
                return
            for _ in range(3):
                simulator.run(pickletools.genops(limited))
            stored_keys = {str(argument) for _, argument, _ in pickletools.genops(limited)}
    except OverLimit as error:
        raise_over_limit(file, str(error))
    except NotSupportedByTorch:
        return  # torch refuses it with a precise error
    except Exception as err:
        raise damaged(file, err) from err
    finally:
        if gc_was_enabled:
            gc.enable()
    if simulator.storages - stored_keys:
        raise damaged(file, ValueError("it refers to tensors whose data it does not contain"))


class _Limited:
    """A stream that reads at most `MAX_PICKLE` bytes, and never more than the file holds."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.left = stream, MAX_PICKLE

    def read(self, count: int) -> bytes:
        return self._counted(self.stream.read(min(count, self.left)), count)

    def readline(self) -> bytes:
        return self._counted(self.stream.readline(self.left + 1), 0)

    def _counted(self, data: bytes, requested: int) -> bytes:
        self.left -= len(data)
        if self.left < 0 or (len(data) < requested and not self.left):
            raise OverLimit(f"it has more than {MAX_PICKLE:,} bytes before any tensor")
        return data


def globals_in(file: Path) -> set[str]:
    """The names of all functions and classes that the pickles of a file refer to; none is loaded."""
    names: set[str] = set()
    try:
        with _pickles_of(file) as stream:
            while True:
                names.update(_globals(stream))
    except Exception:  # the end of the pickles: tensor data, or damage
        return names


def _pickles_of(file: Path) -> IO[bytes]:
    if not zipfile.is_zipfile(file):
        return file.open("rb")
    archive = zipfile.ZipFile(file)
    return archive.open(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _globals(stream: IO[bytes]) -> Iterator[str]:
    """The names that the next pickle refers to: by GLOBAL, or by STACK_GLOBAL from the two preceding strings."""
    strings: list[str] = []
    for op, argument, _ in pickletools.genops(stream):
        if op.name == "GLOBAL":
            yield str(argument).replace(" ", ".").replace("__builtin__", "builtins")
        elif op.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif isinstance(argument, str):
            strings.append(argument)
