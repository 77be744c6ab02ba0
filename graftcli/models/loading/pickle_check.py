"""What the pickles of a file would build, and which functions and classes they name, found without loading them."""

import gc
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from torch.serialization import MAGIC_NUMBER

from graftcli.models.loading.file_bounds import MOST_PICKLE, damaged, too_much
from graftcli.models.loading.pickle_machine import Machine, NotTorch, TooMuch


def check_pickles(file: Path, data: bytes | None) -> None:
    """Refuse a file whose pickles would take too much memory or time. Nothing is built, nothing named is loaded.

    Without `data` they are the five of an old file of torch.save: a number, a version, the machine, the value, and the
    names of the tensors' data. Memory that no data is read into would hold what happened to lie there.
    """
    machine = Machine()
    collects = gc.isenabled()
    gc.disable()  # it would look through millions of values again and again
    try:
        if data is not None:
            machine.run(pickletools.genops(data))
            return
        with file.open("rb") as stream:
            limited: Any = _Limited(stream)
            if machine.run(pickletools.genops(limited)) != MAGIC_NUMBER:
                return
            for _ in range(3):
                machine.run(pickletools.genops(limited))
            filled = {str(argument) for _, argument, _ in pickletools.genops(limited)}
    except TooMuch as much:
        too_much(file, str(much))
    except NotTorch:
        return  # torch refuses it, at that place and by its name
    except Exception as err:
        raise damaged(file, err) from err
    finally:
        if collects:
            gc.enable()
    if machine.storages - filled:
        raise damaged(file, ValueError("it names tensors whose data it does not list"))


class _Limited:
    """A stream of which at most `MOST_PICKLE` bytes are read, and never more at once than there are."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.left = stream, MOST_PICKLE

    def read(self, count: int) -> bytes:
        return self._counted(self.stream.read(min(count, self.left)), count)

    def readline(self) -> bytes:
        return self._counted(self.stream.readline(self.left + 1), 0)

    def _counted(self, data: bytes, wanted: int) -> bytes:
        self.left -= len(data)
        if self.left < 0 or (len(data) < wanted and not self.left):
            raise TooMuch(f"it has more than {MOST_PICKLE:,} bytes before any tensor")
        return data


def globals_in(file: Path) -> set[str]:
    """The names of all functions and classes that the pickles of a file would load; none of them is loaded."""
    found: set[str] = set()
    try:
        with _pickles_of(file) as stream:
            while True:
                found.update(_globals(stream))
    except Exception:  # the end of the pickles: tensors' bytes, or damage
        return found


def _pickles_of(file: Path) -> IO[bytes]:
    if not zipfile.is_zipfile(file):
        return file.open("rb")
    archive = zipfile.ZipFile(file)
    return archive.open(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _globals(stream: IO[bytes]) -> Iterator[str]:
    """The names that the next pickle of a stream loads: by GLOBAL, or by STACK_GLOBAL from two strings before it."""
    strings: list[str] = []
    for op, argument, _ in pickletools.genops(stream):
        if op.name == "GLOBAL":
            yield str(argument).replace(" ", ".").replace("__builtin__", "builtins")
        elif op.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif isinstance(argument, str):
            strings.append(argument)
