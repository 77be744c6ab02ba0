"""Many shards, tables and URLs are one source: their images are those of a plain folder, read in bounded memory."""

import builtins
import io
import os
import pickle
import random
import tarfile
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from graftcli.errors import ImagesError, UsageError
from graftcli.images import Preprocess, load
from graftcli.images.sources import open_source
from graftcli.images.sources.place import expanded, is_url, source_text
from graftcli.images.sources.source import PackedNames
from graftcli.runs.config import absolute
from tests.image_files import folder_of, noise, saved

PREPROCESS = Preprocess((16, 16), 3, (0.5,) * 3, (0.25,) * 3, 0.875, "bilinear")


def pictures(count: int, first: int = 0) -> dict[str, bytes]:
    return {f"{i:06}.png": saved(noise(20, 24, seed=first + i)) for i in range(count)}


def tarred(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def table(images: Mapping[str, bytes | None], *, struct: bool = True) -> pa.Table:
    """A table as Hugging Face datasets writes it: an image column of bytes and paths, and a label."""
    rows: list[Any] = [{"bytes": data, "path": name} for name, data in images.items()]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()}) if struct else pa.binary()
    column = pa.array(rows if struct else [row["bytes"] for row in rows], kind)
    return pa.table({"label": list(range(len(rows))), "image": column})


def contents(source: str | Path) -> list[bytes]:
    with open_source(source) as opened:
        return [entry.read() for entry in opened.entries]


def names(source: str | Path) -> list[str]:
    with open_source(source) as opened:
        return [entry.name for entry in opened.entries]


def make_shards(root: Path, suffix: str = ".tar", mode: str = "w") -> dict[str, bytes]:
    """Three shards in the layout of WebDataset: an image, its class and its caption under one key."""
    for number in range(3):
        files: dict[str, bytes] = {}
        for name, data in pictures(4, 10 * number).items():
            files |= {name: data, name.replace(".png", ".cls"): b"3", name.replace(".png", ".json"): b"{}"}
        tarred(root / f"shards-{number:04}{suffix}", files, mode)
    return {f"shards-{n:04}:{name}": data for n in range(3) for name, data in pictures(4, 10 * n).items()}


@pytest.mark.parametrize("place", ["folder", "shards-{0000..0002}.tar", "shards-{0000,0001,0002}.tar"])
def test_many_tar_shards_are_one_source(tmp_path: Path, place: str) -> None:
    expected = make_shards(tmp_path)
    source = tmp_path if place == "folder" else tmp_path / place
    with open_source(source) as opened:
        assert {entry.name: entry.read() for entry in opened.entries} == expected
        assert opened.suffixes == {".png": 12, ".cls": 12, ".json": 12}
        shuffled = random.Random(0).sample(range(12), 12)
        assert [opened.entries[i].read() for i in shuffled] == [list(expected.values())[i] for i in shuffled]
    plain = load(folder_of(tmp_path / "plain", {name.replace(":", "-"): d for name, d in expected.items()}), PREPROCESS)
    assert (
        load(source if place != "folder" else tmp_path / "shards-{0000..0002}.tar", PREPROCESS).digest == plain.digest
    )


def test_shards_may_be_compressed_and_more_than_can_be_open(tmp_path: Path) -> None:
    expected = make_shards(tmp_path / "zipped", ".tar.gz", "w:gz")
    assert contents(tmp_path / "zipped") == list(expected.values())
    for number in range(40):
        tarred(tmp_path / f"many/{number:02}.tar", pictures(2, number))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0  # noqa: PTH208
    with open_source(tmp_path / "many") as opened:
        assert len([entry.read() for entry in opened.entries]) == 80
        if before:
            assert len(os.listdir("/proc/self/fd")) <= before + 12  # noqa: PTH208


def test_folders_inside_shards_still_name_the_class(tmp_path: Path) -> None:
    for number in range(2):
        tarred(tmp_path / f"0{number}.tar", {f"{kind}/{number}.png": b"1" for kind in ("3_cat", "5_dog")})
    assert sorted(names(tmp_path)) == ["3_cat/00:0.png", "3_cat/01:1.png", "5_dog/00:0.png", "5_dog/01:1.png"]


def test_a_folder_with_an_image_is_a_folder_of_images(tmp_path: Path) -> None:
    make_shards(tmp_path)
    folder_of(tmp_path, {"deep/a.png": b"1", ".hidden/b.png": b"2"})
    assert names(tmp_path) == ["deep/a.png"]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    make_shards(tmp_path)
    with pytest.raises(ImagesError, match=r"holds no `shards-0003\.tar`"):
        contents(tmp_path / "shards-{0000..0003}.tar")
    (tmp_path / "shards-0001.tar").write_bytes((tmp_path / "shards-0001.tar").read_bytes()[:1500])
    with pytest.raises(ImagesError, match="cannot be read"):
        contents(tmp_path)


