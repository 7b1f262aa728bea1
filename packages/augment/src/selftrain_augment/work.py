"""What there is to do to a batch, and how a processor divides it.

Shape letters: B = images, S = those of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from selftrain_core.batch import Batch
from selftrain_core.threads import in_threads, shared_out

_PartT = TypeVar("_PartT")

PIXELS_AT_ONCE = 1 << 18
"""Of the old canvases, on a processor, whose caches hold no more: measured at 256² (best with 4) and 640² (1)."""


@dataclass(frozen=True)
class Work:
    """Images, and everything that follows from what was drawn for them.

    Attributes:
        batch: The images.
        parameters: What was drawn.
        pixel_B: float32, how many pixels of the canvas a pixel of the published magnitudes is.
        matrix_B23: float32, old canvas → new canvas.
        frame_B2: int64 height and width of what pictures may fill of the new canvas.
    """

    batch: Batch
    parameters: Mapping[str, Tensor]
    pixel_B: Tensor
    matrix_B23: Tensor
    frame_B2: Tensor

    def at(self, places_S: Tensor) -> Work:
        """Return the images at some places, int64 [S]."""
        parameters = {name: value_B.index_select(0, places_S) for name, value_B in self.parameters.items()}
        tensors = (value_B.index_select(0, places_S) for value_B in (self.pixel_B, self.matrix_B23, self.frame_B2))
        return Work(self.batch.at(places_S), parameters, *tensors)

    def drew(self, codes: Sequence[int]) -> Tensor:
        """Return which images drew one of these operations: bool [B]."""
        if not codes:
            return torch.zeros_like(self.pixel_B, dtype=torch.bool)
        operation_BK = self.parameters["operation_BK"]
        return torch.isin(operation_BK, torch.tensor(codes, device=operation_BK.device)).any(1)


@dataclass(frozen=True)
class Part:
    """Images that go through the same steps.

    Attributes:
        places_S: int64, which.
        moved: Whether their policy may have moved them, so that part of a frame may be bare.
        turned: Whether it may have turned or sheared them.
    """

    places_S: Tensor
    moved: bool
    turned: bool


def divided(work: Work, moving: Sequence[int], turning: Sequence[int]) -> list[Part]:
    """Return parts of about `PIXELS_AT_ONCE`: alike in whether they are moved and turned, and in the size they become.

    What takes longest comes first, so that threads that share the parts end together.

    Args:
        work: All images.
        moving: Codes of the policy's operations that move a picture.
        turning: Codes of those that turn or shear it.
    """
    moved_B, turned_B = work.drew(moving), work.drew(turning)
    height, width = work.batch.image_B3HW.shape[2:]
    num_images = max(1, PIXELS_AT_ONCE // (height * width))
    by_size_B = work.frame_B2.prod(1).argsort(descending=True, stable=True)
    return [
        Part(places_S, moved, turned)
        for moved, turned in ((True, True), (True, False), (False, False))
        for places_S in by_size_B[((moved_B == moved) & (turned_B == turned))[by_size_B]].split(num_images)
        if len(places_S)
    ]


def in_lanes(do: Callable[[_PartT], None], parts: Sequence[_PartT]) -> None:
    """Call `do` with each part, without gradients, in as many threads as torch has.

    Args:
        do: What one part takes; parts may be done at the same time.
        parts: Those to do.
    """
    inference = torch.is_inference_mode_enabled()  # which threads do not share, nor whether there are gradients

    def one(part: _PartT) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            do(part)

    lanes = min(torch.get_num_threads(), len(parts))
    with shared_out(lanes):
        for _ in map(one, parts) if lanes < 2 else in_threads(one, parts, threads=lanes, ahead=lanes):
            pass
