"""What batch norm remembers of the images it sees in training, and predicts with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def set_batch_norm(module: nn.Module, momentum: float | None, epsilon: float | None) -> None:
    """Set both of all batch norm in `module`; None leaves it."""
    for norm in module.modules():
        if isinstance(norm, _NormBase):
            norm.momentum = norm.momentum if momentum is None else momentum
            norm.eps = norm.eps if epsilon is None else epsilon


@contextmanager
def running_averages_kept(module: nn.Module) -> Iterator[None]:
    """Leave the running averages of all batch norm in `module` as they are, while it normalises by its batches."""
    norms = [part for part in module.modules() if isinstance(part, _NormBase)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        for name, buffer in norm._buffers.items():
            norm._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
