"""Files and functions stay short enough to read."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("packages", "cli", "tests", "benchmarks", "examples")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def too_long(source: str) -> Iterator[str]:
    """Yield what of a source is too long."""
    if (lines := len(source.splitlines())) > MAX_FILE_LINES:
        yield f"{lines} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            if (lines := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES:
                yield f"{node.name}: {lines} lines"


def test_nothing_is_too_long() -> None:
    found = {str(path.relative_to(ROOT)): list(too_long(path.read_text())) for path in sources()}
    assert len(found) > 50
    assert not {path: long for path, long in found.items() if long}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = 1\n" * 400, []),
        ("x = 1\n" * 401, ["401 lines"]),
        ("def f():\n" + "    x = 1\n" * 59, []),
        ("class A:\n    def f(self):\n" + "        x = 1\n" * 60, ["f: 61 lines"]),
    ],
)
def test_the_check_sees_what_is_too_long(source: str, found: list[str]) -> None:
    assert list(too_long(source)) == found
