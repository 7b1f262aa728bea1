"""The augmentation of SimCLR (Chen et al. 2020, arXiv 2002.05709, appendix A), for contrastive pre-training.

Shape letters: B = images, K = the jitter's four slots, H, W = height and width of the new canvas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from selftrain_augment import geometry
from selftrain_augment.boxes import moved_targets
from selftrain_augment.config import SimClrConfig
from selftrain_augment.distortion import FACTORS, JITTER, blur_radius, distorted
from selftrain_augment.draws import require_drawn
from selftrain_augment.editing import floating
from selftrain_augment.placement import canvas_after, offset
from selftrain_augment.resampling import Move, resample, unlaid
from selftrain_augment.subsets import put
from selftrain_augment.work import PIXELS_AT_ONCE, in_lanes
from selftrain_core.batch import Batch
from selftrain_core.interfaces import Augmentation
from selftrain_core.keys import uniform

# Counters of the draws.
_AREA, _ASPECT, _CROP_X, _CROP_Y, _FLIP, _JITTER, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(10)
_GREY, _BLUR, _SIGMA, _ORDER = range(10, 14)  # the last is the first of as many as there are slots

_DRAWN = (
    *("area_B", "aspect_B", "crop_x_B", "crop_y_B", "flip_B", "jitter_B", "order_BK"),
    *(f"{name}_B" for name in JITTER),
    *("grey_B", "blur_B", "sigma_B"),
)


class SimClr(Augmentation):
    """Shows a random crop of each picture, enlarged to the whole canvas, mirrored, recoloured, greyed and blurred.

    Of a crop the area, as a share of the picture's, and the aspect ratio, in units of the canvas' own, are drawn once;
    where it would be higher or wider than the picture it is cut to it. (Published is to draw anew until it fits, for
    which there is no fixed number of steps: large areas are drawn more often here, and where a picture is much longer
    than the canvas, crops may be stretched by more than the aspect ratios drawn.) It is laid anywhere in the picture,
    at whole pixels.

    The whole canvas returned is picture. Boxes become what is seen of them, as with Augment-S1.

    Args:
        config: The settings.
    """

    config: SimClrConfig

    def __init__(self, config: SimClrConfig) -> None:
        super().__init__(config)
        self.oversample = config.oversample

    def parameters(self, batch: Batch, key_B: Tensor) -> dict[str, Tensor]:
        """Return what is drawn for each image, from its key alone.

        Returns:
            ``area_B``, ``aspect_B``: float32, what is shown of the picture, and the width by height of it in units of
            the canvas'. ``crop_x_B``, ``crop_y_B``: float32 in [0, 1), where it lies. ``flip_B``, ``jitter_B``,
            ``grey_B``, ``blur_B``: bool, whether it is done. ``order_BK``: int64, places in `JITTER`, in which order.
            ``brightness_B``, ``contrast_B``, ``saturation_B``: float32 factors. ``hue_B``: float32, in full turns.
            ``sigma_B``: float32, in pixels.
        """
        del batch
        config = self.config

        def between(low: float, high: float, counter: int) -> Tensor:
            return low + (high - low) * uniform(key_B, counter)

        counters_K = _ORDER + torch.arange(len(JITTER), device=key_B.device)
        most = config.strength * config.hue
        drawn = {
            "area_B": between(config.area_min, config.area_max, _AREA),
            "aspect_B": between(math.log(config.aspect_min), math.log(config.aspect_max), _ASPECT).exp(),
            "crop_x_B": uniform(key_B, _CROP_X),
            "crop_y_B": uniform(key_B, _CROP_Y),
            "flip_B": uniform(key_B, _FLIP) < config.flip_probability,
            "jitter_B": uniform(key_B, _JITTER) < config.jitter_probability,
            "order_BK": uniform(key_B[:, None], counters_K).argsort(dim=1, stable=True),
            "hue_B": between(-most, most, _HUE),
            "grey_B": uniform(key_B, _GREY) < config.grey_probability,
            "blur_B": uniform(key_B, _BLUR) < config.blur_probability,
            "sigma_B": between(config.sigma_min, config.sigma_max, _SIGMA),
        }
        counters = (_BRIGHTNESS, _CONTRAST, _SATURATION)
        return drawn | {f"{n}_B": between(*config.factors(n), c) for n, c in zip(FACTORS, counters, strict=True)}

    @torch.no_grad()
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        """Return the batch changed as `parameters` say, its canvas smaller by `oversample`; without gradients.

        Images keep a floating type, and become float32 from uint8; they are in 0..1.

        Raises:
            ValueError: The canvas does not divide by `oversample`, or the parameters are another batch's or
                augmentation's.
        """
        require_drawn(parameters, _DRAWN, len(batch))
        size = canvas_after(batch.image_B3HW, self.oversample)
        matrix_B23, shrinking_B = cropped(batch.valid_B2, size, parameters)
        plan = {**{name: parameters[name] for name in _DRAWN}, "matrix_B23": matrix_B23, "shrinking_B": shrinking_B}
        by_parts = batch.image_B3HW.device.type == "cpu"
        found = self._views_by_parts(batch, plan, size) if by_parts else self._views(batch, plan, size)
        image_B3HW = found.pop("image_B3HW")
        if batch.targets.canvas_B2 is not None:
            found["canvas_B2"] = batch.targets.canvas_B2 // self.oversample
        valid_B2 = torch.stack([torch.full_like(batch.valid_B2[:, axis], size[axis]) for axis in (0, 1)], dim=1)
        boxes = moved_targets(batch.targets, matrix_B23, valid_B2, self.config.min_visibility)
        return replace(
            batch,
            image_B3HW=image_B3HW,
            valid_B2=valid_B2,
            matrix_B23=geometry.compose(matrix_B23, batch.matrix_B23),
            targets=replace(batch.targets, **found, **boxes),
        )

    def described(self, parameters: Mapping[str, Tensor], *, has_boxes: bool) -> list[str]:
        """Return for each image what was drawn, such as ``34 %, mirrored, grey, blur 1.3, hue +12°, contrast × 0.71``.

        The first is the share of the picture drawn: less is shown where the crop was cut to it. The jitter, which is
        done before grey and blur, comes last, in its order, where captions may be cut off.
        """
        del has_boxes
        drawn = {name: parameters[name].tolist() for name in _DRAWN}
        described = []
        for image, area in enumerate(drawn["area_B"]):
            words = [f"{100 * area:.0f} %", *(["mirrored"] if drawn["flip_B"][image] else [])]
            words += ["grey"] if drawn["grey_B"][image] else []
            words += [f"blur {drawn['sigma_B'][image]:.1f}"] if drawn["blur_B"][image] else []
            for code in drawn["order_BK"][image] if drawn["jitter_B"][image] else []:
                value = drawn[f"{JITTER[code]}_B"][image]
                words.append(f"hue {360 * value:+.0f}°" if JITTER[code] == "hue" else f"{JITTER[code]} × {value:.2f}")
            described.append(", ".join(words))
        return described

    def _views_by_parts(self, batch: Batch, plan: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return the same as `_views`, in a processor's way: a few images at a time, in several threads."""
        canvas = unlaid(batch, size)

        def fill(places_S: Tensor) -> None:
            mine = {name: value_B.index_select(0, places_S) for name, value_B in plan.items()}
            for name, value_S in self._views(batch.at(places_S), mine, size).items():
                put(canvas[name], places_S, value_S)

        height, width = batch.image_B3HW.shape[2:]
        parts = torch.arange(len(batch)).split(max(1, PIXELS_AT_ONCE // (height * width)))
        in_lanes(fill, [places_S for places_S in parts if len(places_S)])
        return canvas

    def _views(self, batch: Batch, plan: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return the images, ``image_B3HW``, and those maps of the targets that there are."""
        move = Move(
            plan["matrix_B23"],
            batch.valid_B2,
            None,
            plan["shrinking_B"],
            self.oversample,
            upright=True,
            bares=False,
        )
        found = resample(floating(batch.image_B3HW), batch.targets, move, size)
        radius = blur_radius(*size, self.config.blur_side, self.config.sigma_max)
        return found | {"image_B3HW": distorted(found["image_B3HW"], plan, radius)}


def cropped(valid_B2: Tensor, size: tuple[int, int], parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the matrices that lay crops of pictures of `valid_B2` onto the whole of a canvas, and how they shrink.

    Args:
        valid_B2: int64 height and width of the pictures on the old canvas.
        size: Height and width of the new canvas.
        parameters: ``area_B``, ``aspect_B``, ``crop_x_B``, ``crop_y_B``, ``flip_B``.

    Returns:
        float32 [B, 2, 3], old canvas → new canvas; float32 [B], how many times smaller things become, the way they
        shrink more.
    """
    height, width = size
    old_height_B, old_width_B = valid_B2.to(torch.float32).unbind(1)
    area_B = parameters["area_B"] * old_height_B * old_width_B
    aspect_B = parameters["aspect_B"] * (width / height)
    crop_height_B = torch.minimum((area_B / aspect_B).sqrt().round().clamp(min=1), old_height_B)
    crop_width_B = torch.minimum((area_B * aspect_B).sqrt().round().clamp(min=1), old_width_B)
    top_B = offset(old_height_B - crop_height_B, parameters["crop_y_B"])
    left_B = offset(old_width_B - crop_width_B, parameters["crop_x_B"])
    scale_x_B, scale_y_B, zero_B = width / crop_width_B, height / crop_height_B, torch.zeros_like(top_B)
    shift_x_B = -left_B * scale_x_B
    flip_B = parameters["flip_B"]
    # Mirrored, x becomes width − x: the crop's right edge comes to the canvas' left.
    shift_x_B = torch.where(flip_B, width - shift_x_B, shift_x_B)
    matrix_B23 = geometry.affine(
        torch.where(flip_B, -scale_x_B, scale_x_B), zero_B, shift_x_B, zero_B, scale_y_B, -top_B * scale_y_B
    )
    return matrix_B23, torch.maximum(crop_width_B / width, crop_height_B / height)
