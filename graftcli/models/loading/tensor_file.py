"""Safetensors files with a digest, which is verified before a file is used.

data = serialized(tensors, facts)      digest and facts are stored under one metadata key
read(path) -> tensors, facts           raises Damaged if any byte has changed
facts_of(path) -> facts                reads the header only
"""

import errno
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from torch import Tensor

from graftcli.errors import CheckpointError

_METADATA_KEY = "graftcli"  # a single key, because safetensors does not fix the order of several
_NO_DIGEST = "0" * 64  # placeholder for the digest while it is computed
_DIGEST = re.compile(rb'"graftcli":"\{\\"digest\\": \\"([0-9a-f]{64})\\"')
_CHUNK = 2**22
_MAX_HEADER = 2**27  # bytes; safetensors' limit is 100 MB
_FIX = "Run the command that wrote it again, or copy the file again."


class Damaged(CheckpointError):
    """A file differs from what graftcli wrote."""


def serialized(tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> bytes:
    """Serialize tensors and facts as safetensors; equal inputs give equal bytes."""
    fields = json.dumps(facts, sort_keys=True).removeprefix("{")
    body = f'{{"digest": "{_NO_DIGEST}"{", " if facts else ""}{fields}'
    data = bytearray(safetensors.torch.save(_independent(tensors), {_METADATA_KEY: body}))
    match = _DIGEST.search(data)
    assert match is not None  # the body above contains it
    data[match.start(1) : match.end(1)] = digest_of(data).encode()
    return bytes(data)


def digest_of(data: bytes | bytearray) -> str:
    """The SHA-256 of the data as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _independent(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory."""
    seen, copies = set(), {}
    for name, tensor in tensors.items():
        packed = tensor.detach().cpu().contiguous()
        memory = packed.untyped_storage().data_ptr()
        copies[name] = packed.clone() if memory in seen else packed
        seen.add(memory)
    return copies


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
    """Read all tensors and facts of a graftcli file, after verifying its digest."""
    check(path)
    with _read_errors(path), safe_open(path, "pt") as file:
        # cloned, because the memory alignment of a mapped tensor can change the last bit of a sum
        return {name: file.get_tensor(name).clone() for name in file.keys()}, _facts(file.metadata())  # noqa: SIM118


def facts_of(path: Path) -> dict[str, JsonValue]:
    """Read only the facts."""
    with _read_errors(path), safe_open(path, "pt") as file:
        return _facts(file.metadata())


def is_written(path: Path) -> bool:
    """Whether graftcli wrote this file."""
    try:
        with _regular_file(path), safe_open(path, "pt") as file:
            return _METADATA_KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False  # another format, or damage that reading the weights reports


def check(path: Path) -> None:
    """Verify the digest of a file; raises Damaged if any byte has changed."""
    with _read_errors(path), path.open("rb") as file:
        size = int.from_bytes(start := file.read(8), "little")
        if size > _MAX_HEADER:
            raise ValueError(f"its header declares {size:,} bytes")
        header = bytearray(start + file.read(size))
        match = _DIGEST.search(header)
        if match is None:
            raise ValueError("its header has no digest")
        expected = match[1].decode()
        header[match.start(1) : match.end(1)] = _NO_DIGEST.encode()
        digest = hashlib.sha256(header)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        if digest.hexdigest() != expected:
            raise ValueError(f"its sha256 is {digest.hexdigest()[:12]}…, expected {expected[:12]}…")


def _facts(metadata: Mapping[str, str] | None) -> dict[str, JsonValue]:
    facts = json.loads((metadata or {})[_METADATA_KEY])
    if not isinstance(facts, dict):
        raise TypeError(f"its metadata is a {type(facts).__name__}")
    facts.pop("digest", None)
    return facts


@contextmanager
def _regular_file(path: Path) -> Iterator[None]:
    """Refuse special files: opening a pipe blocks."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file")
    yield


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        with _regular_file(path):
            yield
    except OSError as err:
        raise CheckpointError(f"`{path}` cannot be read: {err.strerror or err}.", _FIX) from err
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as err:
        reason = str(err) if type(err) is ValueError else f"{type(err).__name__}: {err}"
        raise Damaged(f"`{path}` is damaged or was not written by graftcli: {reason.rstrip('.')}.", _FIX) from err
