"""Check a .pth zip archive: written by torch.save, undamaged, and of bounded size.

torch verifies no checksums, and a small archive can declare members of any size.
"""

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from graftcli.errors import CheckpointError
from graftcli.models.loading.file_bounds import COPY_AGAIN, MAX_HEADER, MAX_PICKLE, damaged, raise_over_limit

_MAX_RATIO = 10  # largest compression ratio
_CHUNK = 1 << 20


def check_zip(file: Path) -> bytes:
    """Check the archive and the checksum of every member; returns the bytes of its pickle."""
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
    """Check the declared size of the central directory, before it is read."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(max(0, size - 98))  # the three end records of an archive without a comment
        end = stream.read()
    declared = struct.unpack_from("<L", end, len(end) - 10)[0] if end[-22:-18] == b"PK\5\6" else 0
    if end[:4] == b"PK\6\6" and declared == 0xFFFFFFFF:
        declared = struct.unpack_from("<Q", end, 40)[0]
    if declared > min(size, MAX_HEADER):
        raise zipfile.BadZipFile(f"its central directory declares {declared:,} bytes")


def _check_torch(file: Path, names: Sequence[str]) -> None:
    """Refuse TorchScript programs and zip archives that torch.save did not write."""
    if any("/code/" in name for name in names):
        message = f"`{file}` is a TorchScript program, not weights."
        raise CheckpointError(
            message, "Save its weights: torch.save(torch.jit.load(file).state_dict(), 'weights.pth')."
        )
    if not any(name.endswith("data.pkl") for name in names):
        message = (
            f"`{file}` is a zip archive that torch.save did not write: it holds {', '.join(names[:3]) or 'nothing'}."
        )
        raise CheckpointError(message, "Extract it and give the weights file inside.")


def _check_sizes(file: Path, members: Sequence[zipfile.ZipInfo], comment: bool) -> None:
    """Check that members do not overlap, have unique names, and are not much larger than the file."""
    size = file.stat().st_size
    stored, uncompressed = sum(member.compress_size for member in members), sum(member.file_size for member in members)
    if uncompressed > max(_MAX_RATIO * size, MAX_PICKLE):
        message = f"`{file}` has {size:,} bytes, its members {uncompressed:,} bytes uncompressed."
        raise CheckpointError(message, "Weights do not compress that much: give the file that torch.save wrote.")
    names = [member.filename for member in members]
    if comment or stored > size or min(member.header_offset for member in members) != 0:
        raise zipfile.BadZipFile("its members overlap, or it contains other data")
    if len({name.lower() for name in names}) < len(names) or any(
        member.orig_filename != member.filename for member in members
    ):
        raise zipfile.BadZipFile("two of its members have the same name")
    for member in members:
        if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
            raise zipfile.BadZipFile(
                f"its member `{member.filename}` has {member.compress_size:,} of {member.file_size:,} bytes"
            )
        if member.filename.endswith("data.pkl") and member.file_size > MAX_PICKLE:
            raise_over_limit(file, f"its `{member.filename}` has {member.file_size:,} bytes without any tensor")


def _check_member(file: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    try:
        with archive.open(member) as stream:
            while stream.read(_CHUNK):
                pass
    except (zipfile.BadZipFile, zlib.error, EOFError) as err:
        message = f"`{file}` is damaged: the bytes of its member `{member.filename}` do not match their checksum."
        raise CheckpointError(message, COPY_AGAIN) from err
