"""What every accelerator must do (`selftrain_core.interfaces.Accelerator`); needs no such device."""

from __future__ import annotations

import inspect
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Accelerator
from selftrain_core.testing.component import ComponentContract

_REQUIRED = {"accelerator", "devices", "strategy", "precision"}


class AcceleratorContract(ComponentContract):
    """Inherit and name the accelerator."""

    kind = "accelerators"
    interface = Accelerator

    def accelerator(self) -> Accelerator:
        """Return the accelerator."""
        accelerator: Accelerator = self.load()()
        return accelerator

    def test_availability(self) -> None:
        """Whether the device is there can be asked anywhere, and the priority is a number."""
        accelerator = self.accelerator()
        assert isinstance(accelerator.available(), bool), f"available() is {accelerator.available()!r}"
        assert isinstance(accelerator.priority, int), f"priority is {accelerator.priority!r}"

    def test_trainer_settings(self) -> None:
        """The settings are arguments of Lightning's Trainer, and take as many devices as were asked for.

        Where there are fewer, a `ConfigError` says so.
        """
        known = set(inspect.signature(pl.Trainer.__init__).parameters)
        for devices in (1, 2):
            settings, refusal = self._settings(devices)
            if refusal:
                told = str(devices) in refusal
                assert told, f"the error does not say that {devices} were asked for: {refusal}"
                continue
            missing, unknown = _REQUIRED - set(settings), set(settings) - known
            assert not missing, f"trainer_settings lacks {sorted(missing)}"
            assert not unknown, f"Lightning's Trainer has no arguments {sorted(unknown)}"
            assert settings["devices"] == devices, f"asked for {devices} devices, got {settings['devices']}"

    def _settings(self, devices: int) -> tuple[dict[str, Any], str]:
        try:
            return self.accelerator().trainer_settings(devices), ""
        except ConfigError as error:
            return {}, str(error)

    def test_device(self) -> None:
        """The device is a torch device."""
        device = self.accelerator().device()
        assert isinstance(device, torch.device), f"device() is {device!r}"

    def test_model_preparation(self) -> None:
        """A prepared model is a module, with the weights that the model had."""
        model = nn.Linear(2, 3)
        weight = model.weight.detach().clone()
        prepared = self.accelerator().prepare(model)
        assert isinstance(prepared, nn.Module), f"prepare gives {type(prepared).__name__}"
        assert any(torch.equal(p, weight) for p in prepared.parameters()), "prepare changes the weights"

    def test_reduction_type(self) -> None:
        """Losses are summed in a floating-point type of at least 32 bits."""
        dtype = self.accelerator().reduction_dtype
        wide = dtype in (torch.float32, torch.float64)
        assert wide, f"reduction_dtype is {dtype}; float32 or float64 was expected"
