"""What a person looks at: a sheet of validation images, and the curves of the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from selftrain_core.batch import collate, float_images
from selftrain_core.data_source import DataSource
from selftrain_core.files import replacing
from selftrain_core.images import read_image
from selftrain_core.index import Index
from selftrain_core.interfaces import Policy, Task
from selftrain_core.legend import with_legend
from selftrain_core.prediction import evaluating
from selftrain_core.recorder import read_metrics
from selftrain_core.samples import HumanLabels, one_picture

NUM_IMAGES = 6
TILE_HEIGHT = 192
_GAP = 4
_CAPTION = 20


def draw_validation(
    path: Path,
    task: Task[Any, Any],
    index: Index,
    sources: Mapping[str, DataSource],
    models: Mapping[str, nn.Module],
    policy: Policy,
    canvas: tuple[int, int],
) -> None:
    """Write a sheet: one row per validation image; image, truth, first model, what the policy keeps of it, the others.

    The pseudo-label column is the teacher's prediction on the validation image, judged as on an unlabelled one.
    """
    rows = index.rows("validation")
    chosen = rows[np.linspace(0, len(rows) - 1, min(NUM_IMAGES, len(rows))).astype(int)]
    human = HumanLabels(index, sources)
    names = list(models)
    captions = ["image", "truth", _short(names[0]), "pseudo label", *map(_short, names[1:])]
    sheet: list[list[NDArray[np.uint8]]] = []
    images_C = np.zeros(task.num_classes, np.int64)
    for row in chosen:
        entry = index.entry(int(row))[1]
        image = read_image(entry.path)
        seen = {name: _predict(task, model, entry.path, canvas) for name, model in models.items()}
        kept = task.apply(seen[names[0]], task.decide(seen[names[0]], policy))
        shown = [human(int(row))[0], seen[names[0]], kept, *(seen[name] for name in names[1:])]
        images_C += sum(task.statistics(labels).images_C for labels in shown)
        sheet.append([image, *(task.draw(image, labels) for labels in shown)])
    legend = [entry for entry, images in zip(task.legend(), images_C, strict=True) if images]
    with replacing(path) as temporary:
        with_legend(np.asarray(contact_sheet(sheet, captions)), legend).save(temporary, format="PNG")


def _predict(task: Task[Any, Any], model: nn.Module, path: Path, canvas: tuple[int, int]) -> Any:
    device = next(model.parameters()).device
    batch = collate([one_picture(path, path.stem, canvas)]).to(device)
    with evaluating(model):
        (prediction,) = task.predict(model, replace(batch, image_B3HW=float_images(batch.image_B3HW)))
    return task.as_labels(prediction)


def contact_sheet(rows: Sequence[Sequence[NDArray[np.uint8]]], captions: Sequence[str]) -> Image.Image:
    """Return a sheet of pictures of one height, uint8 RGB, with a caption over each column."""
    tiles = [[_tile(picture) for picture in row] for row in rows]
    widths = [max(row[column].width for row in tiles) for column in range(len(captions))]
    height = _CAPTION + len(tiles) * (TILE_HEIGHT + _GAP)
    sheet = Image.new("RGB", (sum(widths) + _GAP * (len(widths) + 1), height), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    left = _GAP
    for column, (caption, width) in enumerate(zip(captions, widths, strict=True)):
        pen.text((left, 3), caption, fill="black", font=font)
        for number, row in enumerate(tiles):
            sheet.paste(row[column], (left, _CAPTION + number * (TILE_HEIGHT + _GAP)))
        left += width + _GAP
    return sheet


def _short(name: str) -> str:
    """Return ``student 2`` for ``round-2/student``; the only model of its kind needs no number."""
    number, _, kind = name.partition("/")
    return kind if number in ("round-0", "round-1") else f"{kind} {number.removeprefix('round-')}"


def _tile(picture: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(picture)
    width = max(1, round(image.width * TILE_HEIGHT / image.height))
    return image.resize((width, TILE_HEIGHT), Image.Resampling.BILINEAR)


def draw_curves(path: Path, stages: Mapping[str, Path], task: Task[Any, Any]) -> None:
    """Write the validation score of each model over the images it had seen."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, folder in stages.items():
        points = [(line["images_seen"], line["validation"]) for line in read_metrics(folder) if "validation" in line]
        seen, scores = [seen for seen, _ in points], [score[task.metric_name] for _, score in points]
        axes.plot(seen, scores, marker="o", markersize=3, label=_short(name))
    axes.set_xlabel("training images this model has seen")
    axes.set_ylabel(f"validation {task.metric_name} ({task.unit})")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
