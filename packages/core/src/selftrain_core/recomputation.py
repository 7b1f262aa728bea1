"""Activation checkpointing (Chen et al. 2016): of each block only the inputs are kept until the backward pass.

What lies inside is computed once more when its gradient is due: less memory, about a third more work, the same numbers.
Batch norm sees its images twice by that, and must count them once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.checkpoint import checkpoint

from selftrain_core.batch_norm import running_averages_kept
from selftrain_core.errors import ConfigError

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the parts whose insides can be computed again: members of a list of parts, of two layers or more."""
    return list(_blocks(model, is_listed=False))


def checkpoint_activations(model: nn.Module) -> nn.Module:
    """Have `model` keep no more than the inputs of its blocks in training. Names and values of its weights stay.

    Raises:
        ConfigError: The model has no such parts.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise ConfigError(
            f"device.activation_checkpointing: {type(model).__name__} has no blocks that could be computed again\n"
            "  set device.activation_checkpointing to false"
        )
    for block in blocks:
        block.__class__ = _checkpointed(type(block))
    return model


def _blocks(module: nn.Module, *, is_listed: bool) -> Iterator[nn.Module]:
    is_container = isinstance(module, _CONTAINERS)
    if is_listed and not is_container and _num_layers(module) > 1:
        yield module
        return
    for child in module.children():
        yield from _blocks(child, is_listed=is_container)


def _num_layers(module: nn.Module) -> int:
    return sum(isinstance(part, (_ConvNd, nn.Linear)) for part in module.modules())


_made: dict[type[nn.Module], type[nn.Module]] = {}


def _checkpointed(kind: type[nn.Module]) -> type[nn.Module]:
    """Return `kind` with a forward pass that keeps its inputs alone; copies of a module are of its class, too."""
    if kind in _made.values():
        return kind
    if kind not in _made:

        def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if not (self.training and torch.is_grad_enabled()):
                return kind.forward(self, *args, **kwargs)
            return checkpoint(
                kind.forward, self, *args, use_reentrant=False, context_fn=lambda: _contexts(self), **kwargs
            )

        _made[kind] = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    return _made[kind]


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    # It has counted these images already.
    return nullcontext(), running_averages_kept(block)
