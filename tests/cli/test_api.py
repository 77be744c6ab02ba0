"""What `import graftcli` offers is there, and is imported when it is asked for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import graftcli

SOURCE = Path(graftcli.__file__).read_text(encoding="utf-8")


def test_everything_offered_is_there_and_known_to_type_checkers() -> None:
    typed = {
        alias.name for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    offered = set(graftcli.__all__) - {"__version__"}
    assert offered == typed - {"import_module", "TYPE_CHECKING", "Any"}
    assert set(dir(graftcli)) == set(graftcli.__all__)
    assert all(getattr(graftcli, name).__name__ == name for name in offered)


def test_what_is_not_offered_is_not_there() -> None:
    with pytest.raises(AttributeError, match=r"module 'graftcli' has no attribute 'distil'"):
        graftcli.distil  # noqa: B018


def test_a_plan_imports_nothing_that_only_training_needs() -> None:
    program = (
        "import sys, graftcli; graftcli.plan('resnet10t', 'resnet10t', img_size=32);"
        "print(*(name for name in ('onnx', 'jinja2', 'graftcli.graft', 'graftcli.formats') if name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