def test_patterns_expand_as_in_a_shell(tmp_path: Path) -> None:
    assert expanded("a-{08..10}.tar") == ("a-08.tar", "a-09.tar", "a-10.tar")
    assert expanded("{x,y}/{0..1}") == ("x/0", "x/1", "y/0", "y/1")
    assert expanded("plain") == ("plain",)
    with pytest.raises(UsageError, match="100,001 files"):
        expanded("{0..999999999999}")
    folder_of(tmp_path / "{0..1}", {"a.png": b"1"})  # a folder of that very name
    assert contents(tmp_path / "{0..1}") == [b"1"]


# -- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("struct", [True, False])
def test_a_parquet_file_gives_its_images_in_any_order(tmp_path: Path, struct: bool) -> None:
    images = pictures(30)
    parquet.write_table(table(images, struct=struct), tmp_path / "x.parquet", row_group_size=7)
    assert contents(tmp_path / "x.parquet") == list(images.values())
    assert names(tmp_path / "x.parquet")[:2] == ["00", "01"]
    with open_source(tmp_path / "x.parquet") as opened:
        order = random.Random(0).sample(range(30), 30)
        assert [opened.entries[i].read() for i in order] == [list(images.values())[i] for i in order]


def test_folders_of_parquet_and_arrow_are_one_source(tmp_path: Path) -> None:
    for number in range(2):
        parquet.write_table(table(pictures(3, 10 * number)), tmp_path / f"train-{number}.parquet")
    expected = [*pictures(3).values(), *pictures(3, 10).values()]
    assert contents(tmp_path) == expected and names(tmp_path)[0] == "train-0:0"
    assert len(load(tmp_path / "train-{0..1}.parquet", PREPROCESS).names) == 6


def saved_to_disk(folder: Path, images: Mapping[str, bytes], shards: int = 2) -> Path:
    """The files that `Dataset.save_to_disk` writes, with a cached result beside them."""
    folder.mkdir(parents=True)
    whole, files = table(images), []
    size = -(-len(images) // shards)
    for number in range(shards):
        files.append(f"data-{number:05}-of-{shards:05}.arrow")
        part = whole.slice(number * size, size)
        with pa.OSFile(str(folder / files[-1]), "wb") as sink, pa.ipc.new_stream(sink, part.schema) as writer:
            for batch in part.to_batches(max_chunksize=4):
                writer.write_batch(batch)
    state = ", ".join(f'{{"filename": "{name}"}}' for name in files)
    (folder / "state.json").write_text(f'{{"_data_files": [{state}], "_split": null}}')
    (folder / "dataset_info.json").write_text("{}")
    (folder / "cache-0123.arrow").write_bytes(b"a result of map")
    return folder


def test_a_folder_that_datasets_saved_gives_its_images(tmp_path: Path) -> None:
    images = pictures(19)
    source = saved_to_disk(tmp_path / "train", images)
    assert contents(source) == list(images.values())
    assert load(source, PREPROCESS).digest == load(folder_of(tmp_path / "plain", images), PREPROCESS).digest
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(ImagesError, match=r"several splits: give one of its folders \(plain, train\)"):
        contents(tmp_path)


def test_an_arrow_file_of_the_file_format_is_read(tmp_path: Path) -> None:
    whole = table(pictures(5))
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, whole.schema) as writer:
        writer.write_table(whole)
    assert contents(tmp_path / "x.arrow") == list(pictures(5).values())


def test_rows_without_an_image_are_broken_by_name(tmp_path: Path) -> None:
    images: dict[str, bytes | None] = dict(pictures(4))
    images |= {"000001.png": None, "000002.png": b"no image"}
    parquet.write_table(table(images), tmp_path / "x.parquet")
    found = load(tmp_path / "x.parquet", PREPROCESS)
    assert [one.name for one in found.broken] == ["1", "2"] and len(found.names) == 2
    assert "holds the path `000001.png` and no bytes" in found.broken[0].reason


