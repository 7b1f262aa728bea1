"""Settings of all tests: one thread, so that runs beside each other do not wait for one another; Hypothesis by rote."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported, here and in processes started here

from hypothesis import HealthCheck, settings

settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")
