"""Checkpoints made by code from a seed: damaged ones, and ones that would take all memory or never end.

damaged(data, "zip", seed)      a whole file's bytes -> the damage's name and the damaged bytes
BOMBS["nested tuples"](path)    writes one hostile file
"""

import io
import json
import pickle
import pickletools
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

Damage = Callable[[bytearray, random.Random], str]
FORMATS = ("zip", "legacy", "safetensors", "tar")  # "tar" is a zip archive of torch.save under the name of a tar


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights of a small network, in several kinds of numbers."""
    generator = torch.Generator().manual_seed(seed)
    made = {
        f"layer{i}.{name}": torch.randn(*shape, generator=generator)
        for i in range(4)
        for name, shape in (("weight", (16, 8, 3, 3)), ("bias", (16,)))
    }
    return made | {
        "half": made["layer0.bias"].half(),
        "seen": torch.tensor(7),
        "flags": torch.ones(5, dtype=torch.bool),
    }


def whole(format: str, held: dict[str, torch.Tensor]) -> bytes:
    """The bytes of a sound checkpoint."""
    if format == "safetensors":
        return safetensors.torch.save(held, {"note": "made for a test"})
    stream = io.BytesIO()
    torch.save(held, stream, _use_new_zipfile_serialization=format != "legacy")
    return stream.getvalue()


def name_of(format: str) -> str:
    """The file name that belongs to a format."""
    return {"safetensors": "w.safetensors", "tar": "w.pth.tar"}.get(format, "w.pth")


# ---- damage ----


def damaged(data: bytes, format: str, seed: int) -> tuple[str, bytes]:
    """One damage of a file, chosen by the seed."""
    draw, held = random.Random(seed), bytearray(data)
    kinds: list[Damage] = [_bit, _bits, _truncated, _zeroed, _noise, _swapped, _doubled, _header]
    kinds += {"safetensors": [_edited], "legacy": [_edited]}.get(format, [_edited, _directory])
    name = draw.choice(kinds)(held, draw)
    return name, bytes(held)


def _bit(held: bytearray, draw: random.Random) -> str:
    held[draw.randrange(len(held))] ^= 1 << draw.randrange(8)
    return "one bit"


def _bits(held: bytearray, draw: random.Random) -> str:
    for _ in range(draw.randint(2, 40)):
        _bit(held, draw)
    return "bits"


def _truncated(held: bytearray, draw: random.Random) -> str:
    del held[draw.randrange(len(held)) :]
    return "cut short"


def _zeroed(held: bytearray, draw: random.Random) -> str:
    """A page of the disk that was never written."""
    size = draw.choice([64, 512, 4096])
    start = draw.randrange(0, len(held), size)
    end = min(start + size, len(held))
    held[start:end] = bytes(end - start)
    return "zeroed page"


def _noise(held: bytearray, draw: random.Random) -> str:
    start = draw.randrange(len(held))
    end = min(start + draw.randint(1, 600), len(held))
    held[start:end] = draw.randbytes(end - start)
    return "noise"


def _swapped(held: bytearray, draw: random.Random) -> str:
    """Two stretches of the file in each other's place, as large as the weights of a layer."""
    size = draw.choice([64, 512, 16 * 8 * 9 * 4])
    first, second = sorted(draw.sample(range(0, max(2, len(held) - 2 * size), 2), 2))
    second = max(second, first + size)
    one, two = bytes(held[first : first + size]), bytes(held[second : second + size])
    held[first : first + len(two)], held[second : second + len(two)] = two, one[: len(two)]
    return "swapped"


def _doubled(held: bytearray, draw: random.Random) -> str:
    """Bytes that lie in the file twice, so that all behind them are moved."""
    start = draw.randrange(len(held))
    held[start:start] = held[start : start + draw.randint(1, 64)]
    return "moved"


def _header(held: bytearray, draw: random.Random) -> str:
    """A byte of what describes the tensors: the first kilobyte of a file."""
    held[draw.randrange(min(1024, len(held)))] = draw.randrange(256)
    return "first kilobyte"


def _edited(held: bytearray, draw: random.Random) -> str:
    """A digit or letter of a name or number, so that it still reads well."""
    places = [i for i, byte in enumerate(held[:4096]) if chr(byte).isalnum()]
    held[draw.choice(places)] = ord(draw.choice("0123456789abcdef"))
    return "edited text"


