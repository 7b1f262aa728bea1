"""``selftrain init``: from a folder of images and masks to a configuration that fits a time."""

from __future__ import annotations

import json
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import click

from selftrain.budget import FEWEST_STEPS, Canvas, Schedule, Speed, canvases, choose, needed_minutes
from selftrain.data_folder import DataFolder, look_at
from selftrain.data_parts import PARTS, Parts, share_out
from selftrain.init_config import SETTINGS, counts, write_config
from selftrain.options import json_option
from selftrain.summary_table import format_seconds, format_table
from selftrain_core.config import load_config
from selftrain_core.errors import DataError, RunError


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
@click.option("--force", is_flag=True, help="Write over FILE.")
@json_option("Print what was found and written, or the error, as JSON on stdout.")
def init(
    *, folder: Path, path: Path, minutes: float, images: str | None, masks: str | None, force: bool, as_json: bool
) -> None:
    """Look at the images and masks in DIR, measure this machine, and write a configuration that fits the time.

    DIR holds a folder of images and one of masks, each called as its image: of class indices, or of colours with a
    table of them (classes.csv: name,r,g,b). Class names come from classes.json or classes.txt. Images without a mask
    are the unlabelled ones. Lists (train.txt, val.txt, test.txt, labelled.txt, unlabelled.txt) are taken as they are;
    for those that are missing, images are chosen by a hash of their names.
    """
    if path.exists() and not force:
        raise RunError(f"{path} is there already; nothing was written\n  give another file with -o, or --force")
    found = look_at(folder, images, masks)
    parts = share_out(found)
    tell = partial(click.echo, err=as_json)
    tell(_as_text(found, parts))
    tell("\nmeasuring this machine …")
    plan = _plan(found, parts, minutes, tell)
    if plan.steps < FEWEST_STEPS:
        needed = needed_minutes(plan)
        raise DataError(
            f"{minutes:g} minutes are too short: even at {plan.canvas[0]}×{plan.canvas[1]} pixels this machine has "
            f"time for {max(0, plan.steps)} steps of each model, and fewer than {FEWEST_STEPS} teach nothing\n"
            f"  it needs about {needed:.1f} minutes: --minutes {ceil(needed + 0.1)}; or fewer unlabelled images"
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
        speed = measure(found, parts, canvas, SETTINGS, start)
        tell(
            f"  {canvas[0]}×{canvas[1]}: training {1 / speed.supervised:.3g} images/s, labelling "
            f"{1 / speed.labelling:.3g} images/s"
        )
        return speed

    return choose(canvases(found.size), measured, {part: len(parts.ids[part]) for part in PARTS}, minutes)


def _as_text(found: DataFolder, parts: Parts) -> str:
    height, width = found.size
    sizes = sorted(found.sizes)
    span = "" if sizes[0] == sizes[-1] else f", from {sizes[0][0]}×{sizes[0][1]} to {sizes[-1][0]}×{sizes[-1][1]}"
    total = max(1, int(found.pixels_C.sum()))
    lines = [
        f"images  {found.images}: {len(found.paths):,}, {height}×{width} pixels{span} (height × width)",
        f"masks   {found.masks}: {len(found.masked):,}, {found.source['name']}, called {found.source['mask_name']}",
        f"parts   {counts(parts)}",
        *(f"        {note}" for note in parts.notes),
        f"classes {len(found.classes)}, from {found.classes_from}; in {found.num_read:,} masks:",
        "",
        format_table([("class", "masks", "pixels"), *_rows(found, total)], right=(1, 2)),
        *(f"\nwarning: {warning}" for warning in found.warnings),
    ]
    return "\n".join(lines)


def _rows(found: DataFolder, total: int) -> list[tuple[str, str, str]]:
    images = [f"{count:,}" for count in found.images_C.tolist()]
    shares = [f"{100 * pixels / total:.2f} %" for pixels in found.pixels_C.tolist()]
    return list(zip([*found.classes, "(ignored)"], [*images, ""], shares, strict=True))


def _as_json(found: DataFolder, parts: Parts, plan: Schedule, path: Path, lists: list[Path]) -> dict[str, Any]:
    total = max(1, int(found.pixels_C.sum()))
    return {
        "schema": 1,
        "config": str(path),
        "lists": [str(each) for each in lists],
        "images": {part: len(parts.ids[part]) for part in PARTS},
        "source": found.source,
        "size": list(found.size),
        "classes": [
            {"name": name, "masks": images, "pixels": pixels / total}
            for name, images, pixels in zip(
                found.classes, found.images_C.tolist(), found.pixels_C.tolist()[:-1], strict=True
            )
        ],
        "warnings": found.warnings,
        "canvas": list(plan.canvas),
        "steps": plan.steps,
        "estimate_seconds": plan.total,
        "seconds": plan.seconds,
    }
