"""What is drawn for each image: a pure function of its key and of the policy.

Shape letters: B = images, K = slots (operations done one after the other), N = boxes per image, S = sub-policies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from selftrain_augment.operations import CODES, Kind, Step, SubPolicy, kind_of
from selftrain_augment.policies import Policy
from selftrain_core.keys import uniform

_FLIP, _SCALE, _CROP_X, _CROP_Y, _SUB_POLICY = range(5)  # counters of the draws
_SLOT, _BOX = 16, 1 << 20  # where the counters of slots, and of boxes in slots, begin
_APPLY, _SIGN, _X, _Y, _CHOICE, _OPERATION = range(6)  # counters within a slot; the first five within a box in a slot
_PER_SLOT = 8

BOX_SHARE = 1 / 3
"""An operation on boxes alone is done to each box with this share of its probability (AutoAugment for detection)."""


PLACEMENT = ("flip_B", "scale_B", "crop_x_B", "crop_y_B")
"""What `placement_draws` returns."""


def placement_draws(key_B: Tensor, flip_probability: float, scales: tuple[float, float]) -> dict[str, Tensor]:
    """Return what is drawn for flip, jitter and crop.

    Returns:
        ``flip_B``: bool. ``scale_B``: float32 in the range of `scales`. ``crop_x_B``, ``crop_y_B``: float32 in [0, 1),
        the share of the possible crop offsets that lie left of, or above, the one taken.
    """
    low, high = scales
    return {
        "flip_B": uniform(key_B, _FLIP) < flip_probability,
        "scale_B": low + (high - low) * uniform(key_B, _SCALE),
        "crop_x_B": uniform(key_B, _CROP_X),
        "crop_y_B": uniform(key_B, _CROP_Y),
    }


def require_drawn(parameters: Mapping[str, Tensor], names: Sequence[str], num_images: int) -> None:
    """Check that `parameters` hold `names`, for as many images as there are.

    Raises:
        ValueError: They do not.
    """
    if missing := set(names) - set(parameters):
        raise ValueError(f"parameters lack {', '.join(sorted(missing))}: they were drawn by another augmentation")
    drawn = len(parameters[names[0]])
    if drawn != num_images:
        raise ValueError(f"parameters were drawn for {drawn} images, and the batch has {num_images}; draw again")


class PolicyDraws:
    """Draws the operations of a policy.

    Args:
        policy: What may be drawn.
    """

    names = ("operation_BK", "magnitude_BK", "sign_BK", "x_BK", "y_BK", "choice_BK")
    """Of what is drawn for every image, where there is anything to draw."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.num_slots = policy.num_slots
        self.changes_boxes = any(kind_of(name) is Kind.BOXES for name in policy.operations())
        width = max((len(steps) for steps in policy.sub_policies), default=1)
        rows = [_padded(steps, width) for steps in policy.sub_policies]
        self._code_SK = torch.tensor([[CODES[step.operation] for step in row] for row in rows])
        self._probability_SK = torch.tensor([[float(step.probability) for step in row] for row in rows])
        self._magnitude_SK = torch.tensor([[float(step.magnitude) for step in row] for row in rows])
        self._is_on_boxes_SK = torch.tensor([[kind_of(step.operation) is Kind.BOXES for step in row] for row in rows])

    def __call__(self, key_B: Tensor, num_boxes: int | None) -> dict[str, Tensor]:
        """Return what is drawn for each image.

        Args:
            key_B: int64.
            num_boxes: Of each image, padding included; None where the task has none.

        Returns:
            ``operation_BK``: int64, places in `OPERATIONS`, 0 where a slot does nothing. ``magnitude_BK``: float32.
            ``sign_BK``: float32, 1 or −1. ``x_BK``, ``y_BK``, ``choice_BK``: float32 in [0, 1), where a rectangle is
            put, and into which box. Of operations on boxes alone likewise ``box_applies_BKN``, bool, ``box_sign_BKN``,
            ``box_x_BKN``, ``box_y_BKN`` and ``box_order_BKN``: of two boxes that overlap, the larger has the pixel.
        """
        if not self.num_slots:
            return {}
        slots_K = torch.arange(self.num_slots, device=key_B.device)
        draw = [_uniforms(key_B, _SLOT + slots_K * _PER_SLOT + what) for what in range(_OPERATION + 1)]
        code_BK, probability_BK, magnitude_BK, is_on_boxes_BK = self._chosen(key_B, draw[_OPERATION])
        is_done_BK = is_on_boxes_BK | (draw[_APPLY] < probability_BK)
        drawn = {
            "operation_BK": torch.where(is_done_BK, code_BK, CODES["Identity"]),
            "magnitude_BK": magnitude_BK,
            "sign_BK": _sign(draw[_SIGN]),
            "x_BK": draw[_X],
            "y_BK": draw[_Y],
            "choice_BK": draw[_CHOICE],
        }
        if num_boxes and self.changes_boxes:
            drawn |= self._boxes(key_B, num_boxes, probability_BK)
        return drawn

    def _chosen(self, key_B: Tensor, own_BK: Tensor) -> tuple[Tensor, ...]:
        """Return code, probability, magnitude and whether it is on boxes alone, of each slot."""
        own_tables = (self._code_SK, self._probability_SK, self._magnitude_SK, self._is_on_boxes_SK)
        tables = [table.to(key_B.device) for table in own_tables]
        num = len(self.policy.sub_policies)
        if self.policy.draws is None:
            row_B = (uniform(key_B, _SUB_POLICY) * num).long().clamp(max=num - 1)
            return tuple(table[row_B] for table in tables)
        row_BK = (own_BK * num).long().clamp(max=num - 1)
        return tuple(table[row_BK, 0] for table in tables)

    def _boxes(self, key_B: Tensor, num_boxes: int, probability_BK: Tensor) -> dict[str, Tensor]:
        slots_K1 = torch.arange(self.num_slots, device=key_B.device)[:, None]
        first_KN = _BOX + (slots_K1 * (1 << 20) + torch.arange(num_boxes, device=key_B.device)) * _PER_SLOT
        applies, sign, x, y, order = (_uniforms(key_B, first_KN + what) for what in range(_CHOICE + 1))
        return {
            "box_applies_BKN": applies < probability_BK[..., None] * BOX_SHARE,
            "box_sign_BKN": _sign(sign),
            "box_x_BKN": x,
            "box_y_BKN": y,
            "box_order_BKN": order,
        }


def _padded(steps: SubPolicy, width: int) -> SubPolicy:
    return steps + (Step("Identity", 0.0, 0.0),) * (width - len(steps))


def _uniforms(key_B: Tensor, counters: Tensor) -> Tensor:
    """Return one draw per key and counter: float32 [B, *counters]."""
    return uniform(key_B.view(-1, *[1] * counters.dim()), counters)


def _sign(draw: Tensor) -> Tensor:
    return torch.where(draw < 0.5, -1.0, 1.0)
