"""Who may import whom, and what stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "selftrain_core": ROOT / "packages/core/src",
    "selftrain_segmentation": ROOT / "packages/segmentation/src",
    "selftrain_detection": ROOT / "packages/detection/src",
    "selftrain_augment": ROOT / "packages/augment/src",
    "selftrain_accel": ROOT / "packages/accel/src",
    "selftrain": ROOT / "cli/src",
}
PLUGINS = [f"selftrain_{name}.plugin" for name in ("segmentation", "detection", "augment", "accel")]
LIGHT = ["selftrain_core", "selftrain_core.hookspecs", "selftrain_core.plugins", "selftrain_core.builtin", *PLUGINS]
HEAVY = {"torch", "pydantic", "kornia"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the modules that a source imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def forbidden(package: str, source: str) -> set[str]:
    """Return the distributions that a source of `package` imports although it must not."""
    own = {package, "selftrain_core"}
    found = {module.partition(".")[0] for module in imported(ast.parse(source))}
    return (found & set(SOURCES)) - own


def files() -> Iterator[tuple[str, Path]]:
    for package, folder in SOURCES.items():
        yield from ((package, path) for path in sorted((folder / package).rglob("*.py")))


def test_core_imports_no_sibling_and_others_only_core() -> None:
    assert {package for package, _ in files()} == set(SOURCES)
    wrong = [(str(path), found) for package, path in files() if (found := forbidden(package, path.read_text()))]
    assert not wrong


@pytest.mark.parametrize(
    ("package", "source", "found"),
    [
        ("selftrain_core", "import selftrain_segmentation.task", {"selftrain_segmentation"}),
        ("selftrain_core", "def late():\n    from selftrain import main", {"selftrain"}),
        ("selftrain_augment", "from selftrain_core import keys\nimport selftrain_accel", {"selftrain_accel"}),
        ("selftrain", "if True:\n    import selftrain_detection as d", {"selftrain_detection"}),
        ("selftrain", "import torch\nfrom selftrain_core.config import RunConfig", set()),
    ],
)
def test_the_check_sees_a_wrong_import(package: str, source: str, found: set[str]) -> None:
    assert forbidden(package, source) == found


def modules_after(*names: str) -> set[str]:
    code = "import sys, importlib\nfor n in sys.argv[1:]: importlib.import_module(n)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def exists(module: str) -> bool:
    package, _, rest = module.partition(".")
    return not rest or (SOURCES[package] / package / f"{rest.replace('.', '/')}.py").is_file()


def test_hooks_and_plugins_are_light() -> None:
    assert not modules_after(*filter(exists, LIGHT)) & HEAVY


@pytest.mark.parametrize("module", ["selftrain_core.rounds", "selftrain_core.index", "selftrain_core.config"])
def test_the_loop_never_imports_torch(module: str) -> None:
    found = modules_after(module)
    assert not found & {"torch", "kornia"}
    assert "pydantic" in found, "the check sees what is imported"
