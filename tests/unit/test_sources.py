"""Image files in folders and archives are found in bounded time and memory, whatever the input."""

import io
import os
import socket
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from graftcli.errors import ImagesError
from graftcli.images.file_formats import SUFFIXES
from graftcli.images.refusal import LARGEST_FILE, Refused
from graftcli.images.sources import open_source
from graftcli.images.special import special_devices
from tests.image_files import folder_of, noise, saved

FILES = {"a.jpg": b"1", "deep/er/b.PNG": b"2", "deep/c.TiFf": b"3", "deep/notes.txt": b"4", "README": b"5"}
IMAGES = {"a.jpg": b"1", "deep/er/b.PNG": b"2", "deep/c.TiFf": b"3"}


def contents(path: Path) -> dict[str, bytes]:
    with open_source(path) as source:
        return {entry.name: entry.read() for entry in source.entries}


def refusals(path: Path) -> dict[str, str]:
    found = {}
    with open_source(path) as source:
        for entry in source.entries:
            with pytest.raises(Refused) as caught:
                entry.read()
            found[entry.name] = str(caught.value)
    return found


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_a_folder_is_searched_to_its_depth_whatever_the_case(tmp_path: Path) -> None:
    folder_of(tmp_path, FILES)
    assert contents(tmp_path) == IMAGES
    with open_source(tmp_path) as source:
        assert source.suffixes == {".jpg": 1, ".png": 1, ".tiff": 1, ".txt": 1, "without a suffix": 1}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    assert contents(folder_of(tmp_path, {f"a{suffix.upper()}": b"1"})) == {f"a{suffix.upper()}": b"1"}


def test_hidden_files_and_debris_are_passed_over(tmp_path: Path) -> None:
    debris = (".hidden.jpg", ".cache/x.jpg", "__MACOSX/._a.jpg", "deep/.DS_Store", "Thumbs.db", "deep/@eaDir/b.png")
    files = FILES | dict.fromkeys(debris, b"no")
    assert contents(folder_of(tmp_path / ".inside-hidden", files)) == IMAGES
    assert contents(zipped(tmp_path / "a.zip", files)) == IMAGES


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_gives_what_its_folder_would(tmp_path: Path, mode: str) -> None:
    dotted = {f"./{name}": data for name, data in FILES.items()}
    assert contents(tarred(tmp_path / "x.tar", dotted, mode)) == IMAGES


def test_a_zip_gives_what_its_folder_would(tmp_path: Path) -> None:
    backslashes = {name.replace("/", "\\"): data for name, data in FILES.items()}
    assert contents(zipped(tmp_path / "x.zip", FILES)) == IMAGES
    assert contents(zipped(tmp_path / "y.zip", backslashes)) == IMAGES


def test_nested_archives_are_not_opened(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", {"z.jpg": b"no"}).read_bytes()
    assert contents(tarred(tmp_path / "x.tar", {"a.jpg": b"1", "inner.zip": inner})) == {"a.jpg": b"1"}
    assert contents(zipped(tmp_path / "x.zip", {"a.jpg": b"1", "inner.zip": inner})) == {"a.jpg": b"1"}
    assert not contents(folder_of(tmp_path / "folder", {"inner.zip": inner}))


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    folder_of(tmp_path / "real", {"a.jpg": b"1"})
    folder_of(tmp_path / "images", {"b.jpg": b"2", "deep/c.jpg": b"3"})
    (tmp_path / "images/linked").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "images/deep/up").symlink_to(tmp_path / "images", target_is_directory=True)
    (tmp_path / "images/deep/self").symlink_to(tmp_path / "images/deep/self")
    assert contents(tmp_path / "images") == {"b.jpg": b"2", "deep/c.jpg": b"3", "linked/a.jpg": b"1"}


def test_special_files_are_refused_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tmp_path)  # the address of a socket must be short
        try:
            listener.bind("socket.gif")
        finally:
            os.chdir(here)
        assert refusals(tmp_path) == {
            "pipe.jpg": "it is a named pipe, not a file",
            "zero.png": "it is a device, not a file",
            "socket.gif": "it is a socket, not a file",
        }


def test_a_link_to_nothing_says_so_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with open_source(tmp_path) as source, pytest.raises(FileNotFoundError):
        source.entries[0].read()


def test_special_members_of_a_tar_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in {
            "pipe.jpg": tarfile.FIFOTYPE,
            "link.jpg": tarfile.SYMTYPE,
            "dev.jpg": tarfile.CHRTYPE,
        }.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "link.jpg"
            archive.addfile(member)
    assert set(refusals(tmp_path / "x.tar")) == {"pipe.jpg", "link.jpg", "dev.jpg"}


def test_a_hard_link_in_a_tar_gives_its_target(tmp_path: Path) -> None:
    with tarfile.open(tarred(tmp_path / "x.tar", {"a.jpg": b"1"}), "a") as archive:
        member = tarfile.TarInfo("b.jpg")
        member.type, member.linkname = tarfile.LNKTYPE, "a.jpg"
        archive.addfile(member)
    assert contents(tmp_path / "x.tar") == {"a.jpg": b"1", "b.jpg": b"1"}


