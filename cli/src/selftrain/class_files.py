"""Files in which people keep the names of classes."""

from __future__ import annotations

import json
from pathlib import Path

from selftrain_core.errors import DataError

CLASS_FILES = ("classes.json", "classes.txt", "class_names.txt", "labels.txt", "names.txt", "obj.names")


def class_names(folder: Path) -> tuple[tuple[str, ...], str, Path | None]:
    """Return class names from the first of `CLASS_FILES` in a folder, its name, and its path where it is JSON.

    Raises:
        DataError: The file holds no list of distinct names.
    """
    for name in CLASS_FILES:
        path = folder / name
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8-sig")
        try:
            names = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
        except ValueError as error:
            raise DataError(f"{path} is no JSON: {error}") from error
        names = names.get("classes") if isinstance(names, dict) else names
        names = [each for each in names or [] if each]
        if not names or not all(isinstance(each, str) for each in names) or len(set(names)) < len(names):
            raise DataError(f"{path} holds no list of distinct class names")
        return tuple(names), name, path if path.suffix == ".json" else None
    return (), "", None
