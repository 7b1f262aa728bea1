"""Peak memory of labelling does not grow with the pool."""

import runpy
from pathlib import Path

import pytest

from selftrain_core.testing.samples import write_images

SCRIPT = Path(__file__).parents[2] / "benchmarks/labelling_memory.py"
MEGABYTES = 12.0
"""How much more 20,000 images may take than 1,000: the mapped list of images, some 150 bytes each, and noise.

A list of their places alone would be as much again, one of their pictures 60.
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_peak_memory_of_labelling(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{n:02}" for n in range(53)], size=(32, 32))
    measure = runpy.run_path(str(SCRIPT))["measure"]
    small, large = measure(tmp_path, 1_000), measure(tmp_path, 20_000)
    for name in ("process", "reader"):
        assert large[name] - small[name] < MEGABYTES, f"the {name} took {small[name]:.1f} MB, then {large[name]:.1f} MB"
