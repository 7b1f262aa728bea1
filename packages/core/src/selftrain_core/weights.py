"""Model weights: their moving average, and their files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from selftrain_core.errors import RunError
from selftrain_core.files import replacing, write_json


class WeightAverage:
    """An exponential moving average of a model's parameters and buffers.

    The decay of the n-th update, from n = 1, warms up as ``min(decay, (1 + n) / (10 + n))``, so that a short training
    does not end on an average that still remembers its start.

    Args:
        model: The model in training; the average starts as a copy of it.
        decay: In [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        def average(averages: Sequence[Tensor], currents: Sequence[Tensor], updates: Tensor | int) -> None:
            count = int(updates)
            weight = 1 - min(decay, (1 + count) / (10 + count))
            for target, current in zip(averages, currents, strict=True):
                if target.is_floating_point():
                    target.lerp_(current, weight)
                else:
                    target.copy_(current)

        self._averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        # AveragedModel's first update would copy the model as it then is; the average starts from the copy made here.
        self._averaged.n_averaged.fill_(1)

    @property
    def model(self) -> nn.Module:
        """The averaged model."""
        return self._averaged.module

    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`."""
        with torch.no_grad():
            self._averaged.update_parameters(model)

    def to(self, device: torch.device) -> None:
        """Move the average to a device."""
        self._averaged.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return self._averaged.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state that `state_dict` returned."""
        self._averaged.load_state_dict(state)


def save_model(folder: Path, name: str, model: nn.Module, description: Mapping[str, Any]) -> None:
    """Write ``<name>.safetensors`` and, beside it, ``<name>.json``, which says what the weights are.

    Raises:
        RunError: The disk is full or the folder is not writable.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    path = folder / f"{name}.safetensors"
    with replacing(path) as temporary:
        try:
            save_file(tensors, str(temporary))
        except SafetensorError as error:  # its own type for a full disk and a missing folder too
            raise RunError(f"{path} cannot be written: {error}") from error
    write_json(folder / f"{name}.json", description)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a ``.safetensors`` file into a model of the same shape.

    Raises:
        RunError: The file is missing, damaged, or made for another model.
    """
    try:
        model.load_state_dict(load_file(str(path)))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"the weights {path} cannot be loaded: {error}") from error


def read_description(folder: Path, name: str = "model") -> dict[str, Any]:
    """Return what `save_model` wrote beside the weights.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        description: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / f'{name}.json'} cannot be read: {error}") from error
    return description
