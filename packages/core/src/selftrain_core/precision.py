"""In which numbers a model computes: its own, or bfloat16 where that is sound, and everything around it as before."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bf16"]


def forward(model: nn.Module, images: Tensor, precision: Precision) -> Any:
    """Return the model's outputs, floating as `images`.

    Only this call is made in bfloat16: losses, the objective, and what is made of predictions never are.

    Args:
        model: Maps images to tensors, or to lists, tuples and dictionaries of them.
        images: What the model takes.
        precision: ``float32`` leaves the model as it is, whatever its type; ``bf16`` has torch choose the operations
            that bfloat16 suffices for.
    """
    if precision == "float32":
        return model(images)
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        outputs = model(images)
    return _as_type(outputs, images.dtype)


class InPrecision(nn.Module):
    """A model that computes in a precision, for those who are to call it without knowing.

    Args:
        model: The model.
        precision: As for `forward`.
    """

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self.precision: Precision = precision

    def forward(self, images: Tensor) -> Any:
        """Return the model's outputs, floating as `images`."""
        return forward(self.model, images, self.precision)


def _as_type(outputs: Any, dtype: torch.dtype) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.to(dtype) if outputs.is_floating_point() else outputs
    if isinstance(outputs, dict):
        return {key: _as_type(value, dtype) for key, value in outputs.items()}
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(_as_type(value, dtype) for value in outputs)
    return outputs
