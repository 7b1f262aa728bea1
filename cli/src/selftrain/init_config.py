"""The commented configuration that ``selftrain init`` writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from selftrain.budget import HUMAN, PSEUDO, Schedule
from selftrain.data_parts import MAX_BOXES, PARTS, Parts, sources_of
from selftrain.found_data import DataFolder
from selftrain_core.files import write_text

SETTINGS: dict[str, Any] = {
    "backbone": {"name": "timm/tf_efficientnet_lite0", "init": "imagenet"},
    "augmentation": "augment/s1",
    "policy": "core/adaptive",
}
"""What is measured beside the task, and what the configuration below says."""
_CANDIDATES = 5000
"""As the task has it by default."""
_POLICIES = {
    "masks": "of each class the surest pixels, as many as its share of your labels suggests",
    "boxes": "of each class the surest boxes, as many in an image as your labels suggest",
}


def task_of(found: DataFolder) -> dict[str, Any]:
    """Return the task that learns from what a folder holds, with the settings that this needs.

    Where images have many boxes, there is place for those of 99 images in 100: every image takes as much memory, and
    the fullest may be far from the others. A teacher that found fewer would teach the rest as background.
    """
    task: dict[str, Any] = {"name": found.form.task}
    if found.usual_boxes > MAX_BOXES:
        task["max_boxes"] = found.usual_boxes
        task["prediction"] = {"max_detections": found.usual_boxes}
        if found.usual_boxes > _CANDIDATES:
            task["prediction"]["candidates"] = found.usual_boxes
    return task


_TEXT = """\
# Written by `selftrain init` for {folder}: {counts}.
# It is meant to take {minutes:g} minutes; measured on this machine, the estimate is {estimate:.0f}.
#   selftrain run {name} -o RUN
# Every setting there is, with its default: selftrain config show {name}

seed: 0                       # of everything random
{canvas:<29} # height and width to which images are fitted; multiples of 32. Images here are
                              # {image_height} × {image_width}; a larger canvas shows more, and takes longer

data:
  # Paths are relative to this file.
  sources:
{sources}
  labelled: {labelled}
{unlabelled:<29} # or an expression, such as: unlabelled + more
{validation:<29} # chooses which weights are 'selected'
{test:<29} # is read once, at the end
  classes: {classes}
{missing}
{task}
backbone:
  name: timm/tf_efficientnet_lite0     # small and fast; `selftrain plugins` lists others
  init: imagenet

augmentation:
  name: augment/s1
  flip_probability: 0.5       # 0 where left and right differ, as in writing

policy: core/adaptive         # {policy}

teacher:
{steps:<29} # as many as the time allows
  human: {human}                    # labelled images in each step

student:
{steps:<29} # the baseline gets as many images as both, in one training
  human: {human}
  pseudo: {pseudo}                   # images in each step that the teacher labelled

# A supervised model that sees as many images as teacher and student together: what the student has to beat.
baseline: true

validate_every_images: {validate_every}
"""


def write_config(path: Path, found: DataFolder, parts: Parts, plan: Schedule, minutes: float) -> list[Path]:
    """Write the configuration, and beside it the lists that the folder lacks; return the lists.

    Raises:
        RunError: A file cannot be written.
    """
    base = path.resolve().parent
    sources, expressions, written = _sources(path, found, parts)
    told = {part: f"  {part}: {expressions[part]}" for part in PARTS}
    shown_C = np.logical_or.reduce([found.shown[id_] for id_ in parts.ids["labelled"] if id_ in found.shown])
    rare = [name for name, is_shown in zip(found.classes, np.broadcast_to(shown_C, len(found.classes)), strict=True)
            if not is_shown]  # fmt: skip
    width, height = found.size[1], found.size[0]
    what = "masks" if found.form.name == "masks" else "boxes"
    write_text(
        path,
        _TEXT.format(
            folder=found.folder.resolve(), counts=counts(parts), minutes=minutes, estimate=plan.total / 60,
            name=path.name, canvas=f"canvas: {list(plan.canvas)}", image_height=height, image_width=width,
            sources=_indented(sources), classes=_classes(found, base), task=_task(found), policy=_POLICIES[what],
            missing=f"  allow_missing_classes: true # no labelled image that was read shows: {', '.join(rare)}\n"
            if rare else "",
            steps=f"  steps: {plan.steps}", human=HUMAN, pseudo=PSEUDO, validate_every=plan.validate_every,
            **{**told, "labelled": expressions["labelled"]},
        ),
    )  # fmt: skip
    return written


def _sources(
    path: Path, found: DataFolder, parts: Parts
) -> tuple[dict[str, dict[str, Any]], dict[str, str], list[Path]]:
    """Return the sources by name, the expression of each part, and the lists, which it writes."""
    base = path.resolve().parent
    folder = base / f"{path.stem}-lists"
    sources: dict[str, dict[str, Any]] = {}
    expressions, written = {}, []
    for part in PARTS:
        pieces = sources_of(found, part, parts.ids[part])
        names = [part if number == 1 else f"{part}-{number}" for number in range(1, len(pieces) + 1)]
        for name, (settings, ids) in zip(names, pieces, strict=True):
            list_path = parts.lists.get(part) if len(pieces) == 1 else None
            if list_path is None:
                folder.mkdir(parents=True, exist_ok=True)
                list_path = folder / f"{name}.txt"
                write_text(list_path, "".join(f"{id_}\n" for id_ in ids))
                written.append(list_path)
            source = {**settings, "list": str(list_path)}
            sources[name] = {key: _relative(key, value, base) for key, value in source.items()}
        expressions[part] = " + ".join(names)
    return sources, expressions, written


def _task(found: DataFolder) -> str:
    task = task_of(found)
    if len(task) == 1:
        return f"task: {task['name']}\n"
    lines = yaml.safe_dump({"task": task}, sort_keys=False).splitlines()
    notes = {"max_boxes": "as many as 99 of 100 images here have", "max_detections": "a teacher is to find all of them"}
    told = (f"{line:<29} # {notes[key]}" if (key := line.split(":")[0].strip()) in notes else line for line in lines)
    return "".join(f"{line}\n" for line in told)


def counts(parts: Parts) -> str:
    """Return how many images each part has, for people."""
    return ", ".join(f"{len(parts.ids[part]):,} {part}" for part in PARTS)


def _relative(key: str, value: Any, base: Path) -> Any:
    if key not in ("images", "masks", "list", "colours", "annotations", "labels", "data") or not isinstance(value, str):
        return value
    return os.path.relpath(Path(value).resolve(), base)


def _indented(sources: dict[str, dict[str, Any]]) -> str:
    text = yaml.safe_dump(sources, sort_keys=False, allow_unicode=True, width=1000)
    return "".join(f"    {line}\n" for line in text.splitlines()).rstrip("\n")


def _classes(found: DataFolder, base: Path) -> str:
    if found.class_file is not None:
        return _in_one_line([os.path.relpath(found.class_file.resolve(), base)])[1:-1]
    return f"{_in_one_line(list(found.classes))}  # from {found.classes_from}"


def _in_one_line(values: list[str]) -> str:
    return yaml.safe_dump(values, default_flow_style=True, allow_unicode=True, width=100_000).strip()
