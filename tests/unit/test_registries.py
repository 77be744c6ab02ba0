"""Each registry through every consumer: an entry is handled everywhere, or a test names where it is not."""

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Self, cast
from unittest.mock import Mock

import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import graftcli
from graftcli.cli import distill as distill_options
from graftcli.cli import export as export_options
from graftcli.cli import images as image_options
from graftcli.cli import options
from graftcli.cli import select as select_options
from graftcli.comparison.fingerprint import file_stats
from graftcli.errors import CheckpointError, GateError, ImagesError, UsageError
from graftcli.formats import options as options_of_formats
from graftcli.formats.match import Match
from graftcli.formats.options import FORMATS as EXPORT_FORMATS
from graftcli.formats.options import (
    MIN_AGREEMENT,
    OLDEST_OPSET,
    ExportFormat,
    ExportOptions,
    ExportSource,
    Precision,
    add_format,
    files_in_run,
    format_of,
    single_suffixes,
    source_facts,
)
from graftcli.formats.parity import check_match, parity_check
from graftcli.formats.write import write
from graftcli.formatting import one_of
from graftcli.graft.initialize.frozen_blocks import frozen_blocks
from graftcli.graft.initialize.random_blocks import random_blocks
from graftcli.images import Preprocess, load
from graftcli.images import sources as image_sources
from graftcli.images.file_formats import FORMATS, SUFFIXES
from graftcli.images.sampling import draw_images
from graftcli.images.selection import NAMES as SELECTIONS
from graftcli.images.selection import method_named
from graftcli.images.sources.list_file import list_json
from graftcli.images.statistics import collect_statistics
from graftcli.models.cuts import plan as plans
from graftcli.models.derivation import base_origin, is_derived, notes
from graftcli.models.loading.build import build
from graftcli.models.loading.checkpoint import AVERAGED, PLAIN, WRAPPERS, find_state
from graftcli.models.network import Network
from graftcli.models.tracing.trace import Traced
from graftcli.recipe.file import load as load_recipe
from graftcli.runs.destination import destination, single_file
from graftcli.runs.prepare import PreparedRun
from graftcli.runs.result import write_single
from graftcli.store import Store
from graftcli.store.model_card import CardFacts, save_student, write_weights
from graftcli.students.make import is_derived_from_teacher, student_maker
from graftcli.students.narrowing import selections_without
from graftcli.students.spec import EXAMPLES, KINDS, parse_spec
from graftcli.students.student_kind import Changes, ImageLoader, StudentKind
from tests.exports import pixels, remembered
from tests.image_files import folder_of, noise, photos, saved
from tests.nets import randomise, resnet, same_weights
from tests.records import settings

__all__ = ["remembered"]  # a fixture

NETS = Path(__file__).resolve().parents[1] / "nets.py"
README = Path(__file__).resolve().parents[2] / "README.md"


def table_row(names: tuple[str, ...], about: str) -> str:
    """A row of a table in the README."""
    return f"| {', '.join(f'`{name}`' for name in names)} | {about} |"


def help_of(parameter: object) -> str:
    """The help text of an annotated option."""
    (option,) = parameter.__metadata__  # type: ignore[attr-defined]
    return str(option.help)


def test_help_texts_name_every_entry_without_torch() -> None:
    """`--help` stays fast: a registry imports torch only when one of its entries is used."""
    code = "import sys, graftcli.cli; print(*sys.modules.keys() & {'torch', 'numpy', 'PIL', 'onnx'})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


