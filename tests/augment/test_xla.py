"""On an XLA device, where torch-xla is installed (PJRT_DEVICE=CPU will do): same draws, same images, no new shapes."""

from __future__ import annotations

import pytest
import torch

from selftrain_augment.augment import Augment
from selftrain_augment.config import S1Config, S2Config, S3Config, S4Config
from selftrain_core.keys import fold
from selftrain_core.testing import assert_equal
from selftrain_core.testing.samples import object_batch

xla = pytest.importorskip("torch_xla")
metrics = pytest.importorskip("torch_xla.debug.metrics")

CONFIGS = [
    S1Config(),
    S2Config(policy="v1"),
    S3Config(policy="v2"),
    S2Config(policy="v3"),
    S4Config(operations="tf-vision", num_operations=2),
]


def compilations() -> int:
    found = metrics.metric_data("CompileTime")
    return int(found[0]) if found else 0


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_as_on_a_processor_and_compiled_once(config: S1Config) -> None:
    augment, batch = Augment(config), object_batch(6)
    there = batch.to(xla.device())
    xla.sync()
    known = None
    for visit in range(4):
        key_B = fold(7, batch.id_B, batch.visit_B + visit)
        expected = augment(batch, key_B)
        found = augment(there, key_B.to(xla.device()))
        xla.sync()
        torch.testing.assert_close(found.image_B3HW.cpu(), expected.image_B3HW, rtol=0, atol=1e-4)
        ours, theirs = found.targets.to("cpu"), expected.targets
        assert_equal(ours.boxes_BN4, theirs.boxes_BN4, "boxes", atol=1e-4)
        assert_equal(ours.label_BN, theirs.label_BN, "labels")
        assert ours.mask_BHW is not None and theirs.mask_BHW is not None
        # A pixel whose centre falls onto another's edge may be either.
        assert (ours.mask_BHW.int() - theirs.mask_BHW.int()).bool().float().mean() < 1e-3
        assert known in (None, compilations()), "the next visit is compiled anew"
        known = compilations()
