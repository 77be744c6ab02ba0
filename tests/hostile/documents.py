"""Hostile documents, made by code out of a finished run: each wants to run a command, or to break its reader.

A `Document` writes one into a folder and names the commands that read it. What would run leaves a canary behind.
"""

import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftcli.models.loading.tensor_file import read, serialized
from graftcli.store.run_file import digest_of
from tests.records import write_document

CANARY = "canary"  # the file that code from a document leaves in the working directory
TOUCH = f"touch {CANARY}"
EVIL = f"""
from os import system
open({CANARY!r}, "w").close()
def net(**_):
    system({TOUCH!r})
"""


@dataclass(frozen=True)
class Document:
    """A way to change a run's folder, and the commands that read what was changed."""

    name: str
    write: Callable[[Path], None]  # given the folder of a run, `run` within it
    commands: Sequence[Sequence[str]]
    allowed: frozenset[int] = field(default_factory=lambda: frozenset({2, 3, 5, 6, 7}))


REFUSED = frozenset({6})
IMAGES = ("--images", "images")
READERS: tuple[tuple[str, ...], ...] = (
    ("eval", "run", *IMAGES, "--teacher", "test_resnet", "--teacher-checkpoint", "none"),
)
READERS += (("export", "run", "--out", "out.onnx"), ("bench", "run", "--seconds", "0.01"))
FILE_READERS: tuple[tuple[str, ...], ...] = (
    ("eval", "file.safetensors", *READERS[0][2:]),
    ("export", "file.safetensors", "--out", "out.onnx"),
)
RUN_READERS: tuple[tuple[str, ...], ...] = (
    ("report", "run"),
    ("export", "run", "--out", "out.onnx"),
    ("bench", "run", "--seconds", "0.01"),
)
RUN_READERS += (("partial", "--blocks", "1", "--run", "run", "--out", "other"), ("check", "run"))
CALLS: tuple[str, ...] = (
    *(
        f"system(command={TOUCH!r})",
        f"Popen(args={TOUCH.split()!r})",
        f"run(args={TOUCH.split()!r})",
        "exec(source='1')",
    ),
    *(f"system({TOUCH!r})", "net", "net()", "net(a=[])()", "(" * 3000, "a" * 100_000, "__import__('os')", "lambda: 0"),
    *("net(**{})", "os.system", "", "net(depth=" + "9" * 5000 + ")", "nét", "net(x=__import__('os'))"),
)
PLACES: tuple[str, ...] = (
    "os",
    "subprocess",
    "builtins",
    "importlib",
    "shutil",
    "ctypes",
    "timm",
    "graftcli.cli",
    "runpy",
)
FILES: tuple[str, ...] = (
    "evil.py",
    "./evil.py",
    "{here}/evil.py",
    "{os}",
    "/dev/stdin.py",
    "../evil.py",
    "evil.py\0.py",
)
ARGUMENTS: tuple[str, ...] = (
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
    "features_only",
)
ARGUMENTS += ("feature_cfg", "weights", "weights_backbone", "model_cfg", "pretrained_filter_fn", "device", "scriptable")
NAMES: tuple[str, ...] = (
    "hf-hub:evil/repo",
    "local-dir:evil",
    "../evil",
    "",
    "test_resnet\n",
    "resnet" * 60,
    "evil.py:net",
    "os:system",
)
VALUES: tuple[Any, ...] = (
    None,
    -1,
    10**15,
    1e308,
    "x",
    "x" * 100_000,
    [],
    {},
    [[[[]]]],
    True,
    ["a"] * 5000,
    "\u202e\x1b[2J",
)


def everything() -> Iterator[Document]:
    """The whole corpus, in a fixed order."""
    yield from _origins()
    yield from _metadata()
    yield from _fields("graft.json", READERS[:1], _set_graft, GRAFT_FIELDS)
    yield from _records()
    yield from _fields("run.json", RUN_READERS[:1] + RUN_READERS[3:], _set_run, RUN_FIELDS)
    yield from _configs()
    yield from _reports()
    yield from _recipes()
    yield from _texts()
    yield from _special_files()
    yield from _links()
    yield Document("run.json hub", _hub, (("eval", "run", *IMAGES), ("report", "run")), REFUSED)


# -- graft.json and the metadata of a safetensors file ------------------------------------------------------------


def code(where: str, call: str, sha256: str | None = None) -> dict[str, Any]:
    return {"kind": "code", "where": where, "call": call, "kwargs": {}, "sha256": sha256}


