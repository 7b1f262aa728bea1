"""The commented configuration that ``selftrain init`` writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from selftrain.budget import HUMAN, PSEUDO, Schedule
from selftrain.data_folder import DataFolder
from selftrain.data_parts import PARTS, Parts
from selftrain_core.files import write_text

SETTINGS: dict[str, Any] = {
    "task": "segmentation/semantic",
    "backbone": {"name": "timm/tf_efficientnet_lite0", "init": "imagenet"},
    "augmentation": "augment/s1",
    "policy": "core/adaptive",
}
"""What is measured, and what the configuration below says."""

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
  labelled: labelled
  unlabelled: unlabelled      # or an expression, such as: unlabelled + more
  validation: validation      # chooses which weights are 'selected'
  test: test                  # is read once, at the end
  classes: {classes}
{missing}
task: segmentation/semantic

backbone:
  name: timm/tf_efficientnet_lite0     # small and fast; `selftrain plugins` lists others
  init: imagenet

augmentation:
  name: augment/s1
  flip_probability: 0.5       # 0 where left and right differ, as in writing

policy: core/adaptive         # of each class the surest pixels, as many as its share of your labels suggests

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
    lists = dict(parts.lists)
    written: list[Path] = []
    folder = base / f"{path.stem}-lists"
    for part in PARTS:
        if part not in lists:
            folder.mkdir(parents=True, exist_ok=True)
            lists[part] = folder / f"{part}.txt"
            write_text(lists[part], "".join(f"{id_}\n" for id_ in parts.ids[part]))
            written.append(lists[part])
    sources: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        images = {"name": "core/images", "images": str(found.images)} if part == "unlabelled" else found.source
        source = {**images, "list": str(lists[part])}
        sources[part] = {key: _relative(key, value, base) for key, value in source.items()}
    rare = [name for name, count in zip(found.classes, found.images_C, strict=True) if not count]
    width, height = found.size[1], found.size[0]
    write_text(
        path,
        _TEXT.format(
            folder=found.folder.resolve(), counts=counts(parts), minutes=minutes, estimate=plan.total / 60,
            name=path.name, canvas=f"canvas: {list(plan.canvas)}", image_height=height, image_width=width,
            sources=_indented(sources), classes=_classes(found, base),
            missing="  allow_missing_classes: true # no mask that was read shows: " + ", ".join(rare) + "\n"
            if rare else "",
            steps=f"  steps: {plan.steps}", human=HUMAN, pseudo=PSEUDO, validate_every=plan.validate_every,
        ),
    )  # fmt: skip
    return written


def counts(parts: Parts) -> str:
    """Return how many images each part has, for people."""
    return ", ".join(f"{len(parts.ids[part]):,} {part}" for part in PARTS)


def _relative(key: str, value: Any, base: Path) -> Any:
    if key not in ("images", "masks", "list", "colours") or not isinstance(value, str):
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
