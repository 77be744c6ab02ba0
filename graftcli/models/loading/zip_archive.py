"""The checks of a .pth file that is a zip archive, as torch.save writes them: all of it is torch's, whole and bounded.

torch itself verifies no checksum, and a small archive may claim members of any size.
"""

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from graftcli.errors import CheckpointError
from graftcli.models.loading.file_bounds import COPY_AGAIN, MOST_HEADER, MOST_PICKLE, damaged, too_much

_MOST_SHRUNK = 10  # how many times smaller than its members an archive may be
_PIECE = 1 << 20


def check_zip(file: Path) -> bytes:
    """The archive is torch's, and every member is whole by its checksum; the bytes of its pickle.

    torch itself verifies no checksum.
    """
    try:
        _check_directory(file)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            _check_torch(file, names)
            _check_sizes(file, members, bool(archive.comment))
            for member in members:
                _check_member(file, archive, member)
            return archive.read(f"{names[0].partition('/')[0]}/data.pkl")
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, KeyError, ValueError, EOFError) as err:
        raise damaged(file, err) from err


def _check_directory(file: Path) -> None:
    """The list of members is of a size that can be read; only its declared size is looked at."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(max(0, size - 98))  # the three records at the end of an archive without a comment
        end = stream.read()
    declared = struct.unpack_from("<L", end, len(end) - 10)[0] if end[-22:-18] == b"PK\5\6" else 0
    if end[:4] == b"PK\6\6" and declared == 0xFFFFFFFF:
        declared = struct.unpack_from("<Q", end, 40)[0]
    if declared > min(size, MOST_HEADER):
        raise zipfile.BadZipFile(f"its list of members is said to have {declared:,} bytes")


def _check_torch(file: Path, names: Sequence[str]) -> None:
    """A zip archive without torch's own pickle is refused by what it is."""
    if any("/code/" in name for name in names):
        found = f"`{file}` is a TorchScript program, not weights."
        raise CheckpointError(found, "Save its weights: torch.save(torch.jit.load(file).state_dict(), 'weights.pth').")
    if not any(name.endswith("data.pkl") for name in names):
        found = (
            f"`{file}` is a zip archive that torch.save did not write: it holds {', '.join(names[:3]) or 'nothing'}."
        )
        raise CheckpointError(found, "Unpack it and give the file of weights inside.")


def _check_sizes(file: Path, members: Sequence[zipfile.ZipInfo], comment: bool) -> None:
    """The members lie beside each other in the file, each under one name, and are not much larger than it."""
    size = file.stat().st_size
    stored, whole = sum(one.compress_size for one in members), sum(one.file_size for one in members)
    if whole > max(_MOST_SHRUNK * size, MOST_PICKLE):
        found = f"`{file}` has {size:,} bytes, and its members {whole:,} when they are unpacked."
        raise CheckpointError(found, "No weights compress that much: give the file that torch.save wrote.")
    names = [one.filename for one in members]
    if comment or stored > size or min(one.header_offset for one in members) != 0:
        raise zipfile.BadZipFile("its members overlap, or other data lies beside them")
    if len({name.lower() for name in names}) < len(names) or any(one.orig_filename != one.filename for one in members):
        raise zipfile.BadZipFile("two of its members have one name")
    for one in members:
        if one.compress_type == zipfile.ZIP_STORED and one.compress_size != one.file_size:
            raise zipfile.BadZipFile(
                f"its member `{one.filename}` has {one.compress_size:,} of {one.file_size:,} bytes"
            )
        if one.filename.endswith("data.pkl") and one.file_size > MOST_PICKLE:
            too_much(file, f"its `{one.filename}` has {one.file_size:,} bytes without any tensor")


def _check_member(file: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    try:
        with archive.open(member) as stream:
            while stream.read(_PIECE):
                pass
    except (zipfile.BadZipFile, zlib.error, EOFError) as err:
        found = f"`{file}` is damaged: the bytes of its member `{member.filename}` do not match their checksum."
        raise CheckpointError(found, COPY_AGAIN) from err
