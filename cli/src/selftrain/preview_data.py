"""Which images ``selftrain augment preview`` shows: of a configuration, a folder with labels, or images alone.

No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selftrain.data_folder import forms_in, look_at
from selftrain.found_data import spread
from selftrain.init_config import task_of
from selftrain_core import sets
from selftrain_core.config import DataConfig, load_config
from selftrain_core.config_model import DataSourceChoice, TaskChoice
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError
from selftrain_core.index import build_source
from selftrain_core.inputs import find_inputs

_CONFIG_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class PreviewImage:
    """An image, and what reads its labels; None where it has none."""

    entry: Entry
    source: DataSource | None = None


@dataclass(frozen=True)
class PreviewData:
    """Images to show, and what is known of them.

    Attributes:
        images: The images.
        task: Which task learns from their labels; None where they have none.
        classes: Ordered class names.
        canvas: Of the configuration, where there is one.
        augmentation: Settings of the configuration's augmentation and its name; empty without a configuration.
        warnings: What people should know of the data.
    """

    images: list[PreviewImage]
    task: TaskChoice | None = None
    classes: tuple[str, ...] = ()
    canvas: tuple[int, int] | None = None
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def is_config(path: Path) -> bool:
    """Return whether a path is called as a configuration is."""
    return path.suffix.lower() in _CONFIG_SUFFIXES and not path.is_dir()


def find_preview_data(path: Path, most: int, output: Path) -> PreviewData:
    """Return at most `most` images of what `path` names, evenly spread.

    Args:
        path: A configuration, a folder, an image or a list of them.
        most: At most so many images.
        output: The file to write, which is no input.

    Raises:
        ConfigError: The configuration is wrong.
        DataError: There are no images, or the folder's labels cannot be understood.
    """
    if is_config(path):
        return _of_config(path, most)
    if not path.exists():
        raise DataError(f"{path} does not exist; give a configuration (.yaml), a folder, an image, or a list (.txt)")
    if path.is_dir() and forms_in(path.absolute()):
        return _of_labelled_folder(path, most)
    inputs = [(id_, file) for id_, file in find_inputs([path], output) if file != output.absolute()]
    if not inputs:
        raise DataError(f"{path} holds no image but {output}, which is to be written")
    return PreviewData([PreviewImage(Entry(id_, file)) for id_, file in spread(inputs, most)])


def _of_config(path: Path, most: int) -> PreviewData:
    config = load_config(path)
    classes = config.data.class_names()
    labelled = _labelled(config.data, classes)
    if not labelled:
        raise DataError(f"data.labelled: '{config.data.labelled}' holds no image")
    chosen = [labelled[id_] for id_ in spread(sorted(labelled), most)]
    apart = [name for name in ("teacher", "student") if getattr(config, name).augmentation]
    warnings = [f"{name}.augmentation is not what is shown; this is `augmentation`" for name in apart]
    return PreviewData(chosen, config.task, classes, config.canvas, config.augmentation.model_dump(), warnings)


def _labelled(data: DataConfig, classes: tuple[str, ...]) -> dict[str, PreviewImage]:
    """Return the labelled images by id; of other parts only those that the expression names are looked for."""
    found: dict[str, PreviewImage] = {}
    for sign, name in sets.parse(data.labelled, data.sources):
        source = build_source(data.sources[name], classes)
        for entry in source.scan():
            if sign > 0:
                found.setdefault(entry.id, PreviewImage(entry, source))
            else:
                found.pop(entry.id, None)
    return found


def _of_labelled_folder(path: Path, most: int) -> PreviewData:
    found = look_at(path)
    entries = [(each, entry) for each in found.sets for entry in each.entries]
    telling = [(each, entry) for each, entry in entries if entry.id in found.shown and found.shown[entry.id].any()]
    sources: dict[str, DataSource] = {}
    images = []
    for each, entry in spread(telling or entries, most):
        key = str(each.source)
        if key not in sources:
            sources[key] = build_source(DataSourceChoice.model_validate(each.source), found.classes)
        images.append(PreviewImage(entry, sources[key]))
    found.usual_boxes = max(found.boxes_of.values(), default=0)  # of what is shown, no box is to be left out
    task = TaskChoice.model_validate(task_of(found))
    return PreviewData(images, task, found.classes, warnings=found.warnings)
