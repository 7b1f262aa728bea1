"""The demo's scenes on disk: pictures, masks, lists of ids. The folder is whole or absent, however it ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from selftrain.scenes import CLASSES, SPLITS, Scene, SceneSettings, make_scene
from selftrain_core.errors import RunError

FORMAT = 2
"""Raised whenever the same settings give other scenes or other files."""


def write_scenes(folder: Path, settings: SceneSettings, told: Callable[[int, int], None] | None = None) -> bool:
    """Write the scenes and return True, or return False where they lie there already.

    ``images/<id>.png``; ``masks/<id>.png`` with class indices and ``boxes/<split>.json`` with COCO instances, for all
    but the unlabelled scenes; ``splits/<split>.txt`` with ids, ``splits/train.txt`` being labelled and unlabelled
    together; ``classes.json``; ``manifest.json``. Everything is written beside `folder`, which gets its name last.

    Args:
        folder: Where to; its parent is made.
        settings: Of the scenes.
        told: Told (written, in all) after each scene.

    Raises:
        RunError: The folder holds something else, or cannot be written.
        SelftrainError: scikit-learn is not installed.
    """
    manifest = {"format": FORMAT, "classes": list(CLASSES), "settings": asdict(settings)}
    if folder.exists():
        _check(folder, manifest)
        return False
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        if temporary.exists():
            shutil.rmtree(temporary)  # what an interrupted attempt left
        for name in ("images", "masks", "boxes", "splits"):
            (temporary / name).mkdir(parents=True)
        _write(temporary, settings, told)
        (temporary / "classes.json").write_text(
            json.dumps({"classes": list(CLASSES)}, indent=2) + "\n", encoding="utf-8"
        )
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        temporary.rename(folder)
    except OSError as error:
        raise RunError(f"the scenes cannot be written to {folder}: {error.strerror or error}") from error
    return True


def _check(folder: Path, manifest: dict[str, Any]) -> None:
    path = folder / "manifest.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} is not the demo's: {path} cannot be read; give another folder with -o") from error
    if found != manifest:
        raise RunError(
            f"{folder} holds scenes of other settings\n  found:    {json.dumps(found.get('settings'))}\n"
            f"  expected: {json.dumps(manifest['settings'])}\n  give another folder with -o, or delete this one"
        )


def _write(folder: Path, settings: SceneSettings, told: Callable[[int, int], None] | None) -> None:
    total = sum(settings.count(split) for split in SPLITS)
    ids: dict[str, list[str]] = {}
    written = 0
    for split in SPLITS:
        ids[split] = [f"{split}-{number:04}" for number in range(settings.count(split))]
        scenes: list[Scene] = []
        for number, id_ in enumerate(ids[split]):
            scene = make_scene(settings, split, number)
            _save(folder / "images" / f"{id_}.png", scene.image_HW3)
            if split != "unlabelled":
                _save(folder / "masks" / f"{id_}.png", scene.classes_HW)
                scenes.append(scene)
            written += 1
            if told:
                told(written, total)
        if scenes:
            instances = json.dumps(_instances(scenes, ids[split]))
            (folder / "boxes" / f"{split}.json").write_text(instances + "\n", encoding="utf-8")
    lists = {**ids, "train": ids["labelled"] + ids["unlabelled"]}
    for name, members in lists.items():
        (folder / "splits" / f"{name}.txt").write_text("".join(f"{id_}\n" for id_ in members), encoding="utf-8")


def _instances(scenes: Sequence[Scene], ids: Sequence[str]) -> dict[str, Any]:
    """Return the boxes of scenes as COCO instances; a category's id is its digit's place among `CLASSES`."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (scene, id_) in enumerate(zip(scenes, ids, strict=True), 1):
        height, width = scene.classes_HW.shape
        images.append({"id": number, "file_name": f"{id_}.png", "height": height, "width": width})
        for (left, top, right, bottom), label in zip(scene.boxes_N4.tolist(), scene.labels_N.tolist(), strict=True):
            box = [left, top, right - left, bottom - top]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": label, "bbox": box, "iscrowd": 0}
            )
    categories = [{"id": place, "name": name} for place, name in enumerate(CLASSES) if place]
    return {"images": images, "annotations": annotations, "categories": categories}


def _save(path: Path, values: np.typing.NDArray[np.uint8]) -> None:
    Image.fromarray(values).save(path)
