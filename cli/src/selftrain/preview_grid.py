"""The sheet of ``selftrain augment preview``: images as an augmentation changes them, with what is known of them.

Shape letters: H, W = height and width of a cell or a canvas, N = boxes, C = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from selftrain.preview_data import PreviewData, PreviewImage
from selftrain_core.augmentation import NoAugmentation
from selftrain_core.batch import Batch, Targets, collate
from selftrain_core.components import build_augmentation, build_task
from selftrain_core.config_model import AugmentationChoice, StrictModel
from selftrain_core.errors import ConfigError, SelftrainError
from selftrain_core.files import replacing
from selftrain_core.geometry import Geometry
from selftrain_core.images import read_picture
from selftrain_core.interfaces import Augmentation, Task
from selftrain_core.keys import fold, name_key
from selftrain_core.labels import IGNORE, IGNORE_LABEL, PADDING_LABEL, BoxLabels, ClassLabels, Labels, MaskLabels
from selftrain_core.legend import Legend, font, legend_strip
from selftrain_core.samples import one_image

STAGE = "preview"
"""What stands in the keys of draws where a run has the name of its stage."""
GAP = 6
_SMALLEST_CELL = 256
"""Pixels of a cell's longer side; a smaller canvas is enlarged by a whole number."""
_MOST_PIXELS = 80_000_000
"""Fewer than those from which on programs take a picture for an attack."""
_CELL_PER_LETTER, _SMALLEST_LETTER, _LARGEST_LETTER = 20, 13, 26
_MOST_LINES = 5
"""Of the text over a cell."""
_OPACITY = 0.35
"""Of masks: low, so that a change of colours is seen."""
_IGNORE_RGB = (190, 190, 190)
_HATCH_PERIOD = 8
_IGNORED = "(ignored)"


@dataclass
class _Seen:
    """What the cells of a sheet show, noted while they are drawn."""

    classes: set[int] = field(default_factory=set)
    has_ignored: bool = False
    has_boxes: bool = False
    remarks: list[str] = field(default_factory=list)
    drawn: list[list[str]] = field(default_factory=list)
    """Of each image, what each draw drew; empty texts where the augmentation does not tell."""


def draw_preview(
    path: Path,
    data: PreviewData,
    choice: AugmentationChoice,
    canvas: tuple[int, int],
    seed: int,
    draws: int,
) -> tuple[list[str], list[list[str]]]:
    """Write the sheet; return what people should know of it, and of each image what each draw drew.

    Args:
        path: The PNG to write.
        data: The images, a row each.
        choice: The augmentation.
        canvas: Height and width that it returns.
        seed: Of the draws.
        draws: Columns beside that without augmentation.

    Raises:
        ConfigError: The sheet would be larger than programs read.
        DataError: An image or its labels cannot be read.
        RunError: The file cannot be written.
    """
    _refuse_large(canvas, len(data.images), draws)
    augmentation = build_augmentation(choice)
    task = None if data.task is None else build_task(data.task, data.classes)
    seen = _Seen()
    rows = [_row(image, task, augmentation, canvas, fold(seed, name_key(STAGE)), draws, seen) for image in data.images]
    changed = choice.options.model_dump(mode="json", exclude_defaults=True)
    settings = "".join(f", {key} {value}" for key, value in changed.items())
    title = f"{choice.name}{settings}; canvas {canvas[0]} × {canvas[1]} (height × width), seed {seed}"
    captions = ["without augmentation", *(f"draw {number}" for number in range(1, draws + 1))]
    names = [[image.entry.id, *drawn] for image, drawn in zip(data.images, seen.drawn, strict=True)]
    sheet = _sheet(title, captions, names, rows, _legend(task, seen))
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")
    return [*augmentation.remarks(has_boxes=seen.has_boxes), *seen.remarks], seen.drawn