def test_files_of_absurd_size_are_refused(tmp_path: Path) -> None:
    folder_of(tmp_path / "images", {"huge.tif": b""})
    os.truncate(tmp_path / "images/huge.tif", 2**40)  # sparse: it takes no room on the disk
    assert refusals(tmp_path / "images") == {"huge.tif": "its size is 1,048,576 MiB; the limit is 256 MiB"}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_of_large_files_that_are_no_images_only_the_first_bytes_are_read(tmp_path: Path, kind: str) -> None:
    image = saved(noise(700, 700))
    files = {"a.png": image, "b.png": b"no image".ljust(len(image)), "c.png": b"no image".ljust(1000)}
    make = {"folder": folder_of, "zip": zipped, "tar": tarred}[kind]
    found = contents(make(tmp_path / kind, files))
    assert len(image) > 2**20 and found == files | {"b.png": b"no image".ljust(32)}


def test_a_bomb_in_an_archive_is_refused(tmp_path: Path) -> None:
    bomb = {"bomb.png": bytes(LARGEST_FILE + 1)}
    assert "the limit is 256 MiB" in refusals(zipped(tmp_path / "x.zip", bomb))["bomb.png"]
    assert "the limit is 256 MiB" in refusals(tarred(tmp_path / "x.tar.gz", bomb, "w:gz"))["bomb.png"]


def test_a_member_with_a_false_size_is_not_inflated(tmp_path: Path) -> None:
    size, lie = 64 * 2**20, 100
    path = zipped(tmp_path / "x.zip", {"bomb.png": bytes(size)})
    path.write_bytes(path.read_bytes().replace(struct.pack("<L", size), struct.pack("<L", lie)))
    tracemalloc.start()
    with open_source(path) as source, pytest.raises(zipfile.BadZipFile, match="CRC"):
        source.entries[0].read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 8


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"a.png": b"1"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert refusals(path) == {"a.png": "it is encrypted"}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_an_archive_that_ends_early_is_named(tmp_path: Path, mode: str) -> None:
    files = {f"{i}.jpg": os.urandom(5000) for i in range(10)}
    path = zipped(tmp_path / "x.zip", files) if mode == "zip" else tarred(tmp_path / "x.tar", files, mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImagesError, match=path.name):
        contents(path)


def test_a_name_that_is_no_utf8_can_be_printed(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"1")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert contents(tmp_path) == {r"caf\xe9.jpg": b"1"}


def test_names_that_no_terminal_takes_are_escaped(tmp_path: Path) -> None:
    names = {
        b"caf\xe9.jpg": r"caf\xe9.jpg",
        b"a\x1b[31m.jpg": r"a\x1b[31m.jpg",
        b"line\nbreak.jpg": r"line\x0abreak.jpg",
    }
    path = tarred(tmp_path / "x.tar", {os.fsdecode(name): b"1" for name in names})
    assert set(contents(path)) == set(names.values())


def test_a_path_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    with pytest.raises(ImagesError, match=r"caf\\xe9` is not UTF-8") as caught:
        contents(folder)
    assert str(caught.value).encode() and "Rename" in caught.value.fix


needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")


@needs_proc
@pytest.mark.parametrize("name", ["/proc", "/proc/self/fd", "/proc/kmsg", "/sys", "/dev", "/dev/zero"])
def test_special_file_systems_are_refused(name: str) -> None:
    with pytest.raises(ImagesError, match=r"is on a special file system \(.*\), which holds no images"):
        contents(Path(name))


@needs_proc
def test_a_link_to_a_special_file_system_is_refused_by_name(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.jpg": b"1"})
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/link").symlink_to("/proc")
    (tmp_path / "b.jpg").symlink_to("/proc/cpuinfo")
    with open_source(tmp_path) as source:
        assert [entry.name for entry in source.entries] == ["a.jpg", "b.jpg", "deep/link/"]
        for entry in source.entries[1:]:
            with pytest.raises(Refused, match=r"on a special file system \(proc\)"):
                entry.read()


def test_without_a_table_of_mounts_only_mount_points_are_special(tmp_path: Path) -> None:
    folder_of(tmp_path, {"dev/a.jpg": b"1"})
    assert special_devices(tmp_path) == {}
    table = "none /proc tmpfs rw 0 0\nnone /nowhere\\040at\\040all proc rw 0 0\nbroken\n"
    folder_of(tmp_path, {"proc/mounts": table.encode()})
    assert special_devices(tmp_path) == {}


def test_a_missing_folder_names_what_exists(tmp_path: Path) -> None:
    folder_of(tmp_path, {"pictures/a.jpg": b"1"})
    with pytest.raises(ImagesError) as caught:
        contents(tmp_path / "pictrues/train/x")
    assert f"`{tmp_path}` exists, but holds no `pictrues`" in caught.value.message
    assert caught.value.fix == f"Did you mean `{tmp_path / 'pictures'}`?"
    with pytest.raises(ImagesError, match=r"a\.jpg` is a file, not a folder"):
        contents(tmp_path / "pictures/a.jpg/deeper")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ImagesError, match=r"is a link to .*nowhere`, which does not exist"):
        contents(tmp_path / "link")
    with pytest.raises(ImagesError, match="cannot be read"):
        contents(tmp_path / ("long" * 200))


def test_what_is_neither_folder_nor_archive_is_named(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.jpg": b"1", "a.rar": b"Rar!"})
    os.mkfifo(tmp_path / "pipe")
    for name, expected in {
        "a.jpg": "is a single image",
        "a.rar": "neither a folder nor a .zip, .tar, .parquet, .arrow or .list",
        "pipe": "is a named pipe",
    }.items():
        with pytest.raises(ImagesError, match=expected) as caught:
            contents(tmp_path / name)
        assert caught.value.exit_code == 5 and "a folder of images" in caught.value.fix