def _places(here: Path) -> Iterator[tuple[str, str]]:
    """What documents want to have called, and where it is."""
    yield from ((place, CALLS[0]) for place in PLACES)
    yield from ((file.format(here=here, os=here / "os.py"), "net") for file in FILES)
    yield from ((f"{here}/evil.py", call) for call in CALLS)


def _origins() -> Iterator[Document]:
    for number, _ in enumerate(_places(Path())):
        for inside in (False, True) if number % 4 == 0 else (False,):

            def write(folder: Path, number: int = number, inside: bool = inside) -> None:
                _prepare(folder)
                where, call = list(_places(folder.resolve()))[number]
                change_graft(folder, lambda facts: _take(facts, code(where, call), inside))

            yield Document(
                f"graft.json code {number}{' derived' if inside else ''}", write, READERS[number % 3 : number % 3 + 1]
            )
    for number, key in enumerate(ARGUMENTS):

        def argument(folder: Path, key: str = key) -> None:
            _prepare(folder)
            change_graft(
                folder, lambda facts: facts["student"].update(kind="timm", name="test_resnet", kwargs={key: "evil"})
            )

        yield Document(f"graft.json argument {key}", argument, READERS[number % 3 : number % 3 + 1], REFUSED)
    for name in NAMES:

        def named(folder: Path, name: str = name) -> None:
            _prepare(folder)
            change_graft(folder, lambda facts: facts["student"].update(kind="timm", name=name, kwargs={}))

        yield Document(f"graft.json name {name[:20]!r}", named, READERS[:1], REFUSED)


def _take(facts: dict[str, Any], origin: Mapping[str, Any], inside: bool) -> None:
    """The document's student is built by this origin, or derived from it."""
    own = {key: facts["student"][key] for key in ("name", "input_size", "num_classes", "preprocess")}
    if inside:
        made = {"kind": "derived", "spec": "decouple", "kept": [], "whole": [], "replaced": {}}
        facts["student"] = {**made, "base": {**origin, **own}, **own}
    else:
        facts["student"] = {**origin, **own}


def _metadata() -> Iterator[Document]:
    for number, _ in enumerate(_places(Path())):

        def write(folder: Path, number: int = number) -> None:
            _prepare(folder)
            where, call = list(_places(folder.resolve()))[number]
            tensors, facts = read(folder / "run" / "model.safetensors")
            _take(facts, code(where, call), number % 5 == 0)
            (folder / "file.safetensors").write_bytes(serialized(tensors, facts))

        yield Document(f"metadata code {number}", write, FILE_READERS[number % 2 : number % 2 + 1], REFUSED)


def _prepare(folder: Path) -> None:
    (folder / "evil.py").write_text(EVIL)
    (folder / "os.py").write_text(f"def system(command): open({CANARY!r}, 'w').close()\ndef net(): system('')\n")


def change_graft(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """graft.json changed, and the metadata of the weights with it, as somebody who means harm would."""
    file = folder / "run" / "graft.json"
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))
    weights = folder / "run" / "model.safetensors"
    tensors, _ = read(weights)
    weights.write_bytes(serialized(tensors, {**facts, "origin": facts.get("student")}))
    change_run(folder, lambda _: None)


GRAFT_FIELDS: tuple[str, ...] = (
    "format",
    "kind",
    "student",
    "student.kind",
    "student.kwargs",
    "student.input_size",
    "student.num_classes",
)
GRAFT_FIELDS += (
    "student.preprocess.std",
    "student.preprocess.crop_pct",
    "preprocess",
    "preprocess.size",
    "classes",
    "hybrid",
)


def _set_graft(folder: Path, path: str, value: object) -> None:
    change_graft(folder, lambda facts: put(facts, path, value))


def put(document: Any, path: str, value: Any) -> None:
    """The value at a dotted path, where there is such a place."""
    *above, last = path.split(".")
    for step in above:
        document = document[int(step) if step.lstrip("-").isdigit() else step]
    document[last] = value


def _fields(
    name: str, commands: Sequence[Sequence[str]], change: Callable[[Path, str, Any], None], fields: Sequence[str]
) -> Iterator[Document]:
    """Each field with a few of the values that do not belong there, in turn."""
    for number, path in enumerate(fields):
        for turn in range(2):
            value = copy.deepcopy(VALUES[(2 * number + 5 * turn) % len(VALUES)])

            def write(folder: Path, path: str = path, value: object = value) -> None:
                change(folder, path, value)

            command = commands[(number + turn) % len(commands)]
            yield Document(f"{name} {path}={str(value)[:12]!r}", write, (command,), frozenset({0, 2, 3, 4, 5, 6, 7}))


