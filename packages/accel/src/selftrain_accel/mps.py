"""The GPU of an Apple-silicon Mac."""

from __future__ import annotations

from typing import Any

import torch

from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Accelerator


class MpsAccelerator(Accelerator):
    """Metal Performance Shaders: one device, no float64."""

    priority = 10

    def available(self) -> bool:
        """Return whether torch sees an MPS device."""
        return torch.backends.mps.is_available()

    def trainer_settings(self, devices: int) -> dict[str, Any]:
        """Return float32 training on the one GPU.

        Raises:
            ConfigError: `devices` is more than one.
        """
        if devices > 1:
            raise ConfigError(
                f"device.devices: {devices} are asked for, but accel/mps has one: a Mac has a single GPU, which torch "
                "cannot share among ranks\n"
                "  set device.devices to 1; where the memory does not suffice, raise device.micro_batches"
            )
        return {"accelerator": "mps", "devices": 1, "strategy": "auto", "precision": "32-true"}

    def device(self) -> torch.device:
        """Return the GPU."""
        return torch.device("mps")

    @property
    def reduction_dtype(self) -> torch.dtype:
        """float32: the device has no float64."""
        return torch.float32