def _scale(canvas: tuple[int, int]) -> int:
    return max(1, -(-_SMALLEST_CELL // max(canvas)))


def _refuse_large(canvas: tuple[int, int], images: int, draws: int) -> None:
    height, width = (side * _scale(canvas) + GAP for side in canvas)
    height, width = height * images, width * (draws + 1)
    if height * width > _MOST_PIXELS:
        raise ConfigError(
            f"{images} images with {draws} draws each on a canvas of {canvas[0]}×{canvas[1]} would make a picture of "
            f"more than {height}×{width} pixels (height × width), which few programs open\n"
            "  fewer --images or --draws, or a smaller --canvas"
        )


def _row(
    image: PreviewImage,
    task: Task[Any, Any] | None,
    augmentation: Augmentation,
    canvas: tuple[int, int],
    key: torch.Tensor,
    draws: int,
    seen: _Seen,
) -> list[NDArray[np.uint8]]:
    """Return the cells of one image: without augmentation, then each draw."""
    larger = (canvas[0] * augmentation.oversample, canvas[1] * augmentation.oversample)
    picture = read_picture(image.entry.path)
    try:
        labels = None if image.source is None else image.source.read_labels(image.entry)
        samples = [_sample(picture, image.entry.id, labels, task, size) for size in (canvas, larger)]
    except SelftrainError as error:
        raise type(error)(f"{error}\n  (image '{image.entry.id}')") from error
    if task is not None and labels is not None and (overflow := task.overflow(labels)):
        seen.remarks.append(f"{overflow:,} boxes of '{image.entry.id}' are left out: {task.overflow_advice(overflow)}")
    plain, batch = (collate([sample]) for sample in samples)
    seen.has_boxes = seen.has_boxes or batch.targets.boxes_BN4 is not None
    scale = _scale(canvas)
    cells = [_cell(NoAugmentation(StrictModel())(plain, fold(key, plain.id_B, plain.visit_B)), task, scale, seen)]
    drawn = []
    for visit in range(draws):
        visited = replace(batch, visit_B=torch.full_like(batch.visit_B, visit))
        parameters = augmentation.parameters(visited, fold(key, visited.id_B, visited.visit_B))
        drawn += augmentation.described(parameters, has_boxes=batch.targets.boxes_BN4 is not None) or [""]
        with torch.no_grad():
            changed = augmentation.replay(visited, parameters)
        cells.append(_cell(changed, task, scale, seen))
    seen.drawn.append(drawn)
    return cells


def _sample(
    picture: Image.Image, id_: str, labels: Labels | None, task: Task[Any, Any] | None, canvas: tuple[int, int]
) -> Batch:
    def targets(geometry: Geometry) -> Targets:
        return Targets() if task is None or labels is None else task.to_targets(labels, None, geometry)

    return one_image(picture, canvas, id_, targets=targets)


def _cell(batch: Batch, task: Task[Any, Any] | None, scale: int, seen: _Seen) -> NDArray[np.uint8]:
    """Return the canvas of a batch of one image, enlarged, with its labels; beyond the picture nothing is drawn."""
    image_HW3 = (batch.image_B3HW[0].float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(image_HW3)
    drawn_HW3 = np.array(image.resize((image.width * scale, image.height * scale), Image.Resampling.BILINEAR))
    height, width = (int(side) for side in batch.valid_B2[0])
    labels = _labels(batch.targets, height, width, scale)
    if task is None or labels is None or not height or not width:
        return drawn_HW3
    _note(labels, seen)
    picture_HW3 = drawn_HW3[: height * scale, : width * scale]
    if isinstance(labels, MaskLabels):
        picture_HW3[:] = _tinted(picture_HW3, labels.classes_HW, np.array([colour for _, colour in task.legend()]))
    else:
        picture_HW3[:] = task.draw(picture_HW3, labels)
    return drawn_HW3


def _labels(targets: Targets, height: int, width: int, scale: int) -> Labels | None:
    """Return the targets of a batch of one image as labels of its enlarged picture; None where there are none."""
    if targets.mask_BHW is not None:
        classes_HW = targets.mask_BHW[0, :height, :width].numpy()
        return MaskLabels(classes_HW.repeat(scale, axis=0).repeat(scale, axis=1))
    if targets.boxes_BN4 is not None and targets.label_BN is not None:
        is_box_N = targets.label_BN[0] != PADDING_LABEL
        return BoxLabels((targets.boxes_BN4[0, is_box_N] * scale).numpy(), targets.label_BN[0, is_box_N].numpy())
    if targets.class_B is not None:
        return ClassLabels(targets.class_B.numpy())
    return None


def _note(labels: Labels, seen: _Seen) -> None:
    ignored = IGNORE if isinstance(labels, MaskLabels) else IGNORE_LABEL
    values = set(np.unique(_indices(labels)).tolist())
    seen.has_ignored = seen.has_ignored or ignored in values
    seen.classes |= values - {ignored}


def _indices(labels: Labels) -> NDArray[Any]:
    if isinstance(labels, ClassLabels):
        return labels.class_1
    return labels.classes_HW if isinstance(labels, MaskLabels) else labels.labels_N


def _tinted(
    image_HW3: NDArray[np.uint8], classes_HW: NDArray[np.uint8], colours_C3: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return the image with a tint and an outline for each class; ignored pixels keep their colours, and are hatched.

    A task's own drawing has colours over grey, which hide what an augmentation does to those of the image; so would a
    tint of black, the background's colour: that has none.
    """
    table = np.full((256, 3), _IGNORE_RGB, np.float32)
    table[: len(colours_C3)] = colours_C3
    colours_HW3 = table[classes_HW]
    drawn_HW3 = image_HW3 * (1 - _OPACITY) + colours_HW3 * _OPACITY
    is_ignored_HW = classes_HW == IGNORE
    is_bare_HW = is_ignored_HW | ~colours_HW3.any(2)
    drawn_HW3[is_bare_HW] = image_HW3[is_bare_HW]
    rows, columns = np.indices(classes_HW.shape)
    line_HW = (rows + columns) % _HATCH_PERIOD < _HATCH_PERIOD // 3
    is_edge_HW = np.zeros(classes_HW.shape, np.bool_)
    for one, other in (
        ((slice(1, None),), (slice(None, -1),)),
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
    ):
        differs = classes_HW[one] != classes_HW[other]
        is_edge_HW[one] |= differs
        is_edge_HW[other] |= differs
    solid_HW = is_edge_HW | (is_ignored_HW & line_HW)
    drawn_HW3[solid_HW] = colours_HW3[solid_HW]
    result: NDArray[np.uint8] = drawn_HW3.round().astype(np.uint8)
    return result


def _legend(task: Task[Any, Any] | None, seen: _Seen) -> Legend:
    if task is None:
        return []
    classes = [entry for number, entry in enumerate(task.legend()) if number in seen.classes]
    return [*classes, (_IGNORED, _IGNORE_RGB)] if seen.has_ignored else classes


def _sheet(
    title: str,
    captions: Sequence[str],
    names: Sequence[Sequence[str]],
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    legend: Legend,
) -> Image.Image:
    """Return the cells in a grid: a title and captions for the columns above, a text over each cell, a legend below."""
    height, width = rows[0][0].shape[:2]
    size = min(max(width // _CELL_PER_LETTER, _SMALLEST_LETTER), _LARGEST_LETTER)
    letters, line = font(size), size + size // 2
    total_width = GAP + len(captions) * (width + GAP)
    strip = legend_strip(legend, total_width, size=size)
    wrapped = [[_wrapped(text, letters, width) for text in texts] for texts in names]
    above = line * max(len(text) for texts in wrapped for text in texts)
    top, step = GAP + 2 * line, above + height + GAP
    sheet = Image.new("RGB", (total_width, top + len(rows) * step + strip.height), "white")
    pen = ImageDraw.Draw(sheet)

    def write(left: int, upper: int, text: str, widest: int, colour: str) -> None:
        pen.text((left, upper + line // 2), _fitted(text, letters, widest), fill=colour, font=letters, anchor="lm")

    write(GAP, GAP, title, total_width - 2 * GAP, "black")
    for column, caption in enumerate(captions):
        write(GAP + column * (width + GAP), GAP + line, caption, width, "black")
    for number, (texts, row) in enumerate(zip(wrapped, rows, strict=True)):
        upper = top + number * step
        for column, (text, cell_HW3) in enumerate(zip(texts, row, strict=True)):
            left = GAP + column * (width + GAP)
            for place, part in enumerate(text, start=-len(text)):
                write(left, upper + above + place * line, part, width, "#606060")
            sheet.paste(Image.fromarray(cell_HW3), (left, upper + above))
    sheet.paste(strip, (0, sheet.height - strip.height))
    return sheet


def _wrapped(text: str, letters: ImageFont.FreeTypeFont, widest: int) -> list[str]:
    """Return the text in lines of whole parts, which commas divide; what is left after the last one ends that."""
    lines = [""]
    for part in text.split(", "):
        longer = f"{lines[-1]}, {part}" if lines[-1] else part
        if lines[-1] and len(lines) < _MOST_LINES and letters.getlength(f"{longer},") > widest:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] = longer
    return lines


def _fitted(text: str, letters: ImageFont.FreeTypeFont, widest: int) -> str:
    """Return the text, cut off where it is too wide."""
    if letters.getlength(text) <= widest:
        return text
    while text and letters.getlength(f"{text}…") > widest:
        text = text[:-1]
    return f"{text}…"
