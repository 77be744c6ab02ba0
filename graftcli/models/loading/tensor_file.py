"""Safetensors files with a digest: a file that graftcli wrote is checked, every byte of it, before it is used.

data = serialized(tensors, facts)      the digest and the facts are one key of the file's metadata
read(path) -> tensors, facts           raises Damaged where a byte differs from what was written
facts_of(path) -> facts                the header alone; the tensors' bytes are not looked at
"""

import errno
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from graftcli.errors import CheckpointError

METADATA_KEY = "graftcli"  # one key alone: safetensors writes several in no fixed order
_EMPTY = "0" * 64  # stands for the digest while it is computed
_DIGEST = re.compile(rb'"graftcli":"\{\\"digest\\": \\"([0-9a-f]{64})\\"')
_PIECE = 2**22
_MOST_HEADER = 2**27  # bytes; safetensors itself takes 100 MB at most
_FIX = "Run the command that made it again, or copy the file again from where it came."


class Damaged(CheckpointError):
    """A file differs from what graftcli wrote."""


def serialized(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """A safetensors file with the facts in its metadata; the same tensors and facts give the same bytes."""
    rest = json.dumps(facts, sort_keys=True).removeprefix("{")
    body = f'{{"digest": "{_EMPTY}"{", " if facts else ""}{rest}'
    data = bytearray(safetensors.torch.save(_apart(tensors), {METADATA_KEY: body}))
    found = _DIGEST.search(data)
    assert found is not None  # it was written just now
    data[found.start(1) : found.end(1)] = digest_of(data).encode()
    return bytes(data)


def digest_of(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors contiguous, on the CPU, none in the memory of another."""
    seen, found = set(), {}
    for name, tensor in tensors.items():
        packed = tensor.detach().cpu().contiguous()
        memory = packed.untyped_storage().data_ptr()
        found[name] = packed.clone() if memory in seen else packed
        seen.add(memory)
    return found


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors and facts of a file that graftcli wrote."""
    check(path)
    with _reading(path), safe_open(path, "pt") as file:
        # copies: what lies in the file is aligned as it happens to be, on which the last bit of a sum can depend
        return {name: file.get_tensor(name).clone() for name in file.keys()}, _facts(file)  # noqa: SIM118


def facts_of(path: Path) -> dict[str, Any]:
    """The facts alone, whatever the size of the tensors."""
    with _reading(path), safe_open(path, "pt") as file:
        return _facts(file)


def is_written(path: Path) -> bool:
    """Whether graftcli wrote this file."""
    try:
        with _plain(path), safe_open(path, "pt") as file:
            return METADATA_KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False  # another kind of file, or damage that reading the weights reports


def check(path: Path) -> None:
    """Every byte of the file is what graftcli wrote."""
    with _reading(path), path.open("rb") as file:
        size = int.from_bytes(start := file.read(8), "little")
        if size > _MOST_HEADER:
            raise ValueError(f"its header says that it has {size:,} bytes")
        header = bytearray(start + file.read(size))
        found = _DIGEST.search(header)
        if found is None:
            raise ValueError("its header holds no digest")
        written = found[1].decode()
        header[found.start(1) : found.end(1)] = _EMPTY.encode()
        digest = hashlib.sha256(header)
        while piece := file.read(_PIECE):
            digest.update(piece)
        if digest.hexdigest() != written:
            raise ValueError(f"its sha256 is {digest.hexdigest()[:12]}…, {written[:12]}… was written")


def _facts(file: Any) -> dict[str, Any]:
    facts = json.loads(file.metadata()[METADATA_KEY])
    if not isinstance(facts, dict):
        raise TypeError(f"its metadata is a {type(facts).__name__}")
    facts.pop("digest", None)
    return facts


@contextmanager
def _plain(path: Path) -> Iterator[None]:
    """A file that can be read to its end: to open a pipe would wait for its writer."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no plain file")
    yield


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        with _plain(path):
            yield
    except OSError as err:
        raise CheckpointError(f"`{path}` cannot be read: {err.strerror or err}.", _FIX) from err
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as err:
        reason = str(err) if type(err) is ValueError else f"{type(err).__name__}: {err}"
        raise Damaged(f"`{path}` is damaged, or graftcli did not write it: {reason.rstrip('.')}.", _FIX) from err
