"""Model weights: their moving average, and their files."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selftrain_core.errors import RunError
from selftrain_core.files import explain, replacing, write_json


class WeightAverage:
    """An exponential moving average of a model's parameters and buffers.

    The decay of the n-th update, from n = 1, warms up as ``min(decay, (1 + n) / (10 + n))``, so that a short training
    does not end on an average that still remembers its start.

    Args:
        model: The model in training; the average starts as a copy of it.
        decay: In [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self._decay = decay
        # Counted here: torch's AveragedModel keeps its count on the device, and each update waits for it.
        self._count = 1

    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`."""
        weight = 1 - min(self._decay, (1 + self._count) / (10 + self._count))
        with torch.no_grad():
            for averages, currents in _by_type(_tensors(self.model), _tensors(model)):
                if averages[0].is_floating_point():
                    torch._foreach_lerp_(averages, currents, weight)
                else:
                    torch._foreach_copy_(averages, currents)
        self._count += 1

    def to(self, device: torch.device) -> None:
        """Move the average to a device."""
        self.model.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        weights = {f"module.{name}": value for name, value in self.model.state_dict().items()}
        return {"n_averaged": torch.tensor(self._count), **weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state that `state_dict` returned."""
        weights = {name.removeprefix("module."): value for name, value in state.items() if name != "n_averaged"}
        self.model.load_state_dict(weights)
        self._count = int(state["n_averaged"])


class KeptBuffers:
    """A model's buffers as they were, above all batch norm's, which move in every forward pass."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def keep(self, model: nn.Module) -> None:
        """Remember the buffers of `model`, always the same one."""
        with torch.no_grad():
            if not self._kept:
                self._kept = [buffer.clone() for buffer in model.buffers()]
                return
            for kept, buffers in _by_type(self._kept, model.buffers()):
                torch._foreach_copy_(kept, buffers)

    def put_back(self, model: nn.Module) -> None:
        """Give `model` the buffers that were last kept."""
        with torch.no_grad():
            for buffers, kept in _by_type(model.buffers(), self._kept):
                torch._foreach_copy_(buffers, kept)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())


def _by_type(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> Iterable[tuple[list[Tensor], list[Tensor]]]:
    """Return pairs of lists of one type each, which a GPU goes through in a few kernels rather than one per tensor."""
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        group = groups.setdefault(target.dtype, ([], []))
        group[0].append(target)
        group[1].append(source)
    return groups.values()


def save_model(folder: Path, name: str, model: nn.Module, description: Mapping[str, Any]) -> None:
    """Write ``<name>.safetensors`` and, beside it, ``<name>.json``, which says what the weights are.

    Raises:
        RunError: The disk is full or the folder is not writable.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    path = folder / f"{name}.safetensors"
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(tensors, str(temporary))
            temporary.chmod(mode)  # safetensors writes files that their owner alone can read
        except SafetensorError as error:  # its own type for a full disk and a missing folder too
            raise RunError(f"{path} cannot be written: {explain(error)}") from error
    write_json(folder / f"{name}.json", description)


def save_state(path: Path, state: Any) -> None:
    """Write tensors in whatever nesting, for `torch.load` with ``weights_only``.

    Raises:
        RunError: The disk is full or the folder is not writable.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch then complains of its file's end, and hides what the system said.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


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
