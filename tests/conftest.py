"""Settings of all tests: one thread, so that runs beside each other do not wait for one another; no luck."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported, here and in processes started here

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    if (torch := sys.modules.get("torch")) is not None:  # few tests need it, and it takes seconds to import
        torch.manual_seed(0)
