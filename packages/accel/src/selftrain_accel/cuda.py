"""CUDA devices."""

from __future__ import annotations

import os
from typing import Any

import torch

from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Accelerator


class CudaAccelerator(Accelerator):
    """GPUs that torch drives through its CUDA interface: NVIDIA's, and AMD's under ROCm. One process per GPU."""

    priority = 20

    def available(self) -> bool:
        """Return whether torch sees a CUDA device."""
        return torch.cuda.is_available()

    def trainer_settings(self, devices: int) -> dict[str, Any]:
        """Return float32 training on `devices` GPUs.

        Raises:
            ConfigError: There are fewer than `devices` GPUs.
        """
        visible = torch.cuda.device_count()
        if devices > visible:
            raise ConfigError(
                f"device.devices: {devices} GPUs are asked for, torch sees {visible}\n"
                f"  lower device.devices to {visible}, or look at CUDA_VISIBLE_DEVICES"
            )
        strategy = "ddp" if devices > 1 else "auto"
        return {"accelerator": "cuda", "devices": devices, "strategy": strategy, "precision": "32-true"}

    def device(self) -> torch.device:
        """Return the GPU of this process: that of its LOCAL_RANK, which Lightning and torchrun set, else the first."""
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))

    @property
    def has_bf16(self) -> bool:
        """Whether the GPU computes in bfloat16 itself, as NVIDIA's do from Ampere on."""
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))

    @property
    def has_sync_batch_norm(self) -> bool:
        """True: it is what torch has it for."""
        return True

    def prefers_channels_last(self, precision: str) -> bool:
        """Return whether tensor cores are used, which read channels innermost."""
        return precision == "bf16"
