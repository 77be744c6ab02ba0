"""What `import graftcli` offers is there, and is imported when it is asked for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import graftcli
from graftcli import api

SOURCE = Path(api.__file__).read_text(encoding="utf-8")


def test_everything_offered_is_there_and_known_to_type_checkers() -> None:
    typed = {
        alias.name for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(dir(api)) == typed - {"import_module", "TYPE_CHECKING", "Any"}
    assert all(getattr(api, name).__name__ == name for name in dir(api))


def test_the_package_offers_what_its_api_does() -> None:
    """`export` is a package's name there, and an inspection is made, not given."""
    assert set(graftcli.__all__) - {"__version__"} == set(dir(api)) - {"export", "Inspection"}
    assert all(getattr(graftcli, name) is getattr(api, name) for name in graftcli.__all__ if name != "__version__")


def test_what_is_not_offered_is_not_there() -> None:
    with pytest.raises(AttributeError, match=r"module 'graftcli\.api' has no attribute 'distil'"):
        api.distil  # noqa: B018


def test_a_plan_imports_nothing_that_only_training_needs() -> None:
    program = (
        "import sys, graftcli; graftcli.plan('resnet10t', 'resnet10t', img_size=32);"
        "print(*(name for name in ('onnx', 'jinja2', 'graftcli.graft', 'graftcli.formats') if name in sys.modules))"
    )
    told = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == []
