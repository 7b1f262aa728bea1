"""``selftrain init``: from a folder of images with masks or boxes to a configuration that fits a time."""

from __future__ import annotations

import json
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import click
import numpy as np

from selftrain.budget import FEWEST_STEPS, Canvas, Schedule, Speed, canvases, choose, first_to_show, needed_minutes
from selftrain.data_folder import FORMS, look_at
from selftrain.data_parts import PARTS, Parts, share_out
from selftrain.found_data import DataFolder
from selftrain.init_config import SETTINGS as SETTINGS
from selftrain.init_config import counts, task_of, write_config
from selftrain.options import json_option
from selftrain.summary_table import format_seconds, format_table
from selftrain_core.config import load_config
from selftrain_core.errors import DataError, RunError

SLOWER = 1.2
"""How much longer than measured the advice on time allows for: the next measurement of a busy machine differs."""


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", "path", metavar="FILE", type=click.Path(path_type=Path), default=Path("my.yaml"),
    show_default=True, help="The configuration to write.",
)  # fmt: skip
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
    help="The time that the whole run may take on this machine.",
)  # fmt: skip
@click.option("--images", metavar="NAME", help="The folder of images in DIR, where it has no usual name.")
@click.option("--masks", metavar="NAME", help="The folder of masks in DIR.")
@click.option(
    "--format", "form", type=click.Choice(list(FORMS)), help="The form of the labels, where there are several."
)
@click.option("--force", is_flag=True, help="Write over FILE.")
@json_option("Print what was found and written, or the error, as JSON on stdout.")
def init(
    *,
    folder: Path,
    path: Path,
    minutes: float,
    images: str | None,
    masks: str | None,
    form: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Look at the images and labels in DIR, measure this machine, and write a configuration that fits the time.

    For masks, DIR holds a folder of images and one of masks, each called as its image: of class indices, or of colours
    with a table of them (classes.csv: name,r,g,b). Class names come from classes.json or classes.txt.

    For boxes, DIR holds images with COCO files (one of all images, or one for each part: train.json, val.json,
    test.json), with Pascal VOC files (Annotations/*.xml), or with YOLO files (data.yaml, or labels/*.txt).

    Images without labels are the unlabelled ones. Lists (train.txt, val.txt, test.txt, labelled.txt, unlabelled.txt)
    are taken as they are; for parts that are missing, images are chosen by a hash of their names.
    """
    if path.exists() and not force:
        raise RunError(f"{path} is there already; nothing was written\n  give another file with -o, or --force")
    found = look_at(folder, images, masks, form)
    parts = share_out(found)
    tell = partial(click.echo, err=as_json)
    tell(_as_text(found, parts))
    tell("\nmeasuring this machine …")
    plan = _plan(found, parts, minutes, tell)
    if plan.steps < FEWEST_STEPS:
        needed = needed_minutes(plan)
        enough = ceil(needed * SLOWER)
        raise DataError(
            f"{minutes:g} minutes are too short: even at {plan.canvas[0]}×{plan.canvas[1]} pixels this machine has "
            f"time for {max(0, plan.steps)} steps of each model, and fewer than {FEWEST_STEPS} teach nothing\n"
            f"  it needs about {needed:.1f} minutes: --minutes {enough}; or fewer unlabelled images"
        )
    lists = write_config(path, found, parts, plan, minutes)
    load_config(path)
    if as_json:
        click.echo(json.dumps(_as_json(found, parts, plan, path, lists), indent=2, ensure_ascii=False))
        return
    spent = ", ".join(f"{what} {format_seconds(seconds)}" for what, seconds in plan.seconds.items())
    tell(f"\nestimate {format_seconds(plan.total)}: {spent}")
    tell(f"canvas {plan.canvas[0]}×{plan.canvas[1]}, {plan.steps:,} steps of teacher and student each\n")
    for written in (path, *lists):
        tell(f"  {written}")
    tell(f"\nnext: selftrain run {path} -o runs/first")


def _plan(found: DataFolder, parts: Parts, minutes: float, tell: Any) -> Schedule:
    from selftrain.measuring import import_seconds, measure

    start = import_seconds()

    def measured(canvas: Canvas) -> Speed:
        speed = measure(found, parts, canvas, {"task": task_of(found), **SETTINGS}, start)
        tell(
            f"  {canvas[0]}×{canvas[1]}: training {1 / speed.supervised:.3g} images/s, labelling "
            f"{1 / speed.labelling:.3g} images/s"
        )
        return speed

    offered = canvases(found.size)
    images = {part: len(parts.ids[part]) for part in PARTS}
    smallest = first_to_show(offered, found.relative_side)
    return choose(offered, measured, images, minutes, smallest)


def _as_text(found: DataFolder, parts: Parts) -> str:
    height, width = found.size
    sizes = sorted(found.sizes)
    span = "" if sizes[0] == sizes[-1] else f", from {sizes[0][0]}×{sizes[0][1]} to {sizes[-1][0]}×{sizes[-1][1]}"
    what = "masks" if found.form.name == "masks" else "boxes"
    unit, places = "masks" if what == "masks" else "images", ", ".join(map(str, found.images))
    lines = [
        f"images  {places}: {len(found.paths):,}, {height}×{width} pixels{span} (height × width)",
        *(f"{what:<7} {each.where}: {each.told}{f', {each.part}' if each.part else ''}" for each in found.sets),
        f"parts   {counts(parts)}",
        *(f"        {note}" for note in parts.notes),
        f"classes {len(found.classes)}, from {found.classes_from}; in {len(found.shown):,} {unit}:",
        "",
        _table(found),
        *(f"\nwarning: {warning}" for warning in found.warnings),
    ]
    return "\n".join(lines)


def _table(found: DataFolder) -> str:
    """Return what there is of each class, as a table."""
    names, images = [*found.classes, "(ignored)"], [*(f"{count:,}" for count in found.images_C.tolist()), ""]
    if found.sides_C is None:
        total = max(1, int(found.amounts_C.sum()))
        shares = [f"{100 * pixels / total:.2f} %" for pixels in found.amounts_C.tolist()]
        rows = list(zip(names, images, shares, strict=True))
        return format_table([("class", "masks", "pixels"), *rows], right=(1, 2))
    boxes = [f"{count:,}" for count in found.amounts_C.tolist()]
    sides = [*("–" if np.isnan(side) else f"{side:.0f}" for side in found.sides_C), ""]
    rows_of_four = list(zip(names, images, boxes, sides, strict=True))
    return format_table([("class", "images", "boxes", "median √area"), *rows_of_four], right=(1, 2, 3))


def _as_json(found: DataFolder, parts: Parts, plan: Schedule, path: Path, lists: list[Path]) -> dict[str, Any]:
    total = max(1, int(found.amounts_C.sum()))
    is_masks = found.form.name == "masks"
    return {
        "schema": 1,
        "config": str(path),
        "lists": [str(each) for each in lists],
        "images": {part: len(parts.ids[part]) for part in PARTS},
        "format": found.form.name,
        "sources": [each.source for each in found.sets],
        "size": list(found.size),
        "classes": [
            {"name": name, "masks": images, "pixels": amount / total}
            if is_masks
            else {"name": name, "images": images, "boxes": amount}
            for name, images, amount in zip(
                found.classes, found.images_C.tolist(), found.amounts_C.tolist()[:-1], strict=True
            )
        ],
        "warnings": found.warnings,
        "canvas": list(plan.canvas),
        "steps": plan.steps,
        "estimate_seconds": plan.total,
        "seconds": plan.seconds,
    }
