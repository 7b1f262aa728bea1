"""The projects' files: one version, and every dependency declared."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

import selftrain_core

ROOT = Path(__file__).parents[2]
PROJECTS = {
    "selftrain_core": ROOT / "packages/core",
    "selftrain_segmentation": ROOT / "packages/segmentation",
    "selftrain_detection": ROOT / "packages/detection",
    "selftrain_augment": ROOT / "packages/augment",
    "selftrain_accel": ROOT / "packages/accel",
    "selftrain": ROOT / "cli",
}
DISTRIBUTION = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "pytorch_lightning": "pytorch-lightning"}
"""Names of distributions where no installed one tells them."""


def project(name: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((PROJECTS[name] / "pyproject.toml").read_text())["project"]
    return found


def plain(requirement: str) -> str:
    """Return the name in a requirement, normalised."""
    for sign in "[=<>!~; ":
        requirement = requirement.partition(sign)[0]
    return requirement.lower().replace("_", "-")


def every_requirement(name: str) -> list[str]:
    """Return a project's dependencies, those of its extras too."""
    found = project(name)
    return [*found["dependencies"], *(r for extra in found.get("optional-dependencies", {}).values() for r in extra)]


def declared(name: str) -> set[str]:
    """Return what a project declares, in extras too, and what core's extra [timm] brings to those that ask for it."""
    found = project(name)
    requirements = [
        *found["dependencies"],
        *(r for extra in found.get("optional-dependencies", {}).values() for r in extra),
    ]
    names = {plain(requirement) for requirement in requirements}
    if name != "selftrain_core" and any("selftrain-core[timm]" in requirement for requirement in requirements):
        names |= {plain(requirement) for requirement in project("selftrain_core")["optional-dependencies"]["timm"]}
    return names


def at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a tree's nodes without what only type checkers see."""
    yield node
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    for child in ast.iter_child_nodes(node):
        yield from at_run_time(child)


def third_party(name: str) -> set[str]:
    """Return the top-level modules that a project's sources import, but for the standard library and ours."""
    found: set[str] = set()
    for path in (PROJECTS[name] / "src").rglob("*.py"):
        for node in at_run_time(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return {module for module in found if module not in sys.stdlib_module_names and not module.startswith("selftrain")}


# What core depends on is there wherever core is: its contracts are made of these.
FROM_CORE = {"torch", "numpy", "pydantic", "pluggy", "pillow", "pyarrow", "pytorch-lightning", "torchmetrics", "pyyaml"}


@pytest.mark.parametrize("name", PROJECTS)
def test_what_is_imported_is_declared(name: str) -> None:
    known = packages_distributions()
    allowed = declared(name) | (set() if name == "selftrain_core" else FROM_CORE)
    missing = {
        module
        for module in third_party(name)
        if not {plain(d) for d in known.get(module, [DISTRIBUTION.get(module, module)])} & allowed
    }
    assert not missing


def test_what_others_take_from_core_core_declares() -> None:
    assert {plain(requirement) for requirement in project("selftrain_core")["dependencies"]} >= FROM_CORE


def test_versions_are_one() -> None:
    assert {project(name)["version"] for name in PROJECTS} == {selftrain_core.__version__}


def test_siblings_are_bound_to_the_same_version() -> None:
    for name in PROJECTS:
        for requirement in every_requirement(name):
            if plain(requirement).startswith("selftrain-"):
                assert requirement.endswith(f"=={selftrain_core.__version__}"), f"{name}: {requirement}"


def test_entry_points_name_the_plugins() -> None:
    for name, folder in PROJECTS.items():
        has_plugin = (folder / "src" / name / "plugin.py").is_file()
        expected = {name.removeprefix("selftrain_"): f"{name}.plugin"} if has_plugin else {}
        assert project(name).get("entry-points", {}).get("selftrain", {}) == expected


@pytest.mark.parametrize("name", PROJECTS)
def test_every_wheel_is_typed_licensed_and_described(name: str) -> None:
    folder = PROJECTS[name]
    assert (folder / "src" / name / "py.typed").is_file()
    assert (folder / "README.md").read_text().strip()
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