# -- run.json -----------------------------------------------------------------------------------------------------


def change_run(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """run.json changed, with a digest that fits, and the digests of the files as they are."""
    import hashlib

    file = folder / "run" / "run.json"
    run = json.loads(file.read_text())
    run["files"] = {
        name: hashlib.sha256((folder / "run" / name).read_bytes()).hexdigest()
        for name in run["files"]
        if (folder / "run" / name).is_file()
    }
    change(run)
    try:
        write_document(folder / "run", {key: value for key, value in run.items() if key != "digest"})
    except ValueError:  # a value that JSON has no word for
        file.write_text(json.dumps({**run, "digest": digest_of(run)}))


def _records() -> Iterator[Document]:
    specs = (
        "os:system(command='touch canary')",
        "evil.py:net",
        "{here}/evil.py:net",
        "subprocess:getoutput(cmd='touch canary')",
    )
    for spec in specs:
        for role in ("teacher", "student"):
            for command in RUN_READERS[:-1]:

                def write(folder: Path, spec: str = spec, role: str = role) -> None:
                    _prepare(folder)
                    (folder / "run" / "report.json").unlink(missing_ok=True)
                    (folder / "run" / "model.safetensors").unlink()  # which makes readers build the networks again
                    text = spec.format(here=folder.resolve())
                    change_run(folder, lambda run: put(run, f"sessions.-1.config.networks.{role}", text))

                known = frozenset({2, 3, 5, 6, 7})
                yield Document(f"run.json {role} {spec[:14]} {command[0]}", write, (command,), known)
    for command in RUN_READERS[:-1]:

        def pickled(folder: Path) -> None:
            import pickle

            class Evil:
                def __reduce__(self) -> tuple[Any, ...]:
                    import os

                    return os.system, (TOUCH,)

            (folder / "evil.pth").write_bytes(pickle.dumps(Evil()))
            (folder / "run" / "report.json").unlink(missing_ok=True)
            (folder / "run" / "model.safetensors").unlink()

            def change(run: dict[str, Any]) -> None:
                put(run, "sessions.-1.config.networks.unsafe_load", True)
                put(run, "sessions.-1.config.networks.teacher_checkpoint", str(folder.resolve() / "evil.pth"))
                put(run, "sessions.-1.config.networks.trust_code", True)
                put(run, "sessions.-1.config.networks.recorded", [])

            change_run(folder, change)

        known = frozenset({2, 3, 5, 6, 7})
        yield Document(f"run.json pickle {command[0]}", pickled, (command,), known)


RUN_FIELDS: tuple[str, ...] = (
    "format",
    "status",
    "settings",
    "settings.blocks",
    "settings.cuts",
    "settings.cuts.student",
    "settings.recipe",
)
RUN_FIELDS += ("settings.recipe.stages", "settings.teacher", "settings.teacher.origin", "settings.student.origin.kind")
RUN_FIELDS += ("sessions", "sessions.-1.config", "sessions.-1.config.networks", "sessions.-1.config.how.seed", "fixed")
RUN_FIELDS += (
    "sessions.-1.config.how.recipe",
    "sessions.-1.config.images",
    "sessions.-1.config.look.img_size",
    "fixed.threads",
)
RUN_FIELDS += (
    "sessions.-1.warnings",
    "sessions.-1.command",
    "result",
    "result.params",
    "result.agreement",
    "files",
    "singles",
)
RUN_FIELDS += (
    "fixed.device",
    "sessions.-1.config.how.device",
    "sessions.-1.config.how.overrides",
    "settings.seed",
    "ended",
)


def _set_run(folder: Path, path: str, value: object) -> None:
    change_run(folder, lambda run: put(run, path, value))


# -- config.json, report.json, recipes, other texts ---------------------------------------------------------------


def _configs() -> Iterator[Document]:
    changes: dict[str, Any] = {f"model_args.{name}": "evil" for name in ARGUMENTS}
    changes |= {"architecture": "hf-hub:evil/x", "num_classes": 10**9, "pretrained_cfg.input_size": [3, 10**6, 10**6]}
    changes |= {"pretrained_cfg.mean": "x", "pretrained_cfg.crop_pct": 0, "pretrained_cfg": 3, "model_args": "x"}
    changes |= {"pretrained_cfg.custom_load": "hf", "pretrained_cfg.file": "/etc/passwd", "label_names": {"a": []}}
    for path, value in changes.items():

        def write(folder: Path, path: str = path, value: object = value) -> None:
            file = folder / "run" / "config.json"
            config = json.loads(file.read_text())
            config.setdefault("model_args", {})
            put(config, path, value)
            file.write_text(json.dumps(config))

        command = ("eval", "local-dir:run", *READERS[0][2:])
        yield Document(f"config.json {path}", write, (command,), frozenset({0, 2, 3, 4, 5, 6, 7}))


def _reports() -> Iterator[Document]:
    texts = (
        "",
        "{",
        "[]",
        "null",
        "[" * 50_000,
        '{"format": 1}',
        '{"format": 1, "plan": 3, "cuts": {}, "channels": 0}',
    )
    for number, text in enumerate(texts):

        def write(folder: Path, text: str = text) -> None:
            (folder / "run" / "report.json").write_text(text)

        yield Document(f"report.json {number}", write, (("report", "run"),), frozenset({0, 6, 7}))


def _recipes() -> Iterator[Document]:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    texts = (
        *("!!python/object/apply:os.system ['touch canary']", "!!python/name:os.system", "name: !!python/module:os"),
        *(
            "stages: !!python/object/new:subprocess.Popen [['touch', 'canary']]",
            bomb,
            "[" * 20_000,
            "{}",
            "",
            "\0",
            "- " * 9999,
        ),
        *("name: x\nabout: y\nstages:\n- {name: graft, steps: 1e999}", "a: 2026-13-45", "<<: 3", "name: " + "9" * 6000),
    )
    for number, text in enumerate(texts):

        def write(folder: Path, text: str = text) -> None:
            (folder / "evil.yaml").write_text(text)

        yield Document(f"recipe {number}", write, (("recipes", "validate", "evil.yaml"),))


def _texts() -> Iterator[Document]:
    """A card and metrics that nothing may take for more than text."""
    for number, text in enumerate(("<script>alert(1)</script>", "\x1b]0;x\x07", "{{ 7*7 }}", "\0" * 999, "{" * 9999)):
        for name in ("README.md", "metrics.jsonl", "bench.json"):

            def write(folder: Path, name: str = name, text: str = text) -> None:
                (folder / "run" / name).write_text(text)

            yield Document(f"{name} {number}", write, (("report", "run"),), frozenset({0, 6}))


def _special_files() -> Iterator[Document]:
    """Pipes that nobody writes to, and devices without an end, where a document should be."""
    names = ("run/graft.json", "run/run.json", "run/model.safetensors", "run/config.json", "run/report.json")
    for number, name in enumerate(names):
        for kind in ("pipe", "device", "folder"):

            def write(folder: Path, name: str = name, kind: str = kind) -> None:
                (folder / name).unlink()
                if kind == "pipe":
                    os.mkfifo(folder / name)
                elif kind == "device":
                    (folder / name).symlink_to("/dev/zero")
                else:
                    (folder / name).mkdir()

            command = (*READERS, *RUN_READERS)[number] if "config" not in name else ("eval", "local-dir:run", *IMAGES)
            known = frozenset({0, 2, 3, 5, 6, 7})
            yield Document(f"{name.removeprefix('run/')} as a {kind}", write, (command, ("check", "run")), known)


def _links() -> Iterator[Document]:
    """Links in a run's folder, which lead to files that belong to somebody else."""
    for name in ("state", "cache", ".lock", "report.json", "report.html", "bench.json", "metrics.jsonl", "README.md"):

        def write(folder: Path, name: str = name) -> None:
            (folder / "victim").mkdir()
            (folder / "victim" / "precious.safetensors").write_text("precious")
            place = folder / "run" / name
            place.unlink(missing_ok=True)
            target = "../victim" if name in ("state", "cache") else "../victim/precious.safetensors"
            place.symlink_to(target)
            data = (folder / "run" / "model.safetensors").read_bytes()
            (folder / "run" / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

        commands = (("eval", "run", *READERS[0][2:]), ("report", "run"), ("bench", "run", "--seconds", "0.01"))
        yield Document(f"link {name}", write, commands, frozenset({0, 2, 3, 6, 7}))


def _hub(folder: Path) -> None:
    (folder / "run" / "report.json").unlink(missing_ok=True)
    (folder / "run" / "model.safetensors").unlink()
    change_run(folder, lambda run: put(run, "sessions.-1.config.networks.teacher", "hf-hub:evil/repo"))


VICTIM = "victim/precious.safetensors"  # what no command may change, where a document links to it
