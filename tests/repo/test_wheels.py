"""Each distribution is a wheel that needs core and no sibling, and imports where only core is beside it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PROJECTS = {
    "selftrain_core": ROOT / "packages/core",
    "selftrain_segmentation": ROOT / "packages/segmentation",
    "selftrain_detection": ROOT / "packages/detection",
    "selftrain_augment": ROOT / "packages/augment",
    "selftrain_accel": ROOT / "packages/accel",
    "selftrain": ROOT / "cli",
}

# Run without site-packages' .pth files, so that editable installs of the siblings are out of reach.
IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path[:0] = sys.argv[2:]
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
ours = {name.partition(".")[0] for name in sys.modules if name.startswith("selftrain")}
print(*sorted(ours))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheels")
    for project in PROJECTS.values():
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(project)]
        subprocess.run(command, check=True, capture_output=True)
    return {name: next(folder.glob(f"{name}-*.whl")) for name in PROJECTS}


def required(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        headers = Parser().parsestr(archive.read(name).decode())
    lines = [line for line in headers.get_all("Requires-Dist", []) if "extra ==" not in line]
    names = {line.split(";")[0].split("[")[0].split("=")[0].split(">")[0].strip().replace("-", "_") for line in lines}
    return {name for name in names if name.startswith("selftrain")}


def test_a_wheel_brings_core_and_no_sibling(wheels: dict[str, Path]) -> None:
    needs = {name: required(wheel) for name, wheel in wheels.items()}
    assert needs == {name: set() if name == "selftrain_core" else {"selftrain_core"} for name in PROJECTS}


@pytest.mark.parametrize("name", PROJECTS)
def test_a_wheel_holds_its_package_and_nothing_else(wheels: dict[str, Path], name: str) -> None:
    with zipfile.ZipFile(wheels[name]) as archive:
        files = archive.namelist()
    assert f"{name}/py.typed" in files
    assert any(file.endswith("licenses/LICENSE") for file in files)
    assert {file.partition("/")[0] for file in files} == {name, f"{wheels[name].name.split('-py3')[0]}.dist-info"}


@pytest.mark.parametrize("name", PROJECTS)
def test_a_wheel_imports_beside_core_alone(wheels: dict[str, Path], name: str, tmp_path: Path) -> None:
    chosen = [str(wheels[wanted]) for wanted in {name, "selftrain_core"}]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path)]
    subprocess.run([*install, *chosen], check=True, capture_output=True)
    command = [sys.executable, "-S", "-I", "-W", "ignore", "-c", IMPORT_ALL, name, str(tmp_path)]
    done = subprocess.run([*command, sysconfig.get_path("purelib")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout.split()
    assert set(done.stdout.split()) <= {name, "selftrain_core"}
