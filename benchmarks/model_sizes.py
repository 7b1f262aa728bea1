"""The paper's models counted here, beside what was published: ``model_sizes.py``.

Parameters, and multiply-adds of a forward pass of one image, on the meta device. RetinaNets have the released head's 91
logits (classes 0 to 90 of COCO); published counts of segmentation include ImageNet's classifier, which is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timing import print_table

from selftrain.recipes.models import MODELS
from selftrain_core.config_model import BackboneChoice, TaskChoice
from selftrain_core.sizing import model_size

_BILLION = 1e9


@dataclass(frozen=True)
class Row:
    """A model, and what was published of it.

    Attributes:
        name: What it is called.
        model: One of `MODELS`; its sections are used.
        classes: How many.
        published: Parameters in millions, multiply-adds in billions.
        canvas: Side, where it is not the model's own.
        backbone: Where it is not the model's own.
        task: Settings of the task that differ.
    """

    name: str
    model: str
    classes: int
    published: tuple[float, float]
    canvas: int | None = None
    backbone: str | None = None
    task: tuple[tuple[str, Any], ...] = ()


SMALL_HEAD = (("channels", 128),)
ROWS = [
    Row("SpineNet-49S RetinaNet", "spinenet-143", 91, (11.9, 33.8), 640, "spinenet/49s", SMALL_HEAD),
    Row("SpineNet-49 RetinaNet", "spinenet-143", 91, (28.5, 85.4), 640, "spinenet/49"),
    Row("SpineNet-96 RetinaNet", "spinenet-143", 91, (43.0, 265.4), 1024, "spinenet/96"),
    Row("SpineNet-143 RetinaNet", "spinenet-143", 91, (67.0, 524.0)),
    Row("SpineNet-190 RetinaNet", "spinenet-190", 91, (163.6, 1885.0)),
    Row("EfficientNet-B7 NAS-FPN", "b7-nas-fpn", 21, (71.0, 60.0)),
    Row("EfficientNet-L2 NAS-FPN", "l2-nas-fpn", 21, (485.0, 229.0)),
]


def main() -> None:
    """Count and print."""
    rows = []
    for row in ROWS:
        model = MODELS[row.model]
        task = dict(model.task)
        if row.task:
            task["head"] = {**task["head"], **dict(row.task)}
        side = row.canvas or model.canvas
        backbone = {"name": row.backbone} if row.backbone else model.backbone("random")
        size = model_size(
            TaskChoice.model_validate(task),
            [f"class {number}" for number in range(row.classes)],
            BackboneChoice.model_validate(backbone),
            (side, side),
        )
        published = [f"{number:g}" for number in row.published]
        macs = size.macs / _BILLION
        rows.append([f"{row.name}, {side}²", f"{size.parameters:,}", published[0], f"{macs:,.2f}", published[1]])
    heads = ["model", "parameters", "published, millions", "multiply-adds, billions", "published"]
    print_table("Sizes of the paper's models", heads, rows)


if __name__ == "__main__":
    main()
