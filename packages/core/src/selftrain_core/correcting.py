"""How people correct the files of a task's labels, and how it is known what they changed. NumPy only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from selftrain_core.labels import Labels

LabelsT = TypeVar("LabelsT", bound=Labels)


@dataclass(frozen=True, slots=True)
class Correcting:
    """What people who correct labels are told, in the README of an export.

    Attributes:
        files: What the folder of the label files holds.
        left_open: Where the files say nothing, since a policy kept nothing there; ``{policy}`` is its name.
        steps: What to do, whole sentences; ``{folder}`` is where the files are.
    """

    files: str = "the labels of all images"
    left_open: str = "What the policy {policy} did not keep is left open."
    steps: str = (
        "To correct labels: change them in their files, save these in their place, delete what is not to be used."
    )


class Correctable(Generic[LabelsT]):
    """What a task knows of labels that people corrected; the defaults suit maps, with a file for each image."""

    correcting = Correcting()
    """What people are told."""

    def said(self, labels: LabelsT) -> Any:
        """Return what labels say, as JSON values to compare with: here a digest, shared by equal labels alone."""
        hashed = hashlib.blake2b(digest_size=16)
        for each in fields(labels):
            value = getattr(labels, each.name)
            if value is not None:
                hashed.update(f"{each.name} {value.dtype} {value.shape}".encode())
                hashed.update(np.ascontiguousarray(value).tobytes())
        return hashed.hexdigest()

    def is_changed(self, labels: LabelsT, said: Any) -> bool:
        """Return whether labels say something else than those of which `said` told.

        Raises:
            ValueError: `said` is none of its values.
        """
        return bool(self.said(labels) != said)

    def ids_in(self, folder: Path, ids: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Return the images that files of all images still hold, each with its id there, and what belongs to none.

        Tools may write other names. It is asked only where the writer makes no file for each image.

        Args:
            folder: The writer's.
            ids: The images that were written.

        Raises:
            DataError: The files cannot be read.
        """
        return {id_: id_ for id_ in ids}, []
