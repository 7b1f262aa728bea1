"""The augmentations of the paper (§3.1): a policy of operations, horizontal flip, scale jitter and crop.

First what changes colours is done, in the order drawn, to the picture as it lies on its canvas. Then everything that
moves the picture, in the order drawn, and flip, jitter and crop behind it, become one matrix and one resampling.

Shape letters: B = images, K = slots, h, w = height and width of the old canvas, H, W = of the new, N = boxes per image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from selftrain_augment import geometry
from selftrain_augment.boxes import moved_targets
from selftrain_augment.config import S1Config
from selftrain_augment.draws import PLACEMENT, PolicyDraws, placement_draws, require_drawn
from selftrain_augment.editing import Editor
from selftrain_augment.matrices import linear_map
from selftrain_augment.operations import CODES, OPERATIONS, Kind, OperationName, kind_of, needs_boxes
from selftrain_augment.placement import canvas_after, place
from selftrain_augment.resampling import Move, lay, resample, unlaid
from selftrain_augment.work import Part, Work, divided, in_lanes
from selftrain_core.batch import Batch
from selftrain_core.interfaces import Augmentation

_SMALL_ONES = 16
"""Images of a part beyond which they are so small that laying each by itself costs more than it spares."""


class Augment(Augmentation):
    """Changes colours, then turns, shears, shifts, mirrors, scales and crops each picture in one resampling.

    The picture stays anchored at the canvas' top-left corner. Scaled beyond the canvas it is cropped at a uniformly
    drawn whole-pixel offset; around a smaller one, and where a turned one leaves its frame bare, the canvas shows
    `FILL_RGB`, class 255, weight 0.

    A box becomes the smallest one around what is still seen of it. An object of which less than `min_visibility` of its
    box's area is seen becomes a region to ignore: too little is seen to ask for the object, and what is seen must not
    count as background. A box of which nothing is seen becomes padding, in its place: padding is not only at the end.

    Args:
        config: The settings.
    """

    config: S1Config

    def __init__(self, config: S1Config) -> None:
        super().__init__(config)
        self.oversample = config.oversample
        self.policy = config.policy_to_apply()
        self._draws = PolicyDraws(self.policy)
        self._codes = {CODES["Identity"], *(CODES[s.operation] for steps in self.policy.sub_policies for s in steps)}
        self._edited = Editor(self.policy, config.colour_options())
        names = sorted(self.policy.operations(), key=CODES.__getitem__)
        self._warps: tuple[OperationName, ...] = tuple(name for name in names if kind_of(name) is Kind.WARP)
        self._turns = [CODES[name] for name in self._warps if not name.startswith("Translate")]
        self._idle_without_boxes = [name for name in names if needs_boxes(name)]

    def remarks(self, *, has_boxes: bool) -> list[str]:
        """Return what somebody should know who uses this augmentation for a task with or without boxes."""
        if has_boxes or not self._idle_without_boxes:
            return []
        return [f"without boxes these operations change nothing: {', '.join(self._idle_without_boxes)}"]

    def parameters(self, batch: Batch, key_B: Tensor) -> dict[str, Tensor]:
        """Return what is drawn for each image, from its key alone: see `placement_draws` and `PolicyDraws`."""
        boxes_BN4 = batch.targets.boxes_BN4
        jitter = placement_draws(key_B, self.config.flip_probability, (self.config.scale_min, self.config.scale_max))
        return jitter | self._draws(key_B, None if boxes_BN4 is None else boxes_BN4.shape[1])

    @torch.no_grad()
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        """Return the batch changed as `parameters` say, its canvas smaller by `oversample`; without gradients.

        Images keep a floating type, and become float32 from uint8; they are in 0..1.

        Raises:
            ValueError: The canvas does not divide by `oversample`, or the parameters are another batch's or policy's.
        """
        self._require_fitting(batch, parameters)
        size = canvas_after(batch.image_B3HW, self.oversample)
        pixel_B = self._pixels(batch.valid_B2)
        placement = place(batch.valid_B2, *size, parameters, self.oversample)
        matrix_B23 = geometry.compose(placement.matrix_B23, self._warped(batch.valid_B2, parameters, pixel_B))
        by_parts = batch.image_B3HW.device.type == "cpu"
        resampled = self._resampled_by_parts if by_parts else self._resampled_at_once
        found = resampled(Work(batch, parameters, pixel_B, matrix_B23, placement.valid_B2), size)
        image_B3HW = found.pop("image_B3HW")
        if batch.targets.canvas_B2 is not None:
            found["canvas_B2"] = batch.targets.canvas_B2 // self.oversample
        boxes = moved_targets(batch.targets, matrix_B23, placement.valid_B2, self.config.min_visibility)
        return replace(
            batch,
            image_B3HW=image_B3HW,
            valid_B2=placement.valid_B2,
            matrix_B23=geometry.compose(matrix_B23, batch.matrix_B23),
            targets=replace(batch.targets, **found, **boxes),
        )

    def _require_fitting(self, batch: Batch, parameters: Mapping[str, Tensor]) -> None:
        names = (*PLACEMENT, *(self._draws.names if self.policy.num_slots else ()))
        require_drawn(parameters, names, len(batch))
        operation_BK = parameters.get("operation_BK")
        slots = 0 if operation_BK is None else operation_BK.shape[1]
        # What was drawn is looked at where that is not to wait for a device.
        codes = [] if operation_BK is None or operation_BK.device.type != "cpu" else operation_BK.unique().tolist()
        if slots != self.policy.num_slots or not self._codes.issuperset(codes):
            raise ValueError(
                "parameters hold operations that this policy does not have: another augmentation drew them"
            )
        boxes_BN4, applies_BKN = batch.targets.boxes_BN4, parameters.get("box_applies_BKN")
        boxes = 0 if boxes_BN4 is None else boxes_BN4.shape[1]
        if self._draws.changes_boxes and boxes != (drawn_boxes := 0 if applies_BKN is None else applies_BKN.shape[2]):
            raise ValueError(
                f"parameters were drawn for {drawn_boxes} boxes an image, and the batch has {boxes}; draw again"
            )

    def described(self, parameters: Mapping[str, Tensor], *, has_boxes: bool) -> list[str]:
        """Return for each image what was drawn, such as ``× 1.31, mirrored, Rotate 10``.

        An operation on boxes alone is named where some box of the image, padding included, drew it.
        """
        words = [
            [f"× {scale:.2f}", *(["mirrored"] if flip else [])]
            for scale, flip in zip(parameters["scale_B"].tolist(), parameters["flip_B"].tolist(), strict=True)
        ]
        if not self.policy.num_slots:
            return [", ".join(each) for each in words]
        applies_BKN = parameters.get("box_applies_BKN")
        applies_BK = (
            [[False] * self.policy.num_slots] * len(words) if applies_BKN is None else applies_BKN.any(2).tolist()
        )
        operation_BK, magnitude_BK = parameters["operation_BK"].tolist(), parameters["magnitude_BK"].tolist()
        for each, *drawn in zip(words, operation_BK, magnitude_BK, applies_BK, strict=True):
            for code, magnitude, applies in zip(*drawn, strict=True):
                name = OPERATIONS[code]
                if name == "Identity" or (needs_boxes(name) and not has_boxes):
                    continue
                if kind_of(name) is Kind.BOXES:
                    each += [f"{name.removesuffix('_Only_BBoxes')} {magnitude:g} in boxes"] if applies else []
                else:
                    each.append(f"{name.removesuffix('_BBox')} {magnitude:g}")
        return [", ".join(each) for each in words]

    def _pixels(self, valid_B2: Tensor) -> Tensor:
        """Return how many pixels of the canvas a pixel of the published magnitudes is: float32 [B]."""
        long_side_B = valid_B2.amax(1).float()
        reference = self.config.reference_side()
        return torch.ones_like(long_side_B) if reference is None else long_side_B / reference

    def _warped(self, valid_B2: Tensor, parameters: Mapping[str, Tensor], pixel_B: Tensor) -> Tensor:
        """Return the matrices of the policy's geometric operations, in the order drawn: float32 [B, 2, 3]."""
        identity_B23 = torch.eye(2, 3, device=valid_B2.device).repeat(len(valid_B2), 1, 1)
        matrix_B23 = identity_B23
        for slot in range(self.policy.num_slots if self._warps else 0):
            step_B23 = identity_B23
            drawn_B, magnitude_B, sign_B = (
                parameters[what][:, slot] for what in ("operation_BK", "magnitude_BK", "sign_BK")
            )
            for name in self._warps:
                map_B23 = linear_map(name.removesuffix("_BBox"), valid_B2, magnitude_B, pixel_B, sign_B)
                step_B23 = torch.where((drawn_B == CODES[name])[:, None, None], map_B23, step_B23)
            matrix_B23 = geometry.compose(step_B23, matrix_B23)
        return matrix_B23

    def _resampled_at_once(self, work: Work, size: tuple[int, int]) -> dict[str, Tensor]:
        return resample(self._edit(work), work.batch.targets, self._move(work), size)

    def _resampled_by_parts(self, work: Work, size: tuple[int, int]) -> dict[str, Tensor]:
        """Return the same, in a processor's way: images that are alike together, parts in several threads."""
        canvas = unlaid(work.batch, size)
        parts = divided(work, [CODES[name] for name in self._warps], self._turns)
        in_lanes(lambda part: self._fill(canvas, part, work.at(part.places_S), size), parts)
        return canvas

    def _fill(self, canvas: dict[str, Tensor], part: Part, mine: Work, size: tuple[int, int]) -> None:
        """Do a part, and put it in its place on the canvases."""
        move = replace(self._move(mine), upright=not part.turned, bares=part.moved)
        places = part.places_S.tolist()
        if len(places) > _SMALL_ONES:
            for name, value_S in resample(self._edit(mine), mine.batch.targets, move, size).items():
                canvas[name][part.places_S] = value_S
            return
        largest_height, largest_width = mine.frame_B2.amax(0).tolist()
        move = replace(move, frame_B2=None)
        found = resample(self._edit(mine), mine.batch.targets, move, (largest_height, largest_width))
        for index, (image, frame) in enumerate(zip(places, mine.frame_B2.tolist(), strict=True)):
            lay(canvas, image, {name: value_S[index] for name, value_S in found.items()}, frame)

    def _edit(self, work: Work) -> Tensor:
        return self._edited(work.batch, work.parameters, work.pixel_B)

    def _move(self, work: Work) -> Move:
        return Move(
            work.matrix_B23,
            work.batch.valid_B2,
            work.frame_B2,
            self.oversample / work.parameters["scale_B"],
            self.oversample / self.config.scale_min,
            upright=not self._turns,
            bares=bool(self._warps),
        )
