"""The rooms of the architecture: each module imports only from rooms before its own, and only `cli` prints."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import graftcli

# modules of one layer may import each other, in one direction; a package and its neighbours may not
LAYERS = (
    ("errors", "events", "folders", "formatting"),
    ("losses",),  # which imports torch when a loss is computed
    ("recipe",),
    ("models", "environment"),
    ("students", "images"),
    ("measure", "store", "distributed"),
    ("graft",),
    ("formats", "report"),
    ("runs",),
    ("comparison", "benching"),
    ("api",),
    ("demo",),
    ("cli",),
)
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
# `import graftcli` offers what `api` does; `python3 -m graftcli` is `cli`
LEVELS |= {"__init__": LEVELS["api"], "__main__": LEVELS["cli"]}

WITHOUT_TORCH = (*LAYERS[0], "recipe")
TALKATIVE = ("cli", "__main__")
FOR_COMMANDS = ("typer", "logging")
WITHOUT_FILES = ("graft",)  # it writes through the store
FOR_FILES = ("pathlib", "os", "io", "shutil", "tempfile")
SPEAKING = ("print", "input", "sys.stdout.write", "sys.stderr.write", "ArgumentParser", "argparse.ArgumentParser")
ENDING = ("exit", "quit", "sys.exit", "os._exit")

ROOT = Path(graftcli.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def part(module: str) -> str:
    """What `module` belongs to right below graftcli: "graftcli.models.cuts" -> "models"."""
    return [*module.split("."), "__init__"][1]


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, full name) of everything that is imported anywhere in a module, inside its functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = module.split(".")
            above = here[: len(here) - node.level + is_package] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def layer_fault(importer: str, imported: str) -> str | None:
    """Why one part of graftcli must not import another."""
    if imported not in LEVELS:
        return f"{imported} has no layer"
    if LEVELS[imported] > LEVELS[importer]:
        return f"{imported} is above {importer}"
    packages = {name for name in (importer, imported) if (ROOT / name).is_dir()}
    if packages and importer not in (imported, "__init__", "__main__") and LEVELS[imported] == LEVELS[importer]:
        return f"{imported} stands beside {importer}"
    return None


def import_fault(module: str, imported: str) -> str | None:
    """Why a module must not import what bears this full name."""
    own, top = part(module), imported.partition(".")[0]
    if top == "graftcli":
        return None if imported == "graftcli.__version__" else layer_fault(own, part(imported))
    forbidden = {
        "torch": own in WITHOUT_TORCH,
        "rich": not module.startswith("graftcli.cli.render"),
        "click": True,  # Typer brings its own
        **dict.fromkeys(FOR_COMMANDS, own not in TALKATIVE),
        **dict.fromkeys(FOR_FILES, own in WITHOUT_FILES),
    }
    return f"{top} is not for {own}" if forbidden.get(top) else None


def words(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, name) of every call that speaks to the user or ends the process, and of every SystemExit raised."""
    calls = [(node.lineno, ast.unparse(node.func)) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    raised = [
        (node.lineno, ast.unparse(node.exc)) for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc
    ]
    return [(line, name) for line, name in calls if name in SPEAKING + ENDING] + [
        (line, "SystemExit") for line, name in raised if name.startswith("SystemExit")
    ]


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What the source of a module breaks of the design, each with its line."""
    own = part(module)
    if own not in LEVELS:
        return [f"{module} has no layer"]
    tree = ast.parse(source)
    imported = [(line, import_fault(module, name)) for line, name in imports(tree, module, is_package)]
    talk = [] if own in TALKATIVE else words(tree)
    return [f"{module}:{line} {fault}" for line, fault in imported + talk if fault]


@pytest.mark.parametrize("module", list(MODULES))
def test_every_module_keeps_to_its_layer(module: str) -> None:
    path = MODULES[module]
    assert violations(path.read_text(encoding="utf-8"), module, path.name == "__init__.py") == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    needs: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [name for _, name in imports(tree, module, path.name == "__init__.py")]
        # `from graftcli.models import cuts` needs the module, `from graftcli.models.cuts import cuts` what holds it
        needs[module] = {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys()
        needs[module] -= {module, "graftcli"}
    assert set(TopologicalSorter(needs).static_order()) == MODULES.keys() - {"graftcli"} | needs.keys()


@pytest.mark.parametrize("package", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_no_module_takes_the_place_of_a_name_in_its_package(package: str) -> None:
    """Imported, `store.cache` is `cache` in `store`, whatever that was before."""
    tree = ast.parse(MODULES[package].read_text(encoding="utf-8"))
    bound = {
        alias.asname or alias.name: full
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias, (_, full) in zip(node.names, imports(node, package, True), strict=False)
    }
    bound |= {node.name: "" for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    inside = {name.removeprefix(f"{package}.") for name in MODULES if name.startswith(f"{package}.")}
    taken = [name for name, full in bound.items() if name in inside and not full.startswith(f"{package}.{name}")]
    assert taken == []


BAD = """
import logging
import torch
from rich.console import Console
import graftcli
from graftcli import __version__, api
from graftcli.models.cuts import Cut
from graftcli.utils import helper

def late() -> None:
    from graftcli.graft import run
    print("hello")
    raise SystemExit(1)
"""


def test_the_engine_knows_no_files() -> None:
    source = "import os\nfrom pathlib import Path"
    found = ["graftcli.graft.engine:1 os is not for graft", "graftcli.graft.engine:2 pathlib is not for graft"]
    assert (violations(source, "graftcli.graft.engine"), violations(source, "graftcli.store.row_file")) == (found, [])


def test_a_module_that_breaks_the_design_is_found_line_by_line() -> None:
    assert violations(BAD, "graftcli.recipe") == [
        "graftcli.recipe:2 logging is not for recipe",
        "graftcli.recipe:3 torch is not for recipe",
        "graftcli.recipe:4 rich is not for recipe",
        "graftcli.recipe:5 __init__ is above recipe",
        "graftcli.recipe:6 api is above recipe",
        "graftcli.recipe:7 models is above recipe",
        "graftcli.recipe:8 utils has no layer",
        "graftcli.recipe:11 graft is above recipe",
        "graftcli.recipe:12 print",
        "graftcli.recipe:13 SystemExit",
    ]


@pytest.mark.parametrize(
    ("module", "source", "faults"),
    [
        ("graftcli.helpers", "", ["graftcli.helpers has no layer"]),
        (
            "graftcli.models.cuts",
            "from . import trace\nfrom .trace import Graph\nfrom ..errors import PairError",
            [],
        ),
        (
            "graftcli.models.cuts",
            "from ..measure import macs",
            ["graftcli.models.cuts:1 measure is above models"],
        ),
        (
            "graftcli.images",
            "from graftcli.students import make",
            ["graftcli.images:1 students stands beside images"],
        ),
        ("graftcli.images", "from graftcli.images.pixels import decode", []),
        ("graftcli.api", "import sys; sys.exit(1)", ["graftcli.api:1 sys.exit"]),
        ("graftcli.cli.plan", "import typer; print(1)\nfrom graftcli import api", []),
        ("graftcli.cli.plan", "from rich import box", ["graftcli.cli.plan:1 rich is not for cli"]),
        ("graftcli.cli.render", "from rich import box", []),
        ("graftcli.cli.plan", "import click", ["graftcli.cli.plan:1 click is not for cli"]),
        ("graftcli", "from graftcli.api import plan", []),
        ("graftcli.__main__", "from graftcli.cli import main", []),
    ],
)
def test_what_a_layer_allows(module: str, source: str, faults: list[str]) -> None:
    assert violations(source, module) == faults


def test_a_relative_import_in_a_package_counts_from_that_package() -> None:
    assert violations("from .cuts import Cut", "graftcli.models", is_package=True) == []
    assert violations("from ..graft import run", "graftcli.models", is_package=True) == [
        "graftcli.models:1 graft is above models"
    ]