def _directory(held: bytearray, draw: random.Random) -> str:
    """A byte of an archive's list of members, at its end."""
    held[len(held) - 1 - draw.randrange(min(900, len(held)))] = draw.randrange(256)
    return "list of members"


# ---- bombs ----


def archive(path: Path, pickled: bytes, members: dict[str, bytes] | None = None, deflated: bool = False) -> None:
    """An archive as torch.save writes it, with this pickle and these members under `data/`."""
    kind = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as made:
        made.writestr("a/data.pkl", pickled)
        made.writestr("a/byteorder", b"little")
        for name, data in (members or {}).items():
            made.writestr(f"a/data/{name}", data)
        made.writestr("a/version", b"3\n")


def _packed(path: Path, where: str) -> None:
    """1.2 GB of zeros in a member of a megabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        for name in ("a/data.pkl", "a/byteorder", "a/data/0", "a/version"):
            with made.open(name, "w", force_zip64=True) as stream:
                if name == where:
                    for _ in range(1200):
                        stream.write(bytes(1_000_000))
                else:
                    stream.write(_tensor(300_000_000) if name.endswith("pkl") else b"little")


def _tensor(numbers: int, shape: bytes | None = None, strides: bytes | None = None, key: str = "0") -> bytes:
    """The pickle of {"w": one tensor of torch.save}, whose storage declares this many `numbers`."""
    shape, strides = shape or _long(numbers) + b"\x85", strides or _long(1) + b"\x85"
    storage = b"((" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(key) + _text("cpu") + _long(numbers) + b"tQ"
    built = b"ctorch._utils\n_rebuild_tensor_v2\n" + storage + _long(0) + shape + strides + b"\x89}tR"
    return b"\x80\x02}" + _text("w") + built + b"s."


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _long(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def _sized(*sides: int) -> bytes:
    return b"(" + b"".join(map(_long, sides)) + b"t"


def _of(pickled: bytes | Callable[[], bytes], **members: bytes) -> Callable[[Path], None]:
    """What writes an archive with this pickle; one of many megabytes is made on demand."""
    return lambda path: archive(path, pickled() if callable(pickled) else pickled, members)


def _pairs(count: int, end: bytes) -> bytes:
    """A tuple that holds one tuple twice, and so on: small to keep, endless to hash."""
    return b"\x80\x02})" + b"".join(b"q\x01h\x01\x86" for _ in range(count)) + end


def _called(function: str, arguments: bytes, times: int = 1) -> bytes:
    module, _, name = function.rpartition(".")
    return b"\x80\x02]" + (f"c{module}\n{name}\n".encode() + arguments + b"Ra") * times + b"."


def _many_members(path: Path) -> None:
    """An archive whose members all lie in the same place."""
    archive(path, _tensor(250_000), {"0": bytes(1_000_000)})
    with zipfile.ZipFile(path, "a") as made:
        one = made.getinfo("a/data/0")
        for i in range(1, 20_000):
            info = zipfile.ZipInfo(f"a/data/{i}")
            for field in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(info, field, getattr(one, field))
            made.filelist.append(info)
        made._didModify = True  # type: ignore[attr-defined]


def _legacy(edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: bytes_to(path, edit(whole("legacy", tensors())))


def bytes_to(path: Path, data: bytes) -> None:
    """`write_bytes` without its result."""
    path.write_bytes(data)


def header(path: Path, text: bytes, body: bytes = b"", length: int | None = None) -> None:
    """A safetensors file with this header, declared to be `length` bytes long."""
    bytes_to(path, struct.pack("<Q", len(text) if length is None else length) + text + body)


def _entries(**entries: object) -> bytes:
    return json.dumps(entries).encode()


def _entry(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def _headers() -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Safetensors files whose header says what cannot be."""
    sound, four = _entries(w=_entry([4], 0, 16)), bytes(16)
    yield "header longer than the file", lambda path: header(path, sound, four, 1 << 30)
    yield "header of 2^63", lambda path: header(path, sound, four, (1 << 63) + 5)
    yield "header of 100 MB", lambda path: header(path, b'{"__metadata__":{"a":"' + b"x" * 100_000_000 + b'"}}')
    yield "a million empty tensors", lambda path: header(path, _many(1_500_000))
    yield "many empty tensors", lambda path: header(path, _many(300_000))
    yield "overlapping tensors", lambda path: header(path, _entries(a=_entry([4], 0, 16), b=_entry([4], 0, 16)), four)
    yield "a hole", lambda path: header(path, _entries(a=_entry([2], 0, 8), b=_entry([1], 12, 16)), four)
    yield "huge shape", lambda path: header(path, _entries(w=_entry([1 << 40, 1 << 40], 0, 16)), four)
    yield "huge empty shape", lambda path: header(path, _entries(w=_entry([0, 1 << 62], 0, 0)))
    yield "negative shape", lambda path: header(path, _entries(w=_entry([-4], 0, 16)), four)
    yield "NaN", lambda path: header(path, b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}', four)
    yield "NaN as metadata", lambda path: header(path, b'{"__metadata__":{"a":NaN}}')
    yield "one name twice", lambda path: header(path, sound[:-1] + b"," + sound[1:], four)
    yield "nested header", lambda path: header(path, b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    yield "nested metadata", lambda path: header(path, b'{"__metadata__":' + b"[" * 1_000_000 + b"}")
    yield "no header", lambda path: header(path, b"{", length=1)
    yield "odd dtype", lambda path: header(path, _entries(w={**_entry([4], 0, 16), "dtype": "F99"}), four)


def _many(count: int) -> bytes:
    return b"{" + b",".join(b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(count)) + b"}"


def _bombs() -> Iterator[tuple[str, Callable[[Path], None]]]:
    deep, empty = 1_000_000, b"\x80\x02"
    yield "packed pickle", lambda path: _packed(path, "a/data.pkl")
    yield "packed tensor", lambda path: _packed(path, "a/data/0")
    yield "members in one place", _many_members
    yield "nested lists", _of(lambda: empty + b"]" * deep + b"a" * (deep - 1) + b".")
    yield "nested lists, from outside", _of(lambda: empty + b"]q\x01" + b"]q\x02ah\x02" * (deep // 2) + b"h\x01.")
    yield "nested tuples", _of(lambda: empty + b")" + b"\x85" * deep + b".")
    yield "nested tuples as a key", _of(lambda: empty + b"})" + b"\x85" * deep + b"Ns.")
    yield "nested dicts", _of(lambda: empty + b"}" + b"K\x01}" * deep + b"s" * deep + b".")
    yield (
        "nested dicts of weights",
        _of(lambda: empty + b"}" + (_text("model") + b"}") * 900_000 + b"s" * 900_000 + b"."),
    )
    yield "a tuple of pairs of pairs as a key", _of(_pairs(60, b"Ns."))
    yield "a tuple of pairs of pairs as a value", _of(_pairs(60, b"q\x02K\x01h\x02s."))
    yield "a set of pairs of pairs", _of(_pairs(40, b"q\x01c__builtin__\nset\n]h\x01a\x85R."))
    yield "a namespace of pairs", _of(_pairs(60, b"q\x01cargparse\nNamespace\n)R}X\x01\x00\x00\x00ah\x01sbh\x01R."))
    yield (
        "lists copied again and again",
        _of(
            lambda: (
                empty + b"](" + b"K\x01" * 1_000_000 + b"eq\x01](" + b"c__builtin__\nset\nh\x01\x85R" * 100_000 + b"e."
            )
        ),
    )
    yield (
        "bytes copied again and again",
        _of(
            lambda: (
                empty
                + _text("x" * 1_000_000)
                + b"q\x01]("
                + b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R" * 50_000
                + b"e."
            )
        ),
    )
    yield "punycode", _of(lambda: _called("_codecs.encode", _text("é" * 3_000_000) + _text("punycode") + b"\x86"))
    yield "byte arrays", _of(lambda: _called("__builtin__.bytearray", _long(100_000) + b"\x85", 200_000))
    yield "a large array of objects", _of(_called("numpy.ndarray", _long(1 << 28) + b"\x85" + _text("O") + b"\x86"))
    yield (
        "a reconstructed array",
        _of(
            _called(
                "numpy._core.multiarray._reconstruct",
                b"cnumpy\nndarray\n" + _long(1 << 28) + b"\x85" + _text("O") + b"\x87",
            )
        ),
    )
    yield (
        "a wide number",
        _of(_called("numpy._core.multiarray.scalar", b"cnumpy\ndtype\n" + _text("V2000000000") + b"\x85R\x85")),
    )
    yield "a tensor made of numbers", _of(_called("torch.FloatTensor", _long(1 << 40) + b"\x85"))
    yield "a nested tensor", _of(_called("torch._utils._rebuild_nested_tensor", b"NNNN(t"))
    yield (
        "a call through another",
        _of(
            _called(
                "torch._tensor._rebuild_from_type_v2",
                b"(c__builtin__\nbytearray\nctorch\nTensor\n" + _long(1 << 33) + b"\x85Nt",
            )
        ),
    )
    yield "millions of lists", _of(lambda: empty + b"](" + b"]" * 100_000_000 + b"e.")
    yield "a string of 4 GB, it says", _of(empty + b"X\xff\xff\xff\xffabc")
    yield "a number of 255 bytes", _of(empty + b"}\x8a\xff" + b"\x7f" * 255 + b"Ns.")
    yield "a storage larger than its member", _of(_tensor(1 << 40), **{"0": bytes(64)})
    yield "a storage of negative size", _of(_tensor(-5), **{"0": bytes(64)})
    yield "a tensor of stride 0", _of(_tensor(16, _sized(1 << 20, 1 << 20), _sized(0, 0)), **{"0": bytes(64)})
    yield "a tensor beyond its storage", _of(_tensor(16, _sized(4, 5), _sized(5, 1)), **{"0": bytes(64)})
    yield "a tensor of negative strides", _of(_tensor(16, _sized(4), _sized(-1)), **{"0": bytes(64)})
    yield (
        "a tensor of many dimensions",
        _of(_tensor(16, _sized(*[1] * 100_000), _sized(*[1] * 100_000)), **{"0": bytes(64)}),
    )
    yield "a storage that is missing", _of(_tensor(16), **{"1": bytes(64)})
    yield "protocol 255", _of(b"\x80\xff}" + _text("a") + b"Ns.")
    yield "protocol 5 frames", _of(b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.")
    yield "memo tricks", _of(empty + b"}" + b"r\xff\xff\xff\xff" * 300_000 + b".")
    yield "an unknown memo", _of(empty + b"h\x07.")
    yield "a pickle of nothing", _of(b".")
    yield "marks alone", _of(empty + b"(" * 1_000_000 + b".")
    yield "pops beyond the stack", _of(empty + b"t" * 10 + b".")
    yield "a dict that holds itself", _of(empty + b"}q\x01" + _text("model") + b"h\x01s.")
    yield "a list that holds itself", _of(empty + b"]q\x01h\x01a.")
    yield "old, of many lists", _legacy(lambda data: data[: data.index(b"}q")] + b"](" + b"]" * 50_000_000 + b"e.")
    yield "old, without data", _legacy(lambda data: data[:-1000])
    yield "old, of a huge tensor", _legacy(lambda data: data.replace(b"M\x80\x04", b"J\xff\xff\xff\x7f"))
    yield "old, data not listed", _legacy(_unlisted)
    for name in LAYOUTS:
        yield name, partial(_save_layout, name)
    yield from _headers()


def _unlisted(data: bytes) -> bytes:
    """The list of the tensors' data with nothing in it, and no data."""
    stream = io.BytesIO(data)
    for _ in range(4):
        start = stream.tell()
        _skip(stream)
    return data[: stream.tell()] + pickle.dumps([], 2) if start else data


def _skip(stream: io.BytesIO) -> None:
    for _ in pickletools.genops(stream):
        pass


def _save_layout(name: str, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some layouts are in beta, others deprecated
        torch.save({"layer0.weight": LAYOUTS[name]()}, path)


LAYOUTS: dict[str, Callable[[], torch.Tensor]] = {
    "a sparse tensor": lambda: torch.eye(8).to_sparse(),
    "a huge sparse tensor": lambda: torch.sparse_coo_tensor(
        torch.zeros(2, 1, dtype=torch.long), [1.0], (1 << 30, 1 << 30), check_invariants=True
    ),
    "a sparse tensor in rows": lambda: torch.sparse_csr_tensor(
        torch.tensor([0, 1, 2]), torch.tensor([0, 1]), torch.ones(2), (2, 2), check_invariants=True
    ),
    "a meta tensor": lambda: torch.empty(1 << 20, 1 << 20, device="meta"),
    "a quantised tensor": lambda: torch.quantize_per_tensor(torch.eye(8), 0.1, 0, torch.qint8),
    "a complex tensor": lambda: torch.eye(8).to(torch.complex64),
    "a tensor of no numbers": lambda: torch.empty(0, 3),
}
BOMBS: dict[str, Callable[[Path], None]] = dict(_bombs())