def test_tables_without_images_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"label": [1], "text": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(ImagesError, match=r"its columns are label \(int64\), text \(string\)"):
        contents(tmp_path / "x.parquet")
    parquet.write_table(table(pictures(9)), tmp_path / "y.parquet")
    data = (tmp_path / "y.parquet").read_bytes()
    for name, damaged in {"half": data[: len(data) // 2], "noise": os.urandom(5000), "empty": b""}.items():
        for suffix in ("parquet", "arrow"):
            (tmp_path / f"{name}.{suffix}").write_bytes(damaged)
            with pytest.raises(ImagesError, match=f"{name}.{suffix}` cannot be read"):
                contents(tmp_path / f"{name}.{suffix}")


def test_without_pyarrow_one_message_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(table(pictures(2)), tmp_path / "x.parquet")
    monkeypatch.setattr(builtins, "__import__", _without("pyarrow"))
    with pytest.raises(ImagesError, match="pyarrow, which reads tables, is not installed") as caught:
        contents(tmp_path / "x.parquet")
    assert caught.value.fix == "python3 -m pip install pyarrow"


def _without(package: str) -> Any:
    real = builtins.__import__

    def imported(name: str, *words: Any, **settings: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {package}")
        return real(name, *words, **settings)

    return imported


# -- URLs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[Any]:
    file_system = fsspec.filesystem("memory")
    yield file_system
    file_system.store.clear()
    file_system.pseudo_dirs[:] = [""]


def upload(file_system: Any, folder: Path, target: str) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file_system.pipe_file(f"{target}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def test_every_source_is_read_behind_a_url(tmp_path: Path, memory: Any) -> None:
    expected = make_shards(tmp_path / "shards")
    (tmp_path / "tables").mkdir()
    parquet.write_table(table(pictures(5)), tmp_path / "tables/x.parquet")
    saved_to_disk(tmp_path / "saved", pictures(5), shards=1)
    upload(memory, tmp_path, "/bucket")
    upload(memory, folder_of(tmp_path / "images", {"a.png": b"1", "deep/b.png": b"2", "c.txt": b""}), "/bucket/images")
    assert contents("memory://bucket/shards/shards-{0000..0002}.tar") == list(expected.values())
    assert contents("memory://bucket/shards") == list(expected.values())
    assert contents("memory://bucket/tables/x.parquet") == list(pictures(5).values())
    assert contents("memory://bucket/saved/data-00000-of-00001.arrow") == list(pictures(5).values())
    assert names("memory://bucket/images") == ["a.png", "deep/b.png"] and contents("memory://bucket/images") == [
        b"1",
        b"2",
    ]
    digest = load(Path("memory://bucket/shards"), PREPROCESS).digest  # `Path` joins the slashes of a URL
    assert digest == load(tmp_path / "shards", PREPROCESS).digest
    assert contents(f"file://{tmp_path}/shards") == list(expected.values())


def test_a_url_that_names_nothing_is_refused(memory: Any) -> None:
    with pytest.raises(ImagesError, match=r"there is no `memory://nowhere/x\.tar`"):
        contents("memory://nowhere/x.tar")
    with pytest.raises(ImagesError, match="Protocol not known"):
        contents("nonsense://x.tar")


def test_without_fsspec_one_message_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "__import__", _without("fsspec"))
    with pytest.raises(ImagesError, match="fsspec, which opens URLs, is not installed") as caught:
        contents("s3://bucket/x.tar")
    assert caught.value.fix == "python3 -m pip install fsspec aiohttp"


def test_a_run_records_a_url_as_it_is() -> None:
    for url in ("s3://bucket/x-{0..3}.tar", "https://host/x.tar", "memory://x", "simplecache::s3://bucket/x.tar"):
        assert is_url(url) and source_text(Path(url)) == source_text(url) == url == absolute(url) == absolute(Path(url))
    assert source_text(Path("file:///data/x.tar")) == "file:///data/x.tar"
    assert not is_url("C:/images") and not is_url("./10shot") and absolute("x.tar") == str(Path.cwd() / "x.tar")


# -- bounds -------------------------------------------------------------------------------------------------------


def test_a_listing_needs_few_bytes_per_image(tmp_path: Path) -> None:
    count = 20_000
    source = tarred(tmp_path / "x.tar", {f"{i:08}.jpg": b"x" for i in range(count)})
    tracemalloc.start()
    with open_source(source) as opened:
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(opened.entries) == count and opened.entries[count - 1].read() == b"x"
    assert held < 60 * count and peak < 120 * count


def test_packed_names_keep_every_name() -> None:
    every = ["a.png", "", "é/漢字.jpg", "caf\udce9.jpg", "b" * 1000]
    packed = PackedNames(every)
    assert [packed[i] for i in range(len(packed))] == every
    assert pickle.loads(pickle.dumps(packed))[2] == "é/漢字.jpg"


def test_workers_that_open_the_same_source_see_the_same_order(tmp_path: Path) -> None:
    make_shards(tmp_path)
    with open_source(tmp_path) as one, open_source(tmp_path) as other:
        assert list(one.entries.state()) == list(other.entries.state())
        halves = [entry.read() for entry in one.entries[0::2]], [entry.read() for entry in other.entries[1::2]]
    assert [data for pair in zip(*halves, strict=True) for data in pair] == contents(tmp_path)