# -- kinds of students --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher() -> Network:
    torch.manual_seed(0)
    return build(f"{NETS}:resnet_of_four_blocks", checkpoint=Path("none"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_student_is_documented(kind: type[StudentKind]) -> None:
    assert table_row(kind.examples, kind.about) in README.read_text(encoding="utf-8").splitlines()
    with pytest.raises(UsageError) as refused:
        parse_spec(f"{kind.examples[0]}?")
    assert all(example in refused.value.fix and example in help_of(options.Student) for example in kind.examples)


@pytest.mark.parametrize("spec", EXAMPLES)
def test_every_kind_of_student_is_made_planned_saved_and_loaded(spec: str, teacher: Network, tmp_path: Path) -> None:
    parsed = parse_spec(spec)
    assert [kind for kind in KINDS if re.match(kind.start, spec)] == [type(parsed)]
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loader = Mock(return_value=images)
    student = build(spec, like=teacher, role="student", derive=student_maker(loader))
    assert loader.called == parsed.needs_images
    assert student.name == f"{teacher.name}-{parsed.suffix}" and student.name == Path(student.name).name
    assert is_derived(student) and base_origin(student) == teacher.origin and isinstance(notes(student), list)
    plan = plans.make(teacher, student)
    assert len(plan.blocks) == 4 and plan.student.params < plan.teacher.params
    preprocess = Preprocess((64, 64), 3, (0.5,) * 3, (0.5,) * 3, 1.0, "bilinear")
    facts = CardFacts(teacher.origin, student.origin, preprocess, "graft", 4, "", {})
    write_weights(tmp_path / "student.safetensors", student.module, facts)
    loaded = graftcli.load(tmp_path / "student.safetensors", trust_code=True)
    assert is_derived_from_teacher(spec) and is_derived_from_teacher(str(tmp_path / "student.safetensors"))
    assert same_weights(loaded, student.module) and torch.equal(loaded(images), student.module(images))


@dataclass(frozen=True)
class RandomCopy(StudentKind):
    """The teacher's architecture, with random weights."""

    examples = ("copy",)
    about = "the teacher's architecture, with random weights"
    start = "copy$"
    suffix = "copy"

    @classmethod
    def parse(cls, spec: str) -> Self | None:
        return cls()

    def changes(self, traced: Traced, images: ImageLoader | None) -> Changes:
        return Changes(selections_without(traced.module, ()), is_random=True)


def test_a_kind_of_student_may_start_from_random_weights(teacher: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing in it is protected from training, and no block counts as the teacher's."""
    monkeypatch.setattr("graftcli.students.spec.KINDS", (*KINDS, RandomCopy))
    torch.manual_seed(0)
    student = build("copy", like=teacher, role="student", derive=student_maker())
    assert str(student.weights) == "random" and is_derived(student)
    assert not same_weights(student.module, teacher.module)
    plan = plans.make(teacher, student)
    assert [block.same for block in plan.blocks] == ["architecture"] * 4
    for init in ("inherit", "least-squares", "random"):
        wanted = load_recipe("graft", [f"init={init}"])
        assert frozen_blocks(wanted, plan) == () and random_blocks(wanted, plan, ()) == {1, 2, 3, 4}
    copied = plans.make(teacher, build("teacher*1", like=teacher, role="student", derive=student_maker()))
    assert random_blocks(load_recipe("graft"), copied, ()) == frozenset()


# -- image sources and file formats -------------------------------------------------------------------------------

PREPROCESS = Preprocess((32, 32), 3, (0.5,) * 3, (0.5,) * 3, 1.0, "bilinear")


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    return path


def tarred(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.add(folder, arcname=".")
    return path


def tabled(path: Path, folder: Path) -> Path:
    table = pa.table({"image": [file.read_bytes() for file in sorted(folder.iterdir())]})
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
        return path
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def listed(path: Path, folder: Path) -> Path:
    path.write_text(json.dumps(list_json(str(folder), sorted(file.name for file in folder.iterdir()))))
    return path


MAKE_SOURCE: dict[str, Callable[[Path, Path], Path]] = {
    "folder": lambda path, folder: folder.rename(path),
    ".zip": zipped,
    ".tar": tarred,
    ".parquet": lambda path, folder: tabled(path.with_suffix(".parquet"), folder),
    ".arrow": lambda path, folder: tabled(path.with_suffix(".arrow"), folder),
    ".list": lambda path, folder: listed(path.with_suffix(".list"), folder),
}


@pytest.mark.parametrize("name", image_sources.NAMES)
def test_every_image_source_is_listed_decoded_measured_and_drawn_from(name: str, tmp_path: Path) -> None:
    """The same files give the same images, whatever holds them."""
    expected = photos(tmp_path / "photos", ["a.png", "b.png", "c.png"])
    images, drawn = load(expected, PREPROCESS), draw_images(expected, 2, 0)
    source = MAKE_SOURCE[name](tmp_path / "source", photos(tmp_path / "same", ["a.png", "b.png", "c.png"]))
    with image_sources.open_source(source) as opened:
        names = sorted(entry.name for entry in opened.entries)
    assert load(source, PREPROCESS).digest == images.digest
    if source.suffix in (".parquet", ".arrow"):  # rows have no names, on which a draw depends
        every = {image.name for image in draw_images(expected, 3, 0)}
        assert names == ["0", "1", "2"] and {image.name for image in draw_images(source, 3, 0)} == every
    else:
        assert names == ["a.png", "b.png", "c.png"] and draw_images(source, 2, 0) == drawn
    assert collect_statistics(source, PREPROCESS).formats == {"PNG": 3}
    file_stats.cache_clear()
    assert file_stats(str(source))


def test_every_image_source_is_documented(tmp_path: Path) -> None:
    helps = (help_of(distill_options.Images), help_of(image_options.Folder))
    docstrings = (graftcli.distill.__doc__, graftcli.evaluate.__doc__, graftcli.inspect_images.__doc__)
    readme = re.sub(r"`(\.\w+)`", r"\1", README.read_text(encoding="utf-8"))
    (tmp_path / "other").write_bytes(b"x")
    with pytest.raises(ImagesError) as refused, image_sources.open_source(tmp_path / "other"):
        pass
    for text in (*helps, *docstrings, readme):
        assert one_of(image_sources.NAMES) in (text or "").lower()
    assert all(name in refused.value.message and name in refused.value.fix for name in image_sources.NAMES)
    assert set(MAKE_SOURCE) == set(image_sources.NAMES)


@pytest.mark.parametrize("name", SELECTIONS)
def test_every_selection_of_images_is_documented(name: str) -> None:
    assert method_named(name).name == name and method_named(name).about
    for documentation in (graftcli.select_images.__doc__, graftcli.distill.__doc__, graftcli.partial.__doc__):
        assert f'``"{name}"``' in (documentation or "")
    assert name in help_of(select_options.By) and name in help_of(distill_options.Select)
    assert name in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_image_suffix_is_found_decoded_and_named(suffix: str, tmp_path: Path) -> None:
    (name,) = (name for name, file_format in FORMATS.items() if suffix in file_format.suffixes)
    large = saved(Image.new("RGB", (40, 40), "red"), name) + bytes(2**20)  # read whole only if its magic is known
    files = {f"{i}{suffix}": saved(noise(40, 40, i), name) for i in range(2)} | {f"2{suffix.upper()}": large}
    folder_of(tmp_path / "images", files)
    with image_sources.open_source(tmp_path / "images") as opened:
        assert {entry.name: entry.read() for entry in opened.entries} == files
    assert all(data.startswith(FORMATS[name].magic) for data in files.values())
    assert len(load(tmp_path / "images", PREPROCESS, strict=True).names) == 3
    assert collect_statistics(tmp_path / "images", PREPROCESS).formats == {name: 3}
    assert suffix[1:] in image_sources.SUPPORTED
    with (
        pytest.raises(ImagesError, match="is a single image"),
        image_sources.open_source(tmp_path / "images" / f"0{suffix}"),
    ):
        pass
    folder_of(tmp_path / "broken", {f"{i}{suffix}": b"broken" for i in range(2)})
    with pytest.raises(ImagesError, match=f"not one of .*{name}"):
        load(tmp_path / "broken", PREPROCESS)


# -- checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", WRAPPERS)
def test_every_key_that_wraps_weights_is_unwrapped_loaded_and_named(key: str, tmp_path: Path) -> None:
    network, averaged = randomise(resnet(8)), key in AVERAGED
    assert (key in PLAIN) != averaged
    state = network.state_dict()
    for name, saved_object in {
        "wrapped": {key: state, "epoch": 3, "optimizer": {"lr": 0.1}},
        "nested": {key: {"state_dict": state, "epoch": 3}},
        "prefixed": {key: {f"module.{name}": tensor for name, tensor in state.items()}},
    }.items():
        torch.save(saved_object, tmp_path / f"{name}.pth")
        for ema in (None, averaged):
            loaded = build(f"{NETS}:resnet(depth=8)", checkpoint=tmp_path / f"{name}.pth", ema=ema)
            assert same_weights(loaded.module, network)
            assert str(loaded.weights).endswith(f" of `{key}`") == averaged
        with pytest.raises(CheckpointError, match="only averaged weights" if averaged else "no averaged weights"):
            build(f"{NETS}:resnet(depth=8)", checkpoint=tmp_path / f"{name}.pth", ema=not averaged)
    with pytest.raises(CheckpointError, match=rf"two sets of weights: .*`{key}`"):
        find_state({key: state, (PLAIN if averaged else AVERAGED)[0]: state})


# -- export formats -----------------------------------------------------------------------------------------------

FILES = [(name, precision) for name, known in EXPORT_FORMATS.items() for precision in known.precisions]


@pytest.fixture(scope="module")
def source() -> ExportSource:
    network = build(f"{NETS}:resnet(depth=8)", checkpoint=Path("none"))
    randomise(network.module)
    card = CardFacts(network.origin, network.origin, PREPROCESS, "graft", 4, "", {})
    return ExportSource(network.module, PREPROCESS, pixels(12, 32), facts=source_facts("big", "small"), card=card)


@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_every_export_format_is_documented(name: str) -> None:
    known = EXPORT_FORMATS[name]
    readme = README.read_text(encoding="utf-8").replace("`", "")
    assert known.name == name and known.about in readme
    assert name in help_of(export_options.Format) and known.about.lower() in help_of(export_options.Format).lower()
    assert (known.suffix in help_of(distill_options.Out)) == (known.single is not None)
    with pytest.raises(UsageError) as refused:
        ExportOptions("other")
    assert name in refused.value.fix


@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_options_that_an_export_format_does_not_support_are_refused(name: str) -> None:
    known = EXPORT_FORMATS[name]
    for supported, given in (
        *((precision in known.precisions, {"precision": precision}) for precision in MIN_AGREEMENT),
        *((known.has_graph, option) for option in ({"static": True}, {"dynamic_size": True}, {"pixels": "nhwc"})),
        (known.has_opset, {"opset": OLDEST_OPSET}),
    ):
        if supported:
            assert ExportOptions(name, **given).kind is known
        else:
            with pytest.raises(UsageError, match=r"is supported by|no graph"):
                ExportOptions(name, **given)


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(("name", "precision"), FILES)
def test_every_export_format_is_written_read_back_recorded_and_benchmarked(
    name: str, precision: Precision, source: ExportSource, tmp_path: Path
) -> None:
    options = ExportOptions(name, precision, min_agreement=None if precision == "fp32" else 0.5)
    file = tmp_path / f"student{options.suffix}"
    exported = write(source, options, file)
    assert file.name in files_in_run() and format_of(file) is options.kind
    assert (exported.format, exported.precision, exported.size) == (name, precision, file.stat().st_size)
    assert (exported.opset is not None) == options.kind.has_opset and exported.images == 12
    check = parity_check(source, options)
    again = check.run(options.kind.runner(file.read_bytes()))
    assert (again.error, again.agreement) == pytest.approx((exported.error, exported.agreement))
    with pytest.raises(GateError, match="Nothing was written"):
        check_match(Match(1.0, 0.0, 12), options, noise=False)
    if options.kind.is_benchmarked:
        (entry,) = graftcli.bench(str(file), seconds=0.01).rungs
        assert entry.bytes == exported.size


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize("suffix", single_suffixes())
def test_every_format_of_distills_single_file_is_written_from_the_run(
    suffix: str, source: ExportSource, tmp_path: Path
) -> None:
    assert source.card is not None
    save_student(tmp_path / "run", source.module, source.card)
    side = SimpleNamespace(network=SimpleNamespace(name="resnet"))
    plan = SimpleNamespace(teacher=side, student=side, blocks=(1,))
    train = SimpleNamespace(digest="0", pixels=source.images)
    prepared = cast(PreparedRun, SimpleNamespace(plan=plan, train=train, preprocess=PREPROCESS, blocks=(1,)))
    folder, single = destination(prepared, tmp_path / f"small{suffix}")
    assert folder.name == "resnet-resnet" and single == tmp_path / f"small{suffix}"
    write_single(single, tmp_path / "run", prepared, lambda _: None)
    known = format_of(single)
    assert known is not None and known.suffix == suffix
    expected = parity_check(source, ExportOptions(known.name))
    assert expected.run(known.runner(single.read_bytes())).agreement == 1


def test_a_new_format_is_found_by_the_longest_of_the_suffixes_that_match(monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = EXPORT_FORMATS["onnx"]
    monkeypatch.setattr(options_of_formats, "FORMATS", dict(EXPORT_FORMATS))
    add_format(quantised := ExportFormat("quantised", ".q.onnx", "quantised ONNX", onnx.encode, onnx.runner))
    names = ("a.onnx", "a.Q.ONNX", "q.onnx", ".onnx", "a.pth", "a")
    assert [format_of(Path("runs.pt2", name)) for name in names] == [onnx, quantised, onnx, None, None, None]
    assert ".q.onnx" not in single_suffixes() and "student.q.onnx" in files_in_run()
    with pytest.raises(UsageError, match=r"cannot write a \.q\.onnx file") as refused:
        single_file("a.q.onnx")
    assert "--format quantised" in refused.value.fix


def test_exported_files_of_a_run_are_replaced_with_the_run(tmp_path: Path) -> None:
    for name in files_in_run():
        (tmp_path / name).write_bytes(b"earlier")
    with Store(tmp_path, settings(), overwrite=True, exported=files_in_run()):
        pass
    assert not any((tmp_path / name).exists() for name in files_in_run())
