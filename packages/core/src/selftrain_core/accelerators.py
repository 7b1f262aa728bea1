"""The CPU, and the choice among the accelerators that plugins offer."""

from __future__ import annotations

from typing import Any

import torch

from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Accelerator
from selftrain_core.plugins import Registry, load_component


class CpuAccelerator(Accelerator):
    """The processor. Several devices are that many processes, joined by gloo."""

    priority = 0

    def available(self) -> bool:
        """Return True: there always is one."""
        return True

    def trainer_settings(self, devices: int) -> dict[str, Any]:
        """Return float32 training on `devices` processes."""
        strategy = "ddp" if devices > 1 else "auto"
        return {"accelerator": "cpu", "devices": devices, "strategy": strategy, "precision": "32-true"}

    def device(self) -> torch.device:
        """Return the CPU."""
        return torch.device("cpu")


def select_accelerator(name: str, registry: Registry) -> Accelerator:
    """Return the accelerator called `name`, or for ``auto`` the available one with the highest priority.

    Raises:
        ConfigError: The named one is not available here, or torch sees a GPU that no installed plugin claims.
        UnknownComponentError: There is none of that name.
    """
    if name != "auto":
        chosen: Accelerator = load_component(registry.find("accelerators", name))()
        if not chosen.available():
            raise ConfigError(f"device.accelerator: '{name}' is not available on this machine; 'auto' takes what is")
        return chosen
    offered: list[Accelerator] = [load_component(f)() for f in registry.components["accelerators"].values()]
    best = max((a for a in offered if a.available()), key=lambda a: a.priority)
    unclaimed = _gpu_that_torch_sees()
    if unclaimed and best.device().type == "cpu":
        raise ConfigError(
            f"torch sees a {unclaimed} device, but no installed plugin trains on it\n"
            "  to use it: pip install selftrain-accel\n"
            "  to train on the processor all the same: --set device.accelerator=core/cpu"
        )
    return best


def _gpu_that_torch_sees() -> str:
    if torch.cuda.is_available():
        return "CUDA"
    return "MPS" if torch.backends.mps.is_available() else ""
